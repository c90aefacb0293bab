//! What the node says about itself over real DDS, read by an independent peer (Cyclone DDS).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod peers;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ood_segmentation::checkpoint;
use ood_segmentation::model::Score;
use ood_segmentation::model::config::Calibration;
use peers::{Node, Peer, picture};
use serde_json::{Value, json};

const NAMES: [&str; 5] = ["inference", "output", "model", "dds", "clock"];

fn read(peer: &mut Peer, topic: &str, kind: &str) {
    peer.ask(&json!({"do": "read", "topic": topic, "type": kind, "reliable": true,
        "latched": kind == "log"}));
}

/// Level, message and values of a status of `/diagnostics`.
fn status(line: &Value, name: &str) -> Option<(u64, String, BTreeMap<String, String>)> {
    let name = format!("ood_segmentation: {name}");
    let statuses = line.get("status")?.as_array()?;
    let status = statuses.iter().find(|status| status["name"] == *name)?;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let pairs = status["values"].as_array().unwrap().iter();
    let values = pairs.map(|pair| (text(&pair["key"]), text(&pair["value"]))).collect();
    Some((status["level"].as_u64().unwrap(), text(&status["message"]), values))
}

/// Waits for a state of the camera's input and its level; returns the message and values.
fn wait(peer: &Peer, state: &str, level: u64) -> (String, BTreeMap<String, String>) {
    let mut found = None;
    peer.wait(state, |line| {
        let Some((shown, message, values)) = status(line, "input/camera") else { return false };
        let fits = values["state"] == state && shown == level;
        found = fits.then_some((message, values));
        fits
    });
    found.unwrap()
}

#[test]
fn diagnostics_speak_without_a_camera_and_name_no_number_that_was_not_measured() {
    let Some(mut peer) = Peer::start(65) else { return };
    let _node = Node::start(65, &[]);
    read(&mut peer, "/diagnostics", "diagnostics");
    let (message, values) = wait(&peer, "no_publisher", 1);
    assert!(message.contains("camera/image_raw"), "{message}");
    assert_eq!((&*values["image_age_ms"], &*values["publishers"]), ("n/a", "0"));
    let line = peer.wait("diagnostics once more", |line| status(line, "model").is_some());
    let of = |name| status(&line, name).unwrap();
    assert_eq!(NAMES.map(|name| of(name).0), [0; 5], "{line}");
    for (key, value) in of("inference").2.into_iter().filter(|(key, _)| key.ends_with("p99_ms")) {
        assert_eq!(value, "n/a", "{key}");
    }
    assert_eq!(of("output").2["camera/rate_hz"], "n/a");
    let model = of("model").2;
    let found = ["architecture", "variant", "device", "precision"].map(|key| &*model[key]);
    assert_eq!((found, model["sha256"].len()), (["tiny", "d-d", "Cpu", "f32"], 64));
    let dds = of("dds").2;
    assert!(dds["receive_buffer_bytes"].parse::<u64>().unwrap() > 0, "{dds:?}");
}

#[test]
fn a_heart_beats_ten_times_a_second_with_and_without_frames_and_says_how_the_node_is() {
    let (Some(mut peer), Some(mut late)) = (Peer::start(64), Peer::start(64)) else { return };
    let mut node = Node::start(64, &["-p", "stale_after_ms:=2000", "-p", "nominal_rate_hz:=0.0"]);
    let topic = "/ood_segmentation/heartbeat";
    let command = json!({"do": "read", "topic": topic, "type": "heartbeat", "reliable": true,
        "latched": true});
    peer.ask(&command);
    let value = |line: &Value, key: &str| {
        let pairs = line["values"].as_array()?.iter();
        let mut pairs = pairs.filter(|pair| pair["key"] == key);
        Some(pairs.next()?["value"].as_str()?.to_owned())
    };
    let beats = |line: &Value| value(line, "beats")?.parse::<u64>().ok();
    let state = |peer: &Peer, name: &str, level: u64| {
        peer.wait(name, |line| {
            line["level"] == level && value(line, "state").as_deref() == Some(name)
        })
    };
    let first = state(&peer, "FAULT", 2); // nobody publishes
    assert!(first["message"].as_str().unwrap().contains("input/camera"), "{first}");
    let start = Instant::now();
    let tenth = beats(&first).unwrap() + 10;
    peer.wait("ten more", |line| beats(line) >= Some(tenth));
    let took = start.elapsed();
    assert!(took < Duration::from_secs(3), "ten took {took:?}");
    late.tell(&command);
    late.wait("a beat of before or now", |line| beats(line) > Some(0));
    let mut play = picture("/camera/image_raw", 1);
    (play["do"], play["rate"], play["seconds"]) = (json!("play"), json!(5), json!(10));
    late.tell(&play);
    state(&peer, "DEGRADED", 1); // one grey picture again and again
    state(&peer, "FAULT", 2); // the play is over
    node.signal("-TERM");
    state(&peer, "STOPPING", 1);
    assert!(node.end().0.success());
}

#[test]
fn an_input_goes_from_waiting_to_active_to_stale_to_active_and_a_refused_image_is_named() {
    let Some(mut peer) = Peer::start(66) else { return };
    let Some(mut camera) = Peer::start(66) else { return };
    let _node = Node::start(66, &["-p", "stale_after_ms:=1500", "-p", "budget_ms:=600000"]);
    read(&mut peer, "/diagnostics", "diagnostics");
    wait(&peer, "no_publisher", 1);
    camera.ask(&json!({"do": "offer", "topic": "/camera/image_raw"}));
    wait(&peer, "waiting_image", 1);
    let mut play = picture("/camera/image_raw", 1);
    (play["do"], play["rate"], play["seconds"]) = (json!("play"), json!(2), json!(8));
    camera.tell(&play); // so slow that none is dropped, however busy the machine
    let (_, values) = wait(&peer, "active", 0);
    assert_eq!(values["size"], "70x42");
    let line = peer.wait("rates", |line| status(line, "output").is_some());
    let number = |name, key| status(&line, name).unwrap().2[key].parse::<f64>().unwrap();
    assert!(number("output", "camera/rate_hz") > 0.0, "{line}");
    assert!(number("inference", "processing_p99_ms") >= number("inference", "processing_p50_ms"));
    let (message, _) = wait(&peer, "stale", 2);
    assert!(message.contains("ms ago"), "{message}");
    camera.tell(&play);
    wait(&peer, "active", 0);
    let mut bad = picture("/camera/image_raw", 90);
    bad["encoding"] = json!("rgb42");
    camera.tell(&bad);
    let (message, values) = wait(&peer, "rejected", 2);
    assert!(message.starts_with("encoding: ") && message.contains("rgb42"), "{message}");
    assert_eq!(values["rejected/encoding"], "1");
}

#[test]
fn qos_that_does_not_match_is_reported_with_the_policy_and_the_fix() {
    let Some(mut peer) = Peer::start(67) else { return };
    let mut node = Node::start(67, &["-p", "reliability:=reliable"]);
    read(&mut peer, "/diagnostics", "diagnostics");
    peer.ask(&json!({"do": "offer", "topic": "/camera/image_raw"})); // best effort
    let (message, _) = wait(&peer, "qos_mismatch", 1);
    let words = ["/camera/image_raw: reliability: ", "best effort", "`reliability: auto`"];
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
    read(&mut peer, "/camera/ood/image", "image"); // reliable
    peer.wait("an unserved reader", |line| {
        let Some((level, message, _)) = status(line, "output") else { return false };
        level == 1 && message.contains("/camera/ood/image: reliability: ") && {
            assert!(message.contains("`mask_reliability: reliable`"), "{message}");
            true
        }
    });
    node.signal("-INT");
    let (_, log) = node.end();
    assert_eq!(log.matches("`reliability: auto`").count(), 1, "{log}");
    assert_eq!(log.matches("`mask_reliability: reliable`").count(), 1, "{log}");
}

#[test]
fn latencies_of_every_frame_and_log_lines_reach_their_topics() {
    let Some(mut peer) = Peer::start(68) else { return };
    let _node = Node::start(68, &["-r", "__ns:=/car"]);
    read(&mut peer, "/rosout", "log");
    let names = ["processing_time_ms", "pipeline_latency_ms"].map(str::to_owned).into_iter();
    let stages = ["preprocess", "inference", "postprocess"];
    let names = names.chain(stages.map(|stage| format!("processing_time/{stage}_ms")));
    let topics: Vec<_> = names.map(|name| format!("/car/ood_segmentation/debug/{name}")).collect();
    for topic in &topics {
        read(&mut peer, topic, "float64");
    }
    let line = peer.wait("the log of the start", |line| {
        line["msg"].as_str().is_some_and(|text| text.contains("is running in ROS domain 68"))
    });
    assert_eq!((&line["level"], &line["name"]), (&json!(20), &json!("car.ood_segmentation")));
    assert!(line["stamp"][0].as_i64().unwrap() > 1_700_000_000, "{line}");
    let mut seen = BTreeMap::new();
    let mut play = picture("/car/camera/image_raw", 5000);
    (play["do"], play["rate"], play["seconds"]) = (json!("play"), json!(10), json!(20));
    peer.tell(&play);
    peer.wait("a latency on every topic", |line| {
        if line["type"] == "float64" {
            assert!(line["stamp"][0].as_i64().unwrap() >= 5000, "{line}");
            seen.insert(line["topic"].as_str().unwrap().to_owned(), line["data"].as_f64().unwrap());
        }
        seen.len() == topics.len()
    });
    assert!(topics.iter().all(|topic| seen[topic] >= 0.0), "{seen:?}");
    let whole = seen[&topics[0]];
    assert!(topics[2..].iter().all(|stage| seen[stage] <= whole + 1e3), "{seen:?}");
}

/// Weights with a calibration of the LLR at plan single.
fn calibrated(folder: &std::path::Path) -> String {
    let path = peers::weights(folder);
    let calibration = Calibration {
        score: Score::Llr,
        plan: "single".into(),
        precision: "f32".into(),
        target: "fpr 0.005".into(),
        ood_threshold: -4.25,
        interval: [-5.0, -4.0],
        tpr: 0.5,
        fpr: 0.005,
        missed_obstacles: 0.5,
        temperature: 2.0,
        offset: -1.5,
        dataset: "a street".into(),
        frames: 9,
        frames_with_obstacles: 7,
        familiarity: None,
    };
    checkpoint::set_calibration(&path, calibration).unwrap();
    format!("model.weights:={}", path.display())
}

#[test]
fn parameters_left_open_are_the_calibrations_and_the_node_says_so() {
    let Some(mut peer) = Peer::start(69) else { return };
    let folder = tempfile::tempdir().unwrap();
    let weights = calibrated(folder.path());
    let mut node = Node::start(69, &["-p", &weights, "-p", "obstacle.offset:=0.5"]);
    read(&mut peer, "/diagnostics", "diagnostics");
    peer.read_status("/camera/status");
    peer.ask(&json!({"do": "offer", "topic": "/camera/image_raw"}));
    let seen = |line: &Value| line.get("ood_threshold").is_some();
    peer.repeat(&picture("/camera/image_raw", 1), |line| {
        seen(line) && {
            assert_eq!(line["ood_threshold"], -4.25, "{line}");
            true
        }
    });
    let line = peer.wait("diagnostics", |line| status(line, "model").is_some());
    let model = status(&line, "model").unwrap().2;
    assert_eq!(model["calibration"], "fpr 0.005 at llr > -4.25 on a street");
    assert_eq!(model["calibrated_at_start"], "ood_threshold, obstacle.temperature");
    node.signal("-INT");
    let (_, log) = node.end();
    let said = "ood_threshold, obstacle.temperature from the calibration on a street: \
        ood_threshold -4.25, temperature 2, offset 0.5";
    assert!(log.contains(said), "{log}");
    assert!(!log.contains("measure again"), "{log}");
}

/// What `/statistics` says of a camera's windows, added up.
#[derive(Default)]
struct Windows {
    /// Of ages and periods.
    counts: [f64; 2],
    /// The periods', ms.
    total: f64,
    last_stop: f64,
}

impl Windows {
    /// Adds a message, each of whose numbers is checked against the others.
    fn add(&mut self, line: &Value, stamps: [f64; 2]) {
        let nanos =
            |field: &str| [0, 1].map(|i| line[field][["sec", "nanosec"][i]].as_f64().unwrap());
        let ms = |field: &str| nanos(field)[0] * 1e3 + nanos(field)[1] / 1e6;
        let (start, stop) = (ms("window_start"), ms("window_stop"));
        assert!(start < stop && line["unit"] == "ms", "{line}");
        let points = line["statistics"].as_array().unwrap();
        let types: Vec<_> = points.iter().map(|point| point[0].as_u64().unwrap()).collect();
        assert_eq!(types, [1, 3, 2, 5, 4], "average, maximum, minimum, count, deviation: {line}");
        let [mean, most, least, count, deviation] = [0, 1, 2, 3, 4].map(|i| points[i][1].as_f64());
        let count = count.unwrap();
        let is_age = line["metrics_source"] == "message_age";
        assert!(is_age || line["metrics_source"] == "message_period", "{line}");
        self.counts[usize::from(!is_age)] += count;
        if count == 0.0 {
            assert_eq!([mean, most, least, deviation], [None; 4], "{line}");
            return;
        }
        let [mean, most, least, deviation] = [mean, most, least, deviation].map(Option::unwrap);
        assert!(least <= mean && mean <= most && deviation <= most - least, "{line}");
        if is_age {
            let (low, high) = (start - stamps[1], stop - stamps[0]);
            assert!(low - 1.0 <= least && most <= high + 1.0, "{low} to {high}: {line}");
        } else {
            self.total += mean * count;
            self.last_stop = stop;
        }
    }
}

#[test]
fn statistics_of_a_camera_count_every_image_and_those_of_a_silent_one_none() {
    let Some(mut peer) = Peer::start(70) else { return };
    let _node = Node::start(
        70,
        &["-p", "cameras:=[front, rear]", "-p", "topic_statistics:=true", "-r", "__ns:=/car"],
    );
    read(&mut peer, "/statistics", "metrics");
    peer.read_status("/car/front/status");
    let source = |line: &Value, camera: &str| {
        line["measurement_source_name"] == format!("ood_segmentation_{camera}")
    };
    peer.wait("a window", |line| source(line, "rear"));
    let mut play = picture("/car/front/image_raw", 1_000_000);
    (play["do"], play["rate"], play["seconds"]) = (json!("play"), json!(10), json!(3));
    play["reliable"] = json!(true);
    peer.tell(&play);
    let stamps = [1_000_000_000.0, 1_000_030_000.0]; // the thirty, ms
    let (mut front, mut rear, mut received) = (Windows::default(), Windows::default(), 0.0);
    let mut played = false;
    peer.wait("statistics of every image", |line| {
        played |= line["done"] == "play";
        if line["type"] == "status" {
            received = line["sequence"].as_f64().unwrap();
        } else if source(line, "front") {
            front.add(line, stamps);
        } else if source(line, "rear") {
            rear.add(line, stamps);
        }
        played && received >= 20.0 && front.counts == [received, received - 1.0]
    });
    assert_eq!(rear.counts, [0.0; 2]);
    // Nobody sends faster than ten a second, and all came before the last window ended.
    let mean = front.total / front.counts[1];
    assert!((80.0..2000.0).contains(&mean), "{mean} ms between two images");
}

#[test]
fn two_cameras_may_differ_in_reliability_and_a_topic_that_there_is_not_is_refused() {
    let Some(mut peer) = Peer::start(71) else { return };
    let own = |topic: &str| format!("qos_overrides.{topic}.subscription.reliability:=best_effort");
    let front = own("/front/image_raw"); // what it is remapped to
    let args = ["-p", "cameras:=[left, rear]", "-p", "reliability:=reliable", "-p", &front];
    let _node = Node::start(71, &[&args[..], &["-r", "left/image_raw:=/front/image_raw"]].concat());
    read(&mut peer, "/diagnostics", "diagnostics");
    for topic in ["/front/image_raw", "/rear/image_raw"] {
        peer.ask(&json!({"do": "offer", "topic": topic})); // best effort
    }
    let input = |line: &Value, camera| {
        let (_, message, values) = status(line, &format!("input/{camera}"))?;
        Some((values["reliability"].clone(), values["state"].clone(), message))
    };
    let line = peer.wait("a mismatch of one of them", |line| {
        input(line, "rear").is_some_and(|(_, state, _)| state == "qos_mismatch")
            && input(line, "left").is_some_and(|(_, state, _)| state == "waiting_image")
    });
    assert_eq!(input(&line, "left").unwrap().0, "best_effort");
    let (reliability, _, message) = input(&line, "rear").unwrap();
    assert!(reliability == "reliable" && message.contains("qos_overrides"), "{message}");
    let mut refused = Node::start(71, &["-p", "allow_duplicate:=true", "-p", &front]);
    let (status, log) = refused.end();
    let remedy = "`qos_overrides./front/image_raw.subscription` is /front/image_raw, allowed: an image topic \
        that this node reads, after remapping; did you mean `/camera/image_raw";
    assert!(status.code() == Some(78) && log.contains(remedy), "{status}: {log}");
}
