//! What each camera's topics say, over real DDS with an independent peer (Cyclone DDS).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod peers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ood_segmentation::config::ClassTable;
use ood_segmentation::image::{Image, Limits, write_png};
use ood_segmentation::obstacle::{Maps, Obstacle, ObstacleConfig, obstacles};
use peers::{Node, PATIENCE, Peer, sorted_scores, weights};
use serde_json::{Value, json};

const HEIGHT: usize = 60;
const WIDTH: usize = 100;

/// A picture of coloured blocks, rgb8.
fn blocks() -> Vec<u8> {
    let byte = |i: usize| {
        let (y, x, c) = (i / 3 / WIDTH, i / 3 % WIDTH, i % 3);
        u8::try_from((y / 9 * 7 + x / 13 * 5 + c) * 37 % 256).unwrap()
    };
    (0..HEIGHT * WIDTH * 3).map(byte).collect()
}

/// A threshold that about one in `n` of the picture's scores is above.
fn threshold(weights: &Path, n: usize) -> f32 {
    let image = Image::packed(Default::default(), (HEIGHT, WIDTH), "rgb8", blocks());
    let scores = sorted_scores(weights, &image);
    scores[scores.len() - scores.len() / n]
}

/// Events of one frame by topic, once all of these topics have come with its stamp.
fn collect(peer: &Peer, stamp: [i64; 2], topics: &[&str]) -> BTreeMap<String, Value> {
    let mut events = BTreeMap::new();
    peer.wait(&format!("complete frame {stamp:?}"), |line| {
        if line["stamp"] == json!(stamp) {
            events.insert(line["topic"].as_str().unwrap().to_owned(), line.clone());
        }
        topics.iter().all(|topic| events.contains_key(*topic))
    });
    events
}

fn read(peer: &mut Peer, topic: &str, kind: &str, folder: &Path) {
    let small = ["detections", "marker", "info"].contains(&kind);
    peer.ask(
        &json!({"do": "read", "topic": topic, "type": kind, "reliable": small, "save": folder}),
    );
}

fn bytes(event: &Value) -> Vec<u8> {
    std::fs::read(event["file"].as_str().unwrap()).unwrap()
}

fn floats(event: &Value) -> Vec<f32> {
    bytes(event).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The node with these parameters.
fn node(domain: u16, parameters: &[&str]) -> Node {
    let args: Vec<_> = parameters.iter().flat_map(|parameter| ["-p", parameter]).collect();
    Node::start(domain, &args)
}

fn is_status(line: &Value) -> bool {
    line.get("state").is_some()
}

#[test]
fn detections_outlines_and_mask_agree_with_the_score_and_with_the_offline_tool() {
    let Some(mut peer) = Peer::start(50) else { return };
    let folder = tempfile::tempdir().unwrap();
    let weights = weights(folder.path());
    let threshold = threshold(&weights, 7);
    let config =
        ObstacleConfig { hysteresis: 0.02, min_area: 6, tolerance: 0.0, ..Default::default() };
    let _node = node(
        50,
        &[
            &format!("model.weights:={}", weights.display()),
            &format!("ood_threshold:={threshold:?}"),
            "obstacle.hysteresis:=0.02",
            "obstacle.min_area:=6",
            "obstacle.tolerance:=0.0",
        ],
    );
    let outputs = [
        ("/camera/ood/image", "image"),
        ("/camera/ood/score", "image"),
        ("/camera/semantic/image", "image"),
        ("/camera/ood/detections", "detections"),
        ("/camera/ood/outlines", "marker"),
    ];
    for (topic, kind) in outputs {
        read(&mut peer, topic, kind, folder.path());
    }
    let pixels = folder.path().join("pixels");
    std::fs::write(&pixels, blocks()).unwrap();
    let picture = |stamp: i64| {
        json!({"do": "image", "topic": "/camera/image_raw", "height": HEIGHT, "width": WIDTH,
            "encoding": "rgb8", "step": 3 * WIDTH, "file": pixels, "stamp": [stamp, 5]})
    };
    peer.repeat(&picture(1), |line| line["type"] == "detections");
    peer.tell(&picture(50));
    let topics = outputs.map(|(topic, _)| topic);
    let events = collect(&peer, [50, 5], &topics);
    let [mask, score, classes, detections, outlines] = topics.map(|topic| &events[topic]);
    let (mask, score, classes) = (bytes(mask), floats(score), bytes(classes));
    let maps = Maps { score: &score, classes: &classes, width: WIDTH };
    let expected = obstacles(&maps, threshold, &config, &ClassTable::cityscapes());
    assert!(mask == expected.mask, "the mask is not that of the score");
    assert!(!expected.list.is_empty(), "the picture shows no obstacle");
    let above: Vec<u8> = score.iter().map(|&s| if s > threshold { 255 } else { 0 }).collect();
    assert!(mask != above, "the settings of obstacles change nothing here");
    check_detections(detections, &expected.list);
    let corners: usize = expected.list.iter().map(|obstacle| obstacle.outline.len()).sum();
    assert_eq!(outlines["points"].as_array().unwrap().len(), 2 * corners);
    assert!(offline(folder.path(), &weights, threshold) == mask, "`ood_seg segment` differs");
}

fn check_detections(message: &Value, expected: &[Obstacle]) {
    let found = message["detections"].as_array().unwrap();
    assert_eq!(found.len(), expected.len());
    for (detection, obstacle) in found.iter().zip(expected) {
        let bbox = &detection["bbox"];
        let side = |axis: usize| (obstacle.max[axis] - obstacle.min[axis]) as f64;
        assert_eq!(bbox["size_x"], json!(side(0)), "{detection}");
        assert_eq!(bbox["size_y"], json!(side(1)), "{detection}");
        let centre = (obstacle.max[0] + obstacle.min[0]) as f64 / 2.0;
        assert_eq!(bbox["center"]["position"]["x"], json!(centre), "{detection}");
        let hypothesis = &detection["results"][0]["hypothesis"];
        assert_eq!(hypothesis["class_id"], "unknown");
        let probability = hypothesis["score"].as_f64().unwrap();
        assert!((probability - f64::from(obstacle.probability)).abs() < 1e-6, "{probability}");
        assert_eq!(detection["header"]["stamp"], json!({"sec": 50, "nanosec": 5}));
    }
}

/// The OoD mask of `ood_seg segment` with the settings of the node above.
fn offline(folder: &Path, weights: &Path, threshold: f32) -> Vec<u8> {
    let (picture, out) = (folder.join("blocks.png"), folder.join("out"));
    write_png(&picture, HEIGHT, WIDTH, &blocks()).unwrap();
    let segment = Command::new(env!("CARGO_BIN_EXE_ood_seg"))
        .arg("segment")
        .arg(&picture)
        .arg("--weights")
        .arg(weights)
        .args(["--device", "cpu", "--plan", "single", "--write", "ood"])
        .args(["--hysteresis", "0.02", "--min-area", "6"])
        .args(["--ood-threshold", &format!("{threshold:?}"), "--out"])
        .arg(&out)
        .output()
        .unwrap();
    assert!(segment.status.success(), "{}", String::from_utf8_lossy(&segment.stderr));
    Image::read_file(&out.join("blocks_ood.png"), &Limits::default()).unwrap().data.into()
}

fn grey(topic: &str, (height, width): (usize, usize), stamp: [i64; 2]) -> Value {
    json!({"do": "image", "topic": topic, "height": height, "width": width, "encoding": "mono8",
        "fill": 90, "stamp": stamp, "frame_id": topic})
}

/// A calibration of a picture of 200 x 120 pixels.
fn calibration(stamp: i64, focal: f64) -> Value {
    json!({"do": "info", "topic": "/camera/camera_info", "height": 120, "width": 200,
        "k": [focal, 0.0, 100.0, 0.0, focal, 60.0, 0.0, 0.0, 1.0],
        "p": [focal, 0.0, 100.0, 0.0, 0.0, focal, 60.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "stamp": [stamp, 5]})
}

#[test]
fn the_calibration_beside_a_mask_is_the_frames_own_at_the_masks_size() {
    let Some(mut peer) = Peer::start(51) else { return };
    let folder = tempfile::tempdir().unwrap();
    let _node = node(51, &[]);
    for topic in ["/camera/ood/camera_info", "/camera/semantic/camera_info"] {
        read(&mut peer, topic, "info", folder.path());
    }
    peer.read_status("/camera/status");
    let picture = |stamp| grey("/camera/image_raw", (60, 100), [stamp, 5]);
    peer.repeat(&picture(1), |line| {
        assert_ne!(line["type"], "info", "no camera has said anything: {line}");
        is_status(line)
    });
    let pause = json!({"do": "sleep", "seconds": 0.3});
    // The frame's own calibration, sent before it, and another one after that.
    let mut ask = |stamp: i64, focal: [Option<f64>; 2]| -> Option<BTreeMap<String, Value>> {
        let [own, newer] = focal;
        let calibrations = [own.map(|f| calibration(stamp, f)), newer.map(|f| calibration(9, f))];
        for calibration in calibrations.iter().flatten() {
            peer.tell(calibration);
            peer.tell(&pause);
        }
        peer.tell(&picture(stamp));
        let (mut events, end) = (BTreeMap::new(), Instant::now() + Duration::from_secs(5));
        while events.len() < 2 && Instant::now() < end {
            let Ok(line) = peer.lines.recv_timeout(Duration::from_millis(100)) else { continue };
            let line: Value = serde_json::from_str(&line).unwrap();
            assert!(line.get("error").is_none(), "{line}");
            if line["type"] == "info" && line["stamp"] == json!([stamp, 5]) {
                events.insert(line["topic"].as_str().unwrap().to_owned(), line);
            }
        }
        (events.len() == 2).then_some(events)
    };
    // The first may be lost: discovery ends on one side first.
    let end = Instant::now() + PATIENCE;
    let mut stamps = 100..;
    let mut until = |focal: [Option<f64>; 2], expected: f64| {
        let k = json!([expected, 0.0, 50.0, 0.0, expected, 30.0, 0.0, 0.0, 1.0]);
        while Instant::now() < end + PATIENCE {
            let Some(events) = ask(stamps.next().unwrap(), focal) else { continue };
            if events.values().all(|event| event["k"] == k) {
                return events;
            }
        }
        panic!("no calibration with the focal length {expected}");
    };
    let events = until([Some(80.0), None], 40.0);
    let info = &events["/camera/ood/camera_info"];
    assert_eq!((&info["height"], &info["width"]), (&json!(60), &json!(100)), "{info}");
    assert_eq!(info["frame_id"], "/camera/image_raw", "the image's header");
    assert_eq!(info["d"], json!([0.1, 0.0, 0.0, 0.0, 0.0]));
    assert_eq!(info["p"][6], json!(30.0));
    until([Some(120.0), Some(160.0)], 60.0); // its own, though a newer one is there
    until([None, None], 80.0); // the last one, without one of its own
}

#[test]
fn a_latched_calibration_from_before_the_node_is_used() {
    let Some(mut peer) = Peer::start(55) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut once = calibration(1, 80.0);
    (once["reliable"], once["latched"], once["readers"]) = (json!(true), json!(true), json!(0));
    peer.ask(&once);
    let _node = node(55, &[]);
    read(&mut peer, "/camera/ood/camera_info", "info", folder.path());
    let picture = grey("/camera/image_raw", (60, 100), [1, 5]);
    peer.repeat(&picture, |line| line["type"] == "info" && line["k"][0] == json!(40.0));
}

/// The lowest 12 of 42 rows of 70 pixels show the bonnet, and all else is out of distribution.
fn check_bonnet(event: &Value) {
    let (is_bonnet, is_seen): (Vec<bool>, Vec<bool>) = match event["topic"].as_str().unwrap() {
        "/left/ood/score" => floats(event).iter().map(|s| (s.is_nan(), s.is_finite())).unzip(),
        "/left/ood/image" => bytes(event).iter().map(|&m| (m == 0, m == 255)).unzip(),
        _ => bytes(event).iter().map(|&id| (id == 255, id < 19)).unzip(),
    };
    assert!(is_seen[..30 * 70].iter().all(|&seen| seen), "{event}");
    assert!(is_bonnet[30 * 70..].iter().all(|&bonnet| bonnet), "{event}");
}

#[test]
fn cameras_of_different_size_and_rate_share_batches_and_keep_their_outputs_and_settings() {
    let Some(mut peer) = Peer::start(52) else { return };
    let folder = tempfile::tempdir().unwrap();
    let hood = folder.path().join("hood.png");
    let sizes = BTreeMap::from([("left", (42, 70)), ("right", (60, 100))]);
    let pixels: Vec<u8> = (0..42 * 70).map(|i| if i < 30 * 70 { 0 } else { 255 }).collect();
    write_png(&hood, 42, 70, &pixels).unwrap();
    let mut node = node(
        52,
        &[
            "cameras:=[left, right]",
            &format!("camera_settings.left.ego_mask:={}", hood.display()),
            "camera_settings.left.ood_threshold:=-1000.0",
            "camera_settings.right.rotation:=90",
            "batch:=2",
            "batch_wait_ms:=1000",
        ],
    );
    for camera in ["left", "right"] {
        for topic in ["ood/image", "ood/score", "semantic/image"] {
            read(&mut peer, &format!("/{camera}/{topic}"), "image", folder.path());
        }
        peer.read_status(&format!("/{camera}/status"));
        let first = grey(&format!("/{camera}/image_raw"), sizes[camera], [1, 1]);
        peer.repeat(&first, |line| is_status(line) && line["camera"] == camera);
    }
    for i in 0..20 {
        for (camera, every) in [("left", 1), ("right", 3)] {
            if i % every == 0 {
                peer.tell(&grey(&format!("/{camera}/image_raw"), sizes[camera], [100 + i, every]));
            }
        }
        peer.tell(&json!({"do": "sleep", "seconds": 0.05}));
    }
    let mut last = BTreeMap::new();
    let mut largest = 0;
    let mut masked = BTreeSet::new();
    peer.wait("last frames of both", |line| {
        let Some(topic) = line["topic"].as_str().filter(|_| line.get("stamp").is_some()) else {
            return false;
        };
        let camera = topic.split('/').nth(1).unwrap().to_owned();
        let (height, width) = sizes[camera.as_str()];
        assert_eq!((&line["height"], &line["width"]), (&json!(height), &json!(width)), "{line}");
        assert_eq!(line["frame_id"], format!("/{camera}/image_raw"), "{line}");
        let [second, own] = [0, 1].map(|i| line["stamp"][i].as_i64().unwrap());
        assert!(second < 100 || own == if camera == "left" { 1 } else { 3 }, "{line}");
        if is_status(line) {
            assert_eq!((&line["state"], &line["camera"]), (&json!(0), &json!(camera)), "{line}");
            largest = largest.max(line["batch"].as_i64().unwrap());
            last.insert(camera, second);
        } else if camera == "left" {
            check_bonnet(line);
            masked.insert(topic.to_owned());
        }
        last.get("left") == Some(&119) && last.get("right") == Some(&118) && masked.len() == 3
    });
    assert_eq!(largest, 2, "no two frames shared a batch");
    node.signal("-INT");
    let (status, log) = node.end();
    assert!(status.success() && log.contains("left: ") && log.contains("right: "), "{log}");
}

#[test]
fn late_readers_learn_the_names_of_the_classes_latched_or_by_waiting() {
    let (Some(mut early), Some(mut late)) = (Peer::start(53), Peer::start(53)) else { return };
    let _node = node(53, &["cameras:=[front, rear]"]);
    early.read_status("/front/status");
    early.repeat(&grey("/front/image_raw", (42, 70), [1, 5]), is_status);
    for (topic, latched) in
        [("/front/semantic/label_info", true), ("/rear/semantic/label_info", false)]
    {
        late.ask(&json!({"do": "read", "topic": topic, "type": "labels", "reliable": true,
            "latched": latched}));
        let asked = Instant::now();
        let labels = late.wait("names", |line| line["topic"] == topic);
        eprintln!("{topic} (latched: {latched}) after {:.1?}", asked.elapsed());
        let classes = labels["class_map"].as_array().unwrap();
        assert_eq!(classes.len(), 19);
        assert_eq!(classes[18], json!({"class_id": 18, "class_name": "bicycle"}));
    }
}

#[test]
fn frames_above_the_rate_limit_are_left_out_and_counted() {
    let Some(mut peer) = Peer::start(54) else { return };
    let mut node = node(54, &["camera_settings.camera.max_rate_hz:=5.0"]);
    peer.read_status("/camera/status");
    peer.repeat(&grey("/camera/image_raw", (42, 70), [1, 5]), is_status);
    let mut play = grey("/camera/image_raw", (42, 70), [1000, 5]);
    play["do"] = json!("play");
    (play["rate"], play["seconds"]) = (json!(50), json!(2));
    let start = Instant::now();
    peer.tell(&play);
    let mut last: Option<[u64; 3]> = None;
    let mut looked_at = 0;
    peer.wait("end of the play", |line| {
        if is_status(line) && line["stamp"][0].as_i64().unwrap() >= 1000 {
            let counts = ["sequence", "dropped", "limited"].map(|key| line[key].as_u64().unwrap());
            if let Some(before) = last {
                let [sequence, dropped, limited] = [0, 1, 2].map(|i| counts[i] - before[i]);
                assert_eq!(sequence, dropped + limited + 1, "{line}");
            }
            last = Some(counts);
            looked_at += 1;
        }
        line["done"] == "play"
    });
    let [_, dropped, limited] = last.unwrap();
    let most = start.elapsed().as_secs_f64() * 5.0 + 2.0;
    assert!(looked_at >= 2 && f64::from(looked_at) <= most, "{looked_at} of at most {most}");
    assert!(limited > dropped, "{limited} limited, {dropped} dropped");
    node.signal("-INT");
    let (status, log) = node.end();
    assert!(status.success() && log.contains(" above max_rate_hz"), "{log}");
}
