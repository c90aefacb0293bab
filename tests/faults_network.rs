//! Rows 40 and 58 of the fault catalogue: what others in the network may send.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test tells what it measured")]

mod peers;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use peers::{Node, Peer, call_services, is_status, picture};
use serde_json::{Value, json};

/// A node that has segmented a frame and gets more at this rate, their stamps 100 s, 101 s, and so on.
fn running(domain: u16, rate: u32) -> Option<(Node, Peer)> {
    let mut peer = Peer::start(domain)?;
    let node = Node::start(domain, &[]);
    peer.read_status("/camera/status");
    peer.repeat(&picture("/camera/image_raw", 1), is_status);
    let mut play = picture("/camera/image_raw", 100);
    (play["do"], play["rate"], play["seconds"]) = (json!("play"), json!(rate), json!(300));
    peer.tell(&play);
    peer.wait("first of many", is_status);
    Some((node, peer))
}

/// Of the frames since the last call: those segmented, those counted as dropped, and those sent.
fn frames(peer: &Peer) -> [u64; 3] {
    let lines = peer.lines.try_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let statuses: Vec<Value> = lines.filter(is_status).collect();
    assert!(statuses.iter().all(|status| status["state"] == 0), "{statuses:#?}");
    let (first, last) = (&statuses[0], &statuses[statuses.len() - 1]);
    let number = |status: &Value, key: &str| status.pointer(key).unwrap().as_u64().unwrap();
    let since = |key| number(last, key) - number(first, key);
    [statuses.len() as u64, since("/dropped"), since("/stamp/0") + 1]
}

/// So many mutated packets at 10,000 a second: at least 95 % of the frames, bounded memory, a clean end.
fn mutated(domain: u16, packets: u32, seed: u32) {
    let Some((mut node, peer)) = running(domain, 2) else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let before = node.memory();
    let mut mutate = Command::new(root.join(".venv/bin/python"));
    let args = [packets, 10_000, seed].map(|number| number.to_string());
    mutate.arg(root.join("tests/peers/mutate.py")).args(args);
    let start = Instant::now();
    assert!(mutate.env("ROS_DOMAIN_ID", domain.to_string()).status().unwrap().success());
    let took = start.elapsed();
    let [frames, dropped, sent] = frames(&peer);
    let more = node.memory().saturating_sub(before);
    eprintln!(
        "{packets} packets in {took:.0?}: {frames} of {sent} frames, {dropped} dropped, {more} MB more"
    );
    assert!(sent >= 8 && 100 * frames >= 95 * sent, "{frames} of {sent} frames");
    assert!(more < 64, "{more} MB");
    peer.wait("frame after", |line| is_status(line) && line["state"] == 0);
    node.signal("-TERM");
    let (status, log) = node.end();
    assert!(status.success() && !log.contains("panicked"), "{log}");
}

#[test]
fn row_40_random_and_mutated_packets_leave_frames_and_memory_alone() {
    mutated(92, 50_000, 40);
}

#[test]
#[ignore = "slow: make faults"]
fn row_40_three_hundred_thousand_mutated_packets_leave_frames_and_memory_alone() {
    mutated(94, 300_000, 41);
}

/// One after the other as they are answered, ten under way: some 500 a second in the dev profile on two busy cores.
#[test]
fn row_58_thousands_of_parameter_calls_leave_frames_and_memory_alone() {
    let Some((mut node, peer)) = running(93, 5) else { return };
    let change = json!({"parameters": [["jpeg_quality", ["integer", 50]]]});
    let flood = |calls: u32| {
        let flood = json!({"name": "set_parameters", "calls": calls, "fields": change});
        call_services(93, "/ood_segmentation", &json!([["flood", flood]])).unwrap()
    };
    flood(1000); // as many as are kept of parameter events
    let before = node.memory();
    let brought = flood(2000);
    let more = node.memory().saturating_sub(before);
    let [frames, dropped, sent] = frames(&peer);
    eprintln!("{brought}: {frames} of {sent} frames, {dropped} dropped, {more} MB more");
    assert!(sent > 10 && 100 * frames >= 95 * sent, "{frames} of {sent} frames");
    assert!(more < 16, "{more} MB"); // what is kept of events and replies; 11 MB after 12000 calls, then flat
    node.signal("-TERM");
    let (status, log) = node.end();
    assert!(status.success(), "{log}");
}
