//! Rows 41 to 43 of the fault catalogue: packets that a stranger can send. They show defects that are not
//! mended upstream, so they lie outside this repository; without them the test is skipped.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test tells what it measured and what it skips")]

mod peers;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use peers::{Node, Peer, is_status, picture};
use serde_json::json;

const DOMAIN: u16 = 66;

/// The most that the node's memory grows while the packets come and for `after` longer, MB.
fn growth(node: &Node, kit: &Path, args: &[String], after: Duration) -> u64 {
    let before = node.memory();
    let mut attacker = Command::new("python3").arg(kit).args(args).spawn().unwrap();
    let (mut most, mut last) = (0, Instant::now());
    while last.elapsed() < after {
        most = most.max(node.memory().saturating_sub(before));
        if attacker.try_wait().unwrap().is_none() {
            last = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    attacker.wait().unwrap();
    most
}

#[test]
fn packets_of_strangers_cost_no_memory_and_no_frame() {
    let kit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/kit/atk.py");
    if !kit.is_file() {
        eprintln!("SKIP: no {}", kit.display());
        return;
    }
    let Some(mut peer) = Peer::start(DOMAIN) else { return };
    let node = Node::start(DOMAIN, &["-p", "cameras:=[camera]"]);
    peer.read_status("/camera/status");
    peer.repeat(&picture("/camera/image_raw", 1), is_status);
    peer.tell(&json!({"do": "guid"}));
    let guid = peer.wait("GUID", |line| line.get("guid").is_some())["guid"].to_string();
    let guid = guid.trim_matches('"').to_owned();
    // Where the two participants of the node listen: discovery at even ports, data at odd ones.
    let base = 7400 + 250 * u32::from(DOMAIN) + 10;
    let attacks = [
        ("frag", 1, vec!["4000000000".to_owned(), "3".to_owned()], 64),
        ("assemblers", 1, vec!["60000".to_owned(), "20000".to_owned()], 64),
        ("prefixes", 1, vec!["200000".to_owned()], 16),
        ("gap", 0, vec![guid.clone(), (1u64 << 40).to_string()], 64),
        ("hb", 0, vec![guid, (1u64 << 62).to_string()], 64),
    ];
    for (stamp, (name, odd, more, limit)) in (2..).zip(attacks) {
        for participant in [0, 2] {
            let port = (base + participant + odd).to_string();
            let args = [&[name.to_owned(), port], &more[..]].concat();
            let most = growth(&node, &kit, &args, Duration::from_secs(2));
            eprintln!("{name}: {most} MB more");
            assert!(most < limit, "{name}: {most} MB");
        }
        peer.repeat(&picture("/camera/image_raw", stamp), |line| {
            is_status(line) && line["stamp"] == json!([stamp, 5])
        });
    }
}
