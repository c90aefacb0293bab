//! Stamps, clocks and several publishers over real DDS, with an independent peer (Cyclone DDS).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod peers;

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use peers::{Node, Peer, command, is_status, weights};
use serde_json::{Value, json};

/// A picture whose every pixel is `fill`, with a stamp of that many milliseconds.
fn picture(ms: u64, fill: u8) -> Value {
    json!({"do": "image", "topic": "/camera/image_raw", "height": 42, "width": 70,
        "encoding": "mono8", "fill": fill, "stamp": [ms / 1000, ms % 1000 * 1_000_000]})
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

/// What the status says of a picture that is sent now: its reason, empty when it was segmented.
fn reason(peer: &mut Peer, picture: &Value) -> String {
    peer.tell(picture);
    let status = peer.wait("status", |line| is_status(line) && line["stamp"] == picture["stamp"]);
    assert_eq!(status["state"] == 0, status["reason"] == "", "{status}");
    status["reason"].as_str().unwrap().to_owned()
}

/// A node that has segmented a frame, and a peer that reads its status.
fn running(domain: u16, parameters: &[&str], first: &Value) -> Option<(Node, Peer)> {
    let mut peer = Peer::start(domain)?;
    let args: Vec<_> = parameters.iter().flat_map(|parameter| ["-p", parameter]).collect();
    let node = Node::start(domain, &args);
    peer.read_status("/camera/status");
    peer.repeat(first, |line| is_status(line) && line["state"] == 0);
    Some((node, peer))
}

/// Waits for a status of `/diagnostics` with this level and word; returns its values.
fn diagnosed(peer: &Peer, name: &str, level: u8, word: &str) -> Value {
    let mut found = Value::Null;
    peer.wait(&format!("{name} of level {level} with {word}"), |line| {
        let Some(statuses) = line["status"].as_array() else { return false };
        let name = format!("ood_segmentation: {name}");
        let Some(status) = statuses.iter().find(|status| status["name"] == *name) else {
            return false;
        };
        found = status.clone();
        status["level"] == level && status["message"].as_str().unwrap().contains(word)
    });
    found
}

fn value(status: &Value, key: &str) -> String {
    let values = status["values"].as_array().unwrap();
    let pair = values.iter().find(|pair| pair["key"] == key);
    pair.unwrap_or_else(|| panic!("no {key}: {status}"))["value"].as_str().unwrap().to_owned()
}

fn read_diagnostics(peer: &mut Peer) {
    peer.ask(&json!({"do": "read", "topic": "/diagnostics", "type": "diagnostics",
        "reliable": true}));
}

#[test]
fn every_stamp_that_cannot_be_true_has_its_reason_and_the_next_frame_its_masks() {
    let Some((mut node, mut peer)) = running(80, &[], &picture(1_000, 1)) else { return };
    let cases = [
        (picture(0, 2), "stamp_zero"),
        (picture(50_000, 3), ""),
        (picture(49_500, 4), "stamp_old"),
        (picture(50_100, 5), ""),
        (picture(50_100, 5), "duplicate"),
        (picture(50_100, 6), ""),
        (picture(now_ms() + 60_000, 7), "stamp_future"),
        (picture(50_200, 8), ""),
        (picture(now_ms(), 9), ""), // on time, so that from now on old ones are too old
        (picture(now_ms() - 500, 10), "stamp_old"),
        (picture(now_ms(), 11), ""),
    ];
    for (picture, expected) in cases {
        assert_eq!(reason(&mut peer, &picture), expected, "{picture}");
    }
    node.signal("-INT");
    let (_, log) = node.end();
    assert!(log.contains("1 stamp_zero") && log.contains("1 duplicate"), "{log}");
    assert_eq!(log.matches("set use_sim_time").count(), 1, "{log}");
}

#[test]
fn a_stamp_of_zero_is_taken_where_it_is_allowed() {
    let first = picture(0, 1);
    let Some((_node, mut peer)) = running(81, &["allow_zero_stamp:=true"], &first) else { return };
    assert_eq!([reason(&mut peer, &picture(0, 2)), reason(&mut peer, &picture(0, 2))], ["", ""]);
}

#[test]
fn a_camera_that_was_on_time_is_stale_when_it_lags_and_good_again_when_it_does_not() {
    let parameters = ["max_age_ms:=1500"];
    let Some((_node, mut peer)) = running(82, &parameters, &picture(now_ms(), 1)) else { return };
    let on_time = now_ms();
    assert_eq!(reason(&mut peer, &picture(on_time, 2)), "");
    peer.ask(&json!({"do": "sleep", "seconds": 2.0}));
    let late = picture(on_time + 100, 3);
    peer.tell(&late);
    let status = peer.wait("late frame", |line| is_status(line) && line["stamp"] == late["stamp"]);
    assert_eq!(status["reason"], "stale", "{status}");
    assert!(status["text"].as_str().unwrap().contains("max_age_ms = 1500"), "{status}");
    assert_eq!(reason(&mut peer, &picture(now_ms(), 4)), "");
}

#[test]
fn a_bag_that_begins_again_is_a_new_epoch_with_masks_from_its_second_frame_at_the_latest() {
    let Some((mut node, mut peer)) = running(83, &[], &picture(1_000, 1)) else { return };
    read_diagnostics(&mut peer);
    let loops = 5;
    for _ in 0..loops {
        let reasons: Vec<_> = (0..20_u8)
            .map(|i| reason(&mut peer, &picture(10_000 + 100 * u64::from(i), i)))
            .collect();
        assert!(reasons[1..].iter().all(String::is_empty), "{reasons:?}");
    }
    let status = diagnosed(&peer, "input/camera", 2, "the newest image came"); // the bag is over
    assert_eq!(value(&status, "epochs"), (loops - 1).to_string());
    node.signal("-INT");
    let (_, log) = node.end();
    assert_eq!(log.matches("a new epoch").count(), loops - 1, "{log}");
}

#[test]
fn simulated_time_is_that_of_clock_and_without_it_ages_are_unknown_and_that_is_said() {
    let parameters = ["use_sim_time:=true"];
    let Some((_node, mut peer)) = running(84, &parameters, &picture(1_000, 1)) else { return };
    read_diagnostics(&mut peer);
    let before = picture(now_ms() + 60_000, 2);
    peer.tell(&before);
    let status = peer.wait("status", |line| is_status(line) && line["stamp"] == before["stamp"]);
    assert_eq!((&status["state"], &status["latency_ms"]), (&json!(0), &Value::Null), "{status}");
    diagnosed(&peer, "clock", 1, "nothing comes on /clock");
    // The clock of a bag; a first tick may be lost.
    let tick = json!({"do": "clock", "stamp": [500, 0]});
    for _ in 0..3 {
        peer.ask(&tick);
        peer.ask(&json!({"do": "sleep", "seconds": 0.2}));
    }
    diagnosed(&peer, "clock", 0, "follows /clock");
    peer.ask(&tick);
    let frame = picture(499_750, 3);
    peer.tell(&frame);
    let status = peer.wait("status", |line| is_status(line) && line["stamp"] == frame["stamp"]);
    assert_eq!((&status["state"], &status["latency_ms"]), (&json!(0), &json!(250.0)), "{status}");
    peer.ask(&tick);
    assert_eq!(reason(&mut peer, &picture(500_600, 4)), "stamp_future");
}

#[test]
fn of_two_publishers_the_first_is_read_until_it_is_silent() {
    let Some((_node, mut first)) = running(85, &[], &picture(1_000, 1)) else { return };
    let Some(mut second) = Peer::start(85) else { return };
    read_diagnostics(&mut first);
    let play = |from: u64, fill: u8, seconds: f64| {
        let mut play = picture(from, fill);
        (play["do"], play["rate"]) = (json!("play"), json!(10));
        play["seconds"] = json!(seconds);
        play
    };
    second.ask(&json!({"do": "offer", "topic": "/camera/image_raw"}));
    first.tell(&play(10_000, 2, 6.0));
    second.tell(&play(500_000, 3, 20.0));
    let status = diagnosed(&first, "input/camera", 1, "multi_writer");
    assert!(value(&status, "other_writers").parse::<u64>().unwrap() > 0, "{status}");
    let mut seconds = Vec::new();
    first.wait("frames of the second after those of the first", |line| {
        if is_status(line) {
            assert_eq!(line["reason"], "", "{line}");
            seconds.push(line["stamp"][0].as_u64().unwrap());
        }
        seconds.last().is_some_and(|&last| last >= 500)
    });
    assert!(seconds.iter().rev().skip(1).all(|&second| second < 100), "{seconds:?}");
}

#[test]
fn a_change_of_size_is_followed_and_told_and_so_is_a_low_rate() {
    let parameters = ["nominal_rate_hz:=50.0", "stale_after_ms:=5000"];
    let Some((_node, mut peer)) = running(86, &parameters, &picture(1_000, 1)) else { return };
    read_diagnostics(&mut peer);
    peer.ask(&json!({"do": "read", "topic": "/camera/ood/image", "type": "image"}));
    let mut play = picture(10_000, 2);
    (play["do"], play["rate"], play["seconds"]) = (json!("play"), json!(10), json!(3));
    peer.tell(&play);
    let status = diagnosed(&peer, "input/camera", 1, "less than 80 % of nominal_rate_hz = 50");
    assert!(value(&status, "jitter_ms").parse::<f64>().unwrap() >= 0.0, "{status}");
    peer.wait("end of the play", |line| line["done"] == "play");
    for i in 0..40 {
        let mut picture = picture(200_000 + 10 * i, 3);
        if i % 2 == 0 {
            (picture["height"], picture["width"]) = (json!(30), json!(50));
        }
        peer.tell(&picture);
        peer.tell(&json!({"do": "sleep", "seconds": 0.1}));
    }
    let status = diagnosed(&peer, "input/camera", 1, "its size changes more than once a second");
    assert!(value(&status, "resizes").parse::<u64>().unwrap() >= 2, "{status}");
    for (ms, height, width) in [(300_000, 42, 70), (300_100, 30, 50), (300_200, 42, 70)] {
        let mut picture = picture(ms, 4);
        (picture["height"], picture["width"]) = (json!(height), json!(width));
        peer.tell(&picture);
        let is_mask = |line: &Value| line["type"] == "image" && line["stamp"] == picture["stamp"];
        let mask = peer.wait("mask", is_mask);
        assert_eq!((&mask["height"], &mask["width"]), (&json!(height), &json!(width)), "{mask}");
    }
}

#[test]
fn another_publisher_of_an_output_is_told() {
    let Some((mut node, mut peer)) = running(91, &[], &picture(1_000, 1)) else { return };
    read_diagnostics(&mut peer);
    peer.ask(&json!({"do": "offer", "topic": "/camera/ood/image"}));
    let status = diagnosed(&peer, "output", 1, "output_conflict: /camera/ood/image");
    assert!(!status["message"].as_str().unwrap().contains("/diagnostics"), "{status}");
    node.signal("-INT");
    assert_eq!(node.end().1.matches("output_conflict").count(), 1);
}

#[test]
fn the_check_reports_and_ends_with_a_code() {
    let folder = tempfile::tempdir().unwrap();
    let weights = weights(folder.path());
    let run = |weights: &Path| {
        let weights = format!("model.weights:={}", weights.display());
        let mut command: Command = command(87);
        let args = ["--check", "--ros-args", "-p", &weights, "-p", "batch:=2"];
        let cpu = ["-p", "model.device:=cpu", "-p", "model.cuda_graphs:=true"];
        let output = command.args(args).args(cpu).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code().unwrap(), text, String::from_utf8(output.stderr).unwrap())
    };
    let (code, report, log) = run(&weights);
    assert!(
        code == 0 && report.contains("check    good") && report.contains("sha256"),
        "{report} {log}"
    );
    assert!(log.contains("warm after passes of 1 to 2 windows"), "{log}");
    assert!(report.contains("way      plain passes and copies\n"), "{report}");
    assert!(log.contains("no CUDA graphs, no pinned copies: opening the CUDA plug-in"), "{log}");
    let (code, report, _) = run(&folder.path().join("none.safetensors"));
    assert_eq!((code, report.as_str()), (66, ""));
}
