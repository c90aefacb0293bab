//! Rows 45 to 49 of the fault catalogue: a link that loses, delays and doubles packets, goes away and comes
//! back. The node is in one network namespace, its camera and its reader in another.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test tells what it measured")]

#[path = "peers/link.rs"]
mod link;
mod peers;

use std::thread;
use std::time::{Duration, Instant};

use link::{Link, NODE};
use peers::{Node, Peer, is_status, picture};
use serde_json::{Value, json};

const DOMAIN: u16 = 70;

/// A camera at 10 Hz whose stamps are the time.
fn play(peer: &mut Peer) {
    let mut play = picture("/camera/image_raw", 1);
    (play["do"], play["now"]) = (json!("play"), json!(true));
    (play["rate"], play["seconds"], play["timeout"]) = (json!(10), json!(200), json!(60));
    peer.tell(&play);
}

fn start(link: &Link) -> Node {
    let wrap = link.node();
    Node::start_in(DOMAIN, &[], &[], &[&*wrap[0], &*wrap[1], &*wrap[2], &*wrap[3]])
}

/// The node on its side, and on the other a camera that also reads the status, with frames going through.
fn running(link: &Link) -> Option<(Node, Peer)> {
    let mut peer = link.peer(DOMAIN)?;
    let node = start(link);
    peer.read_status("/camera/status");
    peer.ask(&json!({"do": "read", "topic": "/diagnostics", "type": "diagnostics",
        "reliable": true}));
    play(&mut peer);
    peer.wait("frame before", segmented);
    Some((node, peer))
}

fn segmented(line: &Value) -> bool {
    is_status(line) && line["state"] == 0
}

/// Seconds of a stamp.
fn stamp(line: &Value) -> f64 {
    line["stamp"][0].as_f64().unwrap() + line["stamp"][1].as_f64().unwrap() / 1e9
}

fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// How long it takes from now until the status of a frame comes that was taken after now.
fn recovery(peer: &Peer) -> Duration {
    let (start, taken) = (Instant::now(), now());
    peer.wait("frame after", |line| segmented(line) && stamp(line) > taken);
    start.elapsed()
}

/// How long after a link was down for this long frames go through again.
fn outage(seconds: u64) -> Option<Duration> {
    let link = Link::new()?;
    let (mut node, peer) = running(&link)?;
    link.down(NODE);
    thread::sleep(Duration::from_secs(seconds));
    link.up(NODE);
    let took = recovery(&peer);
    eprintln!("link down for {seconds} s: first status {took:.2?} after it came up");
    node.signal("-TERM");
    let (status, log) = node.end();
    assert!(status.success(), "{log}");
    Some(took)
}

#[test]
#[ignore = "slow: make faults"]
fn row_48_a_link_that_was_down_for_5_s_is_used_again_within_3_s() {
    let Some(took) = outage(5) else { return };
    assert!(took <= Duration::from_secs(3), "{took:?}");
}

#[test]
#[ignore = "slow: make faults"]
fn row_48_a_link_that_was_down_for_15_s_is_used_again_within_5_s() {
    let Some(took) = outage(15) else { return };
    assert!(took <= Duration::from_secs(5), "{took:?}");
}

/// A node under other addresses ends and, started again as systemd does it, segments: how long both take
/// beside its start, which is libtorch's.
fn again(link: &Link, node: &mut Node, peer: &Peer) -> Duration {
    let changed = Instant::now();
    let (status, log) = node.end();
    let end = changed.elapsed();
    assert_eq!(status.code(), Some(75), "{log}");
    assert!(log.contains("nobody knows the node"), "{log}");
    let started = Instant::now();
    *node = self::start(link);
    node.wait("is running");
    let start = started.elapsed();
    let frame = recovery(peer);
    eprintln!("ended after {end:.2?}, started in {start:.2?}, first status {frame:.2?} later");
    end + frame
}

#[test]
#[ignore = "slow: make faults"]
fn row_47_a_node_that_starts_without_a_network_sees_the_camera_when_there_is_one() {
    let Some(link) = Link::new() else { return };
    let Some(mut peer) = link.peer(DOMAIN) else { return };
    link.ip(NODE, &["address", "flush", "dev", link::DEVICE]);
    link.down(NODE);
    let mut node = start(&link);
    peer.read_status("/camera/status");
    play(&mut peer);
    node.wait("is running");
    thread::sleep(Duration::from_secs(5));
    link.address(NODE, "10.9.0.1/24");
    let took = again(&link, &mut node, &peer);
    assert!(took <= Duration::from_secs(5), "{took:?}");
}

#[test]
#[ignore = "slow: make faults"]
fn row_49_another_address_is_used() {
    let Some(link) = Link::new() else { return };
    let Some((mut node, peer)) = running(&link) else { return };
    link.address(NODE, "10.9.0.77/24");
    let took = again(&link, &mut node, &peer);
    assert!(took <= Duration::from_secs(5), "{took:?}");
}

/// What came in this time: the longest pause between two frames, frames segmented, and the reasons of the
/// others.
fn listen(peer: &Peer, time: Duration) -> (Duration, usize, Vec<String>) {
    let (end, mut last, mut longest) = (Instant::now() + time, Instant::now(), Duration::ZERO);
    let (mut frames, mut reasons) = (0, Vec::new());
    while Instant::now() < end {
        let status = peer.wait("status", is_status);
        if status["state"] == 0 {
            longest = longest.max(last.elapsed());
            (last, frames) = (Instant::now(), frames + 1);
        } else {
            reasons.push(status["reason"].as_str().unwrap().to_owned());
        }
    }
    (longest, frames, reasons)
}

#[test]
#[ignore = "slow: make faults"]
fn row_45_packets_that_are_lost_deafen_nobody_and_are_counted() {
    let Some(mut link) = Link::bad() else { return };
    let Some((_node, peer)) = running(&link) else { return };
    // Of the frames that come without loss: on a busy machine the camera does not keep its 10 Hz.
    let (_, whole, _) = listen(&peer, Duration::from_secs(10));
    for (loss, seconds, least) in [(0.001, 10, 95), (0.01, 20, 85), (0.05, 40, 60)] {
        link.set(loss, 0, 0, 0.0);
        let (pause, frames, _) = listen(&peer, Duration::from_secs(seconds));
        let share = 1000 * frames as u64 / (whole as u64 * seconds);
        eprintln!(
            "{} % of the packets lost: {share} % of the frames, longest pause {pause:.2?}",
            100.0 * loss
        );
        assert!(pause < Duration::from_secs(3) && share >= least, "{loss}: {share} % {pause:?}");
    }
    let [given, lost] = link.set(0.0, 0, 0, 0.0);
    let took = recovery(&peer);
    eprintln!("{lost} of {given} packets were lost; a frame {took:.2?} after the last of them");
    assert!(lost > 50 && took <= Duration::from_secs(3), "{lost} {took:?}");
    let counted = |line: &Value| {
        let pairs =
            line["status"].as_array()?.iter().filter_map(|status| status["values"].as_array());
        let lost = pairs.flatten().find(|pair| pair["key"] == "lost_in_transport")?;
        lost["value"].as_str()?.parse::<u64>().ok()
    };
    peer.wait("count of the frames lost", |line| counted(line).is_some_and(|lost| lost > 0));
}

#[test]
#[ignore = "slow: make faults"]
fn row_46_delay_overtaking_and_doubled_packets_are_borne() {
    let Some(mut link) = Link::bad() else { return };
    let Some((mut node, peer)) = running(&link) else { return };
    link.set(0.0, 100, 150, 0.2);
    let (pause, frames, reasons) = listen(&peer, Duration::from_secs(20));
    eprintln!("{frames} of 200 frames, longest pause {pause:.2?}, refused: {reasons:?}");
    assert!(frames > 100 && pause < Duration::from_secs(3), "{frames} {pause:?}");
    let known = ["stamp_old", "stale", "duplicate"];
    assert!(reasons.iter().all(|reason| known.contains(&&**reason)), "{reasons:?}");
    link.set(0.0, 0, 0, 0.0);
    let took = recovery(&peer);
    assert!(took <= Duration::from_secs(3), "{took:?}");
    node.signal("-TERM");
    let (status, log) = node.end();
    assert!(status.success() && !log.contains("panicked"), "{log}");
}
