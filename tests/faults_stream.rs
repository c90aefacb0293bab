//! Rows 24 to 37 of the fault catalogue that no other test injects: cameras and readers that come, go and
//! stand still.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test tells what it measured")]

mod peers;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use peers::{Node, Peer, is_status, picture};
use serde_json::{Value, json};

fn play(topic: &str, stamp: u32, [rate, seconds]: [u32; 2]) -> Value {
    let mut play = picture(topic, stamp);
    (play["do"], play["rate"], play["seconds"]) = (json!("play"), json!(rate), json!(seconds));
    play
}

/// Large enough for what is held to show: 300x200.
fn large(mut command: Value) -> Value {
    (command["height"], command["width"]) = (json!(200), json!(300));
    command
}

fn signal(peer: &Peer, name: &str) {
    let id = peer.child.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

fn read_masks(peer: &mut Peer, reliable: bool) {
    let topic = "/camera/ood/image";
    peer.ask(&json!({"do": "read", "topic": topic, "type": "image", "reliable": reliable}));
}

/// The longest pause between two statuses that a camera at 10 Hz gets in this time.
fn longest_pause(camera: &Peer, time: Duration) -> Duration {
    let (end, mut last, mut longest) = (Instant::now() + time, Instant::now(), Duration::ZERO);
    while Instant::now() < end {
        camera.wait("status", is_status);
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    longest
}

#[test]
fn row_26_a_camera_that_starts_again_is_heard() {
    let (Some(mut camera), Some(mut reader)) = (Peer::start(120), Peer::start(120)) else { return };
    let _node = Node::start(120, &[]);
    read_masks(&mut reader, false);
    camera.tell(&play("/camera/image_raw", 1, [10, 60]));
    reader.wait("mask before", |line| line["type"] == "image");
    drop(camera); // killed
    let mut again = Peer::start(120).unwrap();
    let offered = Instant::now();
    again.ask(&json!({"do": "offer", "topic": "/camera/image_raw"}));
    again.tell(&play("/camera/image_raw", 5000, [10, 60]));
    let new = |line: &Value| line["stamp"][0].as_i64().is_some_and(|sec| sec >= 5000);
    reader.wait("mask after", |line| line["type"] == "image" && new(line));
    let took = offered.elapsed();
    eprintln!("first mask {took:.2?} after the new camera offered its topic");
    assert!(took <= Duration::from_secs(2), "{took:?}");
}

/// Frames and their median age in ms, of each camera whose status is read, in this time.
fn pace(peer: &Peer, time: Duration) -> BTreeMap<String, (usize, f64)> {
    while peer.lines.try_recv().is_ok() {}
    let (end, mut ages) = (Instant::now() + time, BTreeMap::<String, Vec<f64>>::new());
    while Instant::now() < end {
        let status = peer.wait("status", is_status);
        assert_eq!(status["state"], 0, "{status}");
        let camera = status["camera"].as_str().unwrap().to_owned();
        ages.entry(camera).or_default().push(status["age_ms"].as_f64().unwrap());
    }
    let median = |ages: &mut Vec<f64>| {
        ages.sort_by(f64::total_cmp);
        (ages.len(), ages[ages.len() / 2])
    };
    ages.iter_mut().map(|(camera, ages)| (camera.clone(), median(ages))).collect()
}

#[test]
#[ignore = "slow: make faults"]
fn row_30_of_four_cameras_one_dies_and_the_others_do_not_notice() {
    let (Some(mut peer), Some(mut dying)) = (Peer::start(121), Peer::start(121)) else { return };
    let args = ["-p", "cameras:=[a, b, c, d]", "-p", "stale_after_ms:=1500"];
    let _node = Node::start(121, &args);
    let mut reader = Peer::start(121).unwrap();
    let diagnostics = json!({"do": "read", "topic": "/diagnostics", "type": "diagnostics",
        "reliable": true});
    peer.ask(&diagnostics);
    peer.ask(&json!({"do": "read", "topic": "/ood_segmentation/heartbeat", "type": "heartbeat",
        "reliable": true}));
    dying.tell(&play("/d/image_raw", 1, [3, 600]));
    let mut others = Vec::new();
    for name in ["a", "b", "c"] {
        let Some(mut camera) = Peer::start(121) else { return };
        camera.tell(&play(&format!("/{name}/image_raw"), 1, [3, 600]));
        reader.read_status(&format!("/{name}/status"));
        others.push(camera);
    }
    let states = |line: &Value| {
        let statuses = line.get("status")?.as_array()?.iter();
        let inputs = statuses.filter_map(|status| {
            let name = status["name"].as_str()?.strip_prefix("ood_segmentation: input/")?;
            let state = status["values"].as_array()?.iter().find(|pair| pair["key"] == "state")?;
            Some((name.to_owned(), state["value"].as_str()?.to_owned()))
        });
        Some(inputs.collect::<BTreeMap<_, _>>())
    };
    let all = |line: &Value, d: &[&str]| {
        states(line).is_some_and(|states| {
            let live = ["a", "b", "c"].iter().all(|name| states[*name] == "active");
            live && d.contains(&&*states["d"])
        })
    };
    peer.wait("four live cameras", |line| all(line, &["active"]));
    let before = pace(&reader, Duration::from_secs(14));
    drop(dying);
    peer.wait("three live cameras and a dead one", |line| all(line, &["stale", "no_publisher"]));
    peer.wait("the whole degraded", |line| {
        line["message"].as_str().is_some_and(|text| text.contains("input/d"))
            && line.to_string().contains("DEGRADED")
    });
    let after = pace(&reader, Duration::from_secs(14));
    eprintln!("frames and median age in ms, before {before:?} and after {after:?}");
    assert_eq!(before.len(), 3);
    for (camera, (frames, _)) in &before {
        let frames_after = after[camera].0;
        assert!(frames.abs_diff(frames_after) * 100 <= 5 * frames, "{camera}: {frames_after}");
    }
    // Which of them waits for which is chance, so their ages count together. Less to do makes them
    // faster, if anything.
    let age = |of: &BTreeMap<String, (usize, f64)>| of.values().map(|it| it.1).sum::<f64>() / 3.0;
    let (age, age_after) = (age(&before), age(&after));
    assert!(age_after <= 1.05 * age + 1.0, "{age_after} ms, before {age} ms");
}

#[test]
fn row_33_a_late_reader_gets_the_last_status_at_once_and_the_next_mask() {
    let (Some(mut peer), Some(mut late)) = (Peer::start(122), Peer::start(122)) else { return };
    let _node = Node::start(122, &[]);
    peer.read_status("/camera/status");
    peer.repeat(&picture("/camera/image_raw", 7), is_status);
    late.tell(&json!({"do": "read", "topic": "/camera/status", "type": "status", "reliable": true,
        "latched": true}));
    let status = late.wait("the status of before", is_status);
    assert_eq!((&status["stamp"][0], &status["state"]), (&json!(7), &json!(0)), "{status}");
    read_masks(&mut late, false);
    let (end, mut stamp) = (Instant::now() + peers::PATIENCE, 8);
    while late.lines.try_recv().is_err() {
        assert!(Instant::now() < end, "no mask came");
        peer.tell(&picture("/camera/image_raw", stamp));
        peer.wait("its status", |line| line["stamp"] == json!([stamp, 5]));
        stamp += 1;
    }
}

#[test]
fn row_37_without_readers_of_masks_there_is_a_status_for_every_frame() {
    let Some(mut peer) = Peer::start(123) else { return };
    let _node = Node::start(123, &[]);
    peer.read_status("/camera/status");
    peer.repeat(&picture("/camera/image_raw", 1), is_status);
    for stamp in 10..15 {
        peer.tell(&picture("/camera/image_raw", stamp));
        let status = peer.wait("its status", |line| line["stamp"] == json!([stamp, 5]));
        assert_eq!(status["state"], 0, "{status}");
    }
    read_masks(&mut peer, false);
    peer.repeat(&picture("/camera/image_raw", 20), |line| line["type"] == "image");
}

/// What a camera at 4 Hz got in 10 s.
#[derive(Debug)]
struct Got {
    frames: usize,
    /// From the end of the work on a frame to its status, ms: looking at the picture, encoding and
    /// publishing; median and 99th percentile.
    publish_ms: [f64; 2],
    /// Between two statuses.
    longest: Duration,
}

fn ten_seconds(camera: &Peer) -> Got {
    while camera.lines.try_recv().is_ok() {}
    let (end, mut publish_ms) = (Instant::now() + Duration::from_secs(10), Vec::new());
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    while Instant::now() < end {
        let status = camera.wait("status", is_status);
        longest = longest.max(last.elapsed());
        last = Instant::now();
        let of = |key: &str| status[key].as_f64().unwrap();
        let parts = ["wait_ms", "decode_ms", "preprocess_ms", "inference_ms", "postprocess_ms"];
        publish_ms.push(of("age_ms") - parts.map(of).iter().sum::<f64>());
    }
    publish_ms.sort_by(f64::total_cmp);
    let frames = publish_ms.len();
    Got { frames, publish_ms: [publish_ms[frames / 2], publish_ms[frames * 99 / 100]], longest }
}

/// A reader is stopped for 10 s: what the camera got before and meanwhile, the node's growth in MB, and how
/// long after its return the reader gets a picture that was taken after it.
fn stopped_reader(domain: u16, reliable: bool) -> Option<([Got; 2], u64, Duration)> {
    let (mut camera, mut reader) = (Peer::start(domain)?, Peer::start(domain)?);
    let kind = if reliable { "reliable" } else { "best_effort" };
    let node = Node::start(domain, &["-p", &format!("mask_reliability:={kind}")]);
    camera.read_status("/camera/status");
    read_masks(&mut reader, reliable);
    camera.tell(&large(play("/camera/image_raw", 1, [4, 600])));
    reader.wait("a mask before", |line| line["type"] == "image");
    let before = ten_seconds(&camera);
    let memory = node.memory();
    signal(&reader, "-STOP");
    let meanwhile = ten_seconds(&camera);
    let grown = node.memory().saturating_sub(memory);
    while reader.lines.try_recv().is_ok() {}
    let newest = camera.wait("status", is_status)["stamp"][0].as_i64().unwrap();
    signal(&reader, "-CONT");
    let back = Instant::now();
    reader.wait("a fresh mask", |line| line["stamp"][0].as_i64().is_some_and(|sec| sec > newest));
    let fresh = back.elapsed();
    eprintln!(
        "before {before:?}, meanwhile {meanwhile:?}, {grown} MB more, fresh mask after {fresh:.2?}"
    );
    Some(([before, meanwhile], grown, fresh))
}

/// The others get as much as before, and the node does not wait for the reader.
fn unmoved([before, meanwhile]: &[Got; 2]) {
    assert!(100 * meanwhile.frames + 100 >= 95 * before.frames, "{meanwhile:?}");
    assert!(meanwhile.publish_ms[0] <= before.publish_ms[0] + 5.0, "{meanwhile:?}");
    assert!(meanwhile.longest < Duration::from_secs(2), "{meanwhile:?}");
}

#[test]
#[ignore = "slow: make faults"]
fn row_34_a_reader_that_stands_still_costs_the_node_nothing() {
    let Some((got, grown, fresh)) = stopped_reader(124, false) else { return };
    unmoved(&got);
    assert!(grown <= 32 && fresh <= Duration::from_secs(1), "{grown} MB {fresh:?}");
}

#[test]
#[ignore = "slow: make faults"]
fn row_36_a_full_window_of_a_reliable_reader_never_makes_the_node_wait() {
    let Some((got, grown, _)) = stopped_reader(125, true) else { return };
    unmoved(&got);
    assert!(grown <= 64, "{grown} MB"); // 256 masks of 60 kB
}

#[test]
#[ignore = "slow: make faults"]
fn row_35_what_was_held_for_a_reader_that_was_killed_stays_bounded() {
    let (Some(mut camera), Some(mut reader)) = (Peer::start(126), Peer::start(126)) else { return };
    let node = Node::start(126, &["-p", "mask_reliability:=reliable"]);
    camera.read_status("/camera/status");
    read_masks(&mut reader, true);
    camera.tell(&large(play("/camera/image_raw", 1, [10, 600])));
    reader.wait("a mask before", |line| line["type"] == "image");
    let before = node.memory();
    drop(reader); // killed
    let pause = longest_pause(&camera, Duration::from_secs(15));
    let grown = node.memory().saturating_sub(before);
    eprintln!("longest pause {pause:.2?}, {grown} MB more after the lease");
    assert!(pause < Duration::from_secs(2) && grown <= 32, "{pause:?} {grown}");
}
