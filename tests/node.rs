//! The real binary over real DDS, with an independent peer (Cyclone DDS) as cameras and as readers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test tells what it measured")]

mod peers;

use std::net::UdpSocket;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use peers::{Node, Peer, command, is_status, picture, weights};
use serde_json::{Value, json};

#[test]
fn every_output_comes_back_with_the_frames_own_header_under_remapped_names() {
    let Some(mut peer) = Peer::start(30) else { return };
    let remaps =
        ["-r", "__ns:=/car", "-r", "camera/image_raw:=/front", "-r", "camera/ood/image:=mask"];
    let mut node = Node::start(30, &remaps);
    let outputs = [
        ("/car/camera/semantic/image", "image", "mono8", 42 * 70),
        ("/car/camera/semantic/confidence", "image", "mono8", 42 * 70),
        ("/car/mask", "image", "mono8", 42 * 70),
        ("/car/camera/ood/score", "image", "32FC1", 4 * 42 * 70),
        ("/car/camera/overlay/image", "image", "rgb8", 3 * 42 * 70),
        ("/car/camera/semantic/image/compressed", "compressed", "mono8; png compressed ", 0),
        ("/car/mask/compressed", "compressed", "mono8; png compressed ", 0),
        ("/car/camera/overlay/image/compressed", "compressed", "rgb8; jpeg compressed bgr8", 0),
    ];
    for (topic, kind, ..) in outputs {
        peer.ask(&json!({"do": "read", "topic": topic, "type": kind}));
    }
    peer.read_status("/car/camera/status");
    let reliable = |stamp| {
        let mut picture = picture("/front", stamp);
        picture["reliable"] = json!(true);
        picture
    };
    peer.repeat(&reliable(1), is_status);
    peer.tell(&reliable(77));
    let mut seen = std::collections::BTreeSet::new();
    peer.wait("complete set of outputs", |line| {
        if line["stamp"] != json!([77, 5]) || line["frame_id"] != "front_optical" {
            return false;
        }
        let topic = line["topic"].as_str().unwrap();
        seen.insert(topic.to_owned());
        let Some((_, kind, format, length)) = outputs.iter().find(|output| output.0 == topic)
        else {
            assert_eq!((&line["state"], &line["camera"]), (&json!(0), &json!("camera")), "{line}");
            assert_eq!((&line["height"], &line["width"]), (&json!(42), &json!(70)), "{line}");
            assert_eq!(line["model_sha256"].as_str().unwrap().len(), 64, "{line}");
            return seen.len() == outputs.len() + 1;
        };
        if *kind == "image" {
            assert_eq!((&line["height"], &line["width"]), (&json!(42), &json!(70)), "{line}");
            assert_eq!(
                (&line["encoding"], &line["length"]),
                (&json!(format), &json!(length)),
                "{line}"
            );
            assert_eq!(line["step"].as_u64().unwrap() * 42, *length, "{line}");
        } else {
            assert_eq!(line["format"], *format, "{line}");
        }
        seen.len() == outputs.len() + 1
    });
    node.signal("-INT");
    let (status, log) = node.end();
    assert!(status.success(), "{log}");
    assert!(
        log.contains("[car.ood_segmentation]: camera: ") && log.contains(" segmented, "),
        "{log}"
    );
    assert!(log.contains("reading /front (reliable)"), "{log}");
}

#[test]
fn a_frame_that_cannot_be_used_gets_its_reason_and_the_next_one_its_masks() {
    let Some(mut peer) = Peer::start(31) else { return };
    let mut node = Node::start(31, &["-p", "cameras:=[left, right]"]);
    peer.read_status("/left/status");
    peer.read_status("/right/status");
    peer.repeat(&picture("/left/image_raw", 1), is_status);
    let jpeg = |data: &str, stamp: u32| {
        json!({"do": "compressed", "topic": "/right/image_raw/compressed", "base64": data,
            "stamp": [stamp, 4], "frame_id": "right_optical"})
    };
    peer.repeat(&jpeg("/9j/4AAQSkZJRg==", 3), is_status);
    let changed = |key: &str, value: Value| {
        let mut picture = picture("/left/image_raw", 50);
        picture[key] = value;
        picture
    };
    let bad = [
        (changed("encoding", json!("rgb42")), "encoding", "rgb42"),
        (changed("step", json!(69)), "layout_step", "69"),
        (changed("length", json!(100)), "layout_short", "100"),
        (changed("height", json!(0)), "size_zero", "70x0"),
        (changed("width", json!(9000)), "size_limit", "9000"),
        (jpeg("/9j/4AAQSkZJRg==", 50), "decode", ""),
        (jpeg("bm90IGEgcGljdHVyZQ==", 51), "decode", ""),
    ];
    for (picture, reason, word) in bad {
        peer.tell(&picture);
        let status = peer.wait(reason, is_status);
        assert_eq!((&status["state"], &status["reason"]), (&json!(1), &json!(reason)), "{status}");
        assert!(status["text"].as_str().unwrap().contains(word), "{status}");
        assert_eq!(status["stamp"], picture["stamp"], "{status}");
        assert_eq!(status["frame_id"], picture["frame_id"], "{status}");
    }
    // A string of 4 GiB, says its length.
    let lie = json!({"do": "lie", "topic": "/left/image_raw", "base64": "AQAAAAAAAAD/////"});
    peer.repeat(&lie, |line| line["reason"] == "cdr" && line["state"] == 1);
    peer.tell(&picture("/left/image_raw", 60));
    let status = peer.wait("masks after all that", |line| line["stamp"] == json!([60, 5]));
    assert_eq!((&status["state"], &status["reason"]), (&json!(0), &json!("")), "{status}");
    node.signal("-TERM");
    let (status, log) = node.end();
    assert!(status.success(), "{log}");
    assert!(log.contains("1 encoding") && log.contains("1 size_limit"), "{log}");
}

#[test]
fn under_overload_the_newest_frame_wins_and_every_other_is_counted() {
    let Some(mut peer) = Peer::start(32) else { return };
    let node = Node::start(32, &["-p", "reliability:=best_effort"]);
    peer.read_status("/camera/status");
    peer.repeat(&picture("/camera/image_raw", 1), is_status);
    let memory = node.memory();
    let (rate, seconds) = (400, 2);
    peer.tell(&json!({"do": "play", "topic": "/camera/image_raw", "height": 150, "width": 300,
        "encoding": "mono8", "stamp": [1000, 0], "rate": rate, "seconds": seconds}));
    let mut last: Option<(u64, u64, i64)> = None;
    let mut looked_at = 0;
    peer.wait("status of the last frame", |line| {
        let Some(sequence) = line["sequence"].as_u64() else { return false };
        let (dropped, stamp) =
            (line["dropped"].as_u64().unwrap(), line["stamp"][0].as_i64().unwrap());
        if let Some((sequence_before, dropped_before, stamp_before)) = last {
            assert!(stamp > stamp_before, "{line}");
            assert_eq!(sequence - sequence_before, dropped - dropped_before + 1, "{line}");
        }
        last = Some((sequence, dropped, stamp));
        looked_at += 1;
        stamp == 1000 + rate * seconds - 1
    });
    let (_, dropped, _) = last.unwrap();
    assert!(looked_at >= 2 && dropped > 0, "{looked_at} looked at, {dropped} dropped");
    let grown = node.memory().saturating_sub(memory);
    assert!(grown < 100, "{grown} MB more after {dropped} dropped frames");
}

#[test]
fn a_camera_that_was_frozen_for_longer_than_its_lease_is_heard_again() {
    let (Some(mut camera), Some(mut reader)) = (Peer::start(33), Peer::start(33)) else { return };
    let _node = Node::start(33, &[]);
    reader.read_status("/camera/status");
    let mut play = picture("/camera/image_raw", 1);
    play["do"] = json!("play");
    (play["rate"], play["seconds"]) = (json!(10), json!(60));
    camera.tell(&play);
    let before = reader.wait("frame before", is_status)["stamp"][0].as_i64().unwrap();
    let signal = |name: &str| {
        let id = camera.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    };
    signal("-STOP");
    thread::sleep(Duration::from_secs(25));
    while reader.lines.try_recv().is_ok() {}
    signal("-CONT");
    let resumed = Instant::now();
    let after = reader.wait("frame after", is_status)["stamp"][0].as_i64().unwrap();
    assert!(after > before, "{after} after {before}");
    eprintln!("first status {:.2?} after the camera woke up", resumed.elapsed());
}

#[test]
fn a_domain_without_a_free_port_is_told_with_its_ports() {
    let folder = tempfile::tempdir().unwrap();
    let weights = format!("model.weights:={}", weights(folder.path()).display());
    let first = 7400 + 250 * 35_u16;
    let taken: Vec<_> =
        (first + 10..first + 250).map(|port| UdpSocket::bind(("0.0.0.0", port)).unwrap()).collect();
    let output = command(35).args(["--ros-args", "-p", &weights]).output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(75), "{log}");
    let last = log.lines().last().unwrap();
    assert!(last.contains("domain 35") && last.contains("16150 to 16399"), "{last}");
    drop(taken);
}

#[test]
fn what_cannot_start_ends_with_the_exit_code_of_its_cause_and_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let good = format!("model.weights:={}", weights(folder.path()).display());
    let cut = folder.path().join("cut.safetensors");
    std::fs::write(&cut, b"\x10\0\0").unwrap();
    std::fs::copy(folder.path().join("tiny.yaml"), folder.path().join("cut.yaml")).unwrap();
    let cut = format!("model.weights:={}", cut.display());
    let run = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = command(34);
        let output = command.args(args).envs(env.iter().copied()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let ros = |args: &[&str]| run(&[&["--ros-args", "-p", &good], args].concat(), &[]);
    let cases = [
        (run(&["--ros-args"], &[]), 78, "model.weights"),
        (run(&["--frobnicate"], &[]), 78, "--frobnicate"),
        (run(&["--ros-args", "-p", &good], &[("ROS_DOMAIN_ID", "233")]), 78, "0 to 232"),
        (run(&["--ros-args", "-p", "model.weights:=none.safetensors"], &[]), 66, "none."),
        (run(&["--ros-args", "-p", &cut], &[]), 65, "cut.safetensors"),
        (ros(&["-p", "ood_treshold:=1.0"]), 78, "did you mean `ood_threshold`"),
        (ros(&["--params-file", "none.yaml"]), 78, "none.yaml"),
        (ros(&["-p", "score:=lrr"]), 78, "llr"),
        (ros(&["-p", "model.device:='cuda:7'"]), 69, "cuda:7"),
        (ros(&["-p", "cameras:=['a b']"]), 78, "a b"),
        (ros(&["-r", "__node:=a-b"]), 78, "a-b"),
    ];
    for ((code, text), expected, word) in cases {
        assert_eq!(code, expected, "{text}");
        assert!(text.contains(word), "{word}: {text}");
        assert!(text.lines().last().unwrap().starts_with("ood_segmentation: "), "{text}");
    }
    let version = command(34).arg("--version").output().unwrap();
    assert!(version.status.success() && version.stdout.ends_with(b"0.1.0\n"));
}
