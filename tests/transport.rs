//! What the patches in `patches/` are for, each seen from outside: every test here fails with the rustdds of
//! the registry.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test tells what it measured and what it skips")]

mod peers;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use ood_segmentation::ros::raw::{ByteOrder, Participant, Qos};
use peers::{Node, PATIENCE, Peer};
use ros2_client::dds::rustdds;
use rustdds::no_key::{DataWriterCdr, SimpleDataReaderCdr};
use rustdds::policy::{History, Reliability};
use serde_json::{Value, json};

const IMAGE: &str = "sensor_msgs/msg/Image";
const BEST_EFFORT: Qos = Qos { reliable: false, transient_local: false, samples: 1 };
/// The kernel doubles it to the 212992 bytes that a socket has on a computer where nobody set anything.
const STOCK: usize = 212_992 / 2;

/// A payload of `length` bytes after its header that begins with its number.
fn payload(number: u8, length: usize) -> Vec<u8> {
    [&[0, 1, 0, 0], &vec![number; length][..]].concat()
}

/// Resident memory of this process, MB.
fn memory() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096 / 1_000_000
}

/// Sends `count` masks at 15 Hz to a reader with a stock socket; how many came, whole.
fn masks(domain: u16, topic: &str, length: usize, count: u8) -> usize {
    let here = Participant::new(domain).unwrap();
    let viewer = Participant::with_receive_buffer(domain, STOCK).unwrap();
    let mut reader = viewer.reader(topic, IMAGE, BEST_EFFORT).unwrap();
    let mut writer = here.writer(topic, IMAGE, BEST_EFFORT, ByteOrder::Little).unwrap();
    assert!(writer.wait_matched(PATIENCE) && reader.wait_matched(PATIENCE));
    let mut whole = 0;
    for number in 0..count {
        assert!(writer.write(payload(number, length)).unwrap());
        let due = Instant::now() + Duration::from_millis(66);
        while let Some(sample) = reader.next(due.saturating_duration_since(Instant::now())).unwrap()
        {
            assert!(sample.data == payload(sample.data[4], length), "torn");
            whole += 1;
        }
    }
    whole
}

#[test]
fn a_reader_with_a_stock_socket_gets_raw_masks() {
    // In one burst none of the larger and one in ten of the smaller come.
    for (topic, length) in [("/small", 640 * 480), ("/large", 1920 * 1080)] {
        let whole = masks(60, topic, length, 45);
        eprintln!("{whole} of 45 masks of {length} bytes");
        assert!(whole >= 36, "{topic}: {whole} of 45");
    }
}

/// The Fast DDS peer, built where Debian's `libfastrtps-dev` is installed.
fn fast_reader(folder: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/fast_reader.cpp");
    let binary = folder.join("fast_reader");
    let built = Command::new("c++")
        .args(["-O1", "-std=c++17", "-o"])
        .args([&binary, &source])
        .args(["-lfastrtps", "-lfastcdr"])
        .output();
    let built = built.is_ok_and(|output| output.status.success());
    if !built {
        eprintln!("SKIP: no Fast DDS; apt install g++ libfastrtps-dev libfastcdr-dev");
    }
    built.then_some(binary)
}

#[test]
fn fast_dds_gets_raw_masks_with_its_default_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let Some(binary) = fast_reader(folder.path()) else { return };
    for (domain, length) in [(67, 640 * 480), (68, 1920 * 1080)] {
        let mut viewer = Command::new(&binary)
            .args([&domain.to_string(), "rt/mask", "sensor_msgs::msg::dds_::Image_"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = peers::lines(viewer.stdout.take().unwrap());
        let here = Participant::new(domain).unwrap();
        let mut writer = here.writer("/mask", IMAGE, BEST_EFFORT, ByteOrder::Little).unwrap();
        assert!(writer.wait_matched(PATIENCE));
        assert_eq!(lines.recv_timeout(PATIENCE).unwrap(), "matched");
        for number in 1..=45 {
            assert!(writer.write(payload(number, length)).unwrap());
            std::thread::sleep(Duration::from_millis(66)); // the rate is part of the claim
        }
        std::thread::sleep(Duration::from_millis(500));
        drop(viewer.stdin.take());
        viewer.wait().unwrap();
        let seen: Vec<String> = lines.iter().collect();
        let whole = seen.iter().filter(|line| line.ends_with(&format!(" {}", 4 + length))).count();
        eprintln!("Fast DDS: {whole} of 45 masks of {length} bytes");
        assert!(seen.iter().all(|line| line != "torn"));
        assert!(whole >= 36, "{whole} of 45");
    }
}

#[test]
fn a_reader_that_was_away_finds_the_newest_sample_only() {
    let (here, there) = (Participant::new(61).unwrap(), Participant::new(61).unwrap());
    let qos = Qos { reliable: true, ..BEST_EFFORT };
    // Two readers of one participant share its cache: what one has seen has come for the other too.
    let mut away = there.reader("/newest", IMAGE, qos).unwrap();
    let mut watch = there.reader("/newest", IMAGE, qos).unwrap();
    let many = Qos { samples: 64, ..qos };
    let mut writer = here.writer("/newest", IMAGE, many, ByteOrder::Little).unwrap();
    assert!(away.wait_matched(PATIENCE) && watch.wait_matched(PATIENCE));
    assert!(writer.wait_matched(PATIENCE));
    for number in 1..=20 {
        assert!(writer.write(payload(number, 100)).unwrap());
    }
    while watch.next(PATIENCE).unwrap().unwrap().data[4] != 20 {}
    let first = away.next(PATIENCE).unwrap().unwrap().data[4];
    assert_eq!(first, 20, "the oldest comes first");
}

#[test]
fn a_long_sample_with_inline_qos_arrives_whole() {
    let participant = |_| rustdds::DomainParticipant::new(62).unwrap();
    let [here, there] = [0, 1].map(participant);
    let qos = rustdds::QosPolicyBuilder::new()
        .reliability(Reliability::Reliable { max_blocking_time: rustdds::Duration::from_secs(1) })
        .history(History::KeepLast { depth: 4 })
        .build();
    let topic = |participant: &rustdds::DomainParticipant| {
        let kind = rustdds::TopicKind::NoKey;
        participant.create_topic("rr/longReply".into(), "Reply_".into(), &qos, kind).unwrap()
    };
    let subscriber = there.create_subscriber(&qos).unwrap();
    let reader: SimpleDataReaderCdr<Vec<u32>> =
        subscriber.create_simple_datareader_no_key(&topic(&there), None).unwrap();
    let publisher = here.create_publisher(&qos).unwrap();
    let writer: DataWriterCdr<Vec<u32>> =
        publisher.create_datawriter_no_key(&topic(&here), None).unwrap();
    let reply: Vec<u32> = (0..100_000).collect();
    let identity = rustdds::rpc::SampleIdentity {
        writer_guid: rustdds::GUID::GUID_UNKNOWN,
        sequence_number: 7i64.into(),
    };
    let received = smol::block_on(async {
        let mut samples = std::pin::pin!(reader.as_async_stream());
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            // Again and again: the first may be sent before both sides know each other.
            let options =
                rustdds::WriteOptionsBuilder::new().related_sample_identity(identity).build();
            writer.write_with_options(reply.clone(), options).unwrap();
            let pause = smol::Timer::after(Duration::from_millis(500));
            let sample = futures::future::select(samples.next(), pause).await;
            if let futures::future::Either::Left((Some(sample), _)) = sample {
                return Some(sample.unwrap().into_value());
            }
        }
        None
    });
    assert!(received.is_some_and(|found| found == reply), "it did not come whole");
}

#[test]
fn frames_that_lost_fragments_are_held_in_bounded_memory() {
    let Some(mut camera) = Peer::start(63) else { return };
    let there = Participant::with_receive_buffer(63, STOCK).unwrap();
    let mut reader = there.reader("/camera/image_raw", IMAGE, BEST_EFFORT).unwrap();
    let mut play = json!({"do": "play", "topic": "/camera/image_raw", "height": 1080, "width": 1920,
        "encoding": "rgb8", "stamp": [1, 0], "rate": 20, "seconds": 1});
    play["length"] = json!(1920 * 1080 * 3);
    play["step"] = json!(1920 * 3);
    let before = memory();
    camera.tell(&play);
    assert!(reader.wait_matched(PATIENCE));
    let mut most = 0;
    let end = Instant::now() + PATIENCE;
    let done = loop {
        most = most.max(memory().saturating_sub(before));
        match camera.lines.recv_timeout(Duration::from_millis(20)) {
            Ok(line) => break line,
            Err(_) => assert!(Instant::now() < end, "the camera did not end"),
        }
    };
    assert!(done.contains("\"done\""), "{done}");
    // Twenty frames of 6.2 MB, of which the socket held a fragment or two each.
    eprintln!("{most} MB more at most");
    assert!(most < 60, "{most} MB");
}

#[test]
fn every_endpoint_offers_its_type_hash() {
    if Peer::start(64).is_none() {
        return;
    }
    let _node = Node::start(64, &[]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut listener = Command::new(root.join(".venv/bin/python"))
        .args([root.join("tests/peers/hashes.py").as_os_str(), "40".as_ref()])
        .env("ROS_DOMAIN_ID", "64")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = peers::lines(listener.stdout.take().unwrap());
    let mut seen = std::collections::BTreeSet::new();
    let (end, wanted) = (Instant::now() + PATIENCE, ["/camera/status", "ros_discovery_info"]);
    let done = |seen: &std::collections::BTreeSet<String>| {
        wanted.iter().all(|wanted| seen.iter().any(|topic| topic.ends_with(wanted)))
            && seen.len() > 20
    };
    while !done(&seen) {
        let left = end.saturating_duration_since(Instant::now());
        let line = lines.recv_timeout(left).unwrap_or_else(|_| panic!("only {seen:?}"));
        let line: Value = serde_json::from_str(&line).unwrap();
        let topic = line["topic"].as_str().unwrap();
        if !topic.starts_with("rt/") && topic != "ros_discovery_info" {
            continue; // services, whose types have no definition here
        }
        if let Some(hash) = line["hash"].as_str() {
            assert_eq!(line["user_data"], format!("typehash={hash};"), "{line}");
            seen.insert(topic.to_owned());
        }
    }
    listener.kill().unwrap();
    listener.wait().unwrap();
}

#[test]
fn a_camera_that_was_silent_for_longer_than_its_lease_is_heard_at_once() {
    let (Some(mut camera), Some(mut reader)) = (Peer::start(69), Peer::start(69)) else { return };
    // Without the watchdog, which would join anew.
    let _node = Node::start(69, &["-p", "silence_ms:=0"]);
    reader.read_status("/camera/status");
    let mut play = peers::picture("/camera/image_raw", 1);
    play["do"] = json!("play");
    (play["rate"], play["seconds"]) = (json!(10), json!(60));
    camera.tell(&play);
    reader.wait("frame before", peers::is_status);
    let signal = |name: &str| {
        let id = camera.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    };
    signal("-STOP");
    std::thread::sleep(Duration::from_secs(15)); // the lease is 10 s
    while reader.lines.try_recv().is_ok() {}
    signal("-CONT");
    let resumed = Instant::now();
    reader.wait("frame after", peers::is_status);
    let took = resumed.elapsed();
    eprintln!("first status {took:.2?} after the camera woke up");
    assert!(took < Duration::from_secs(10), "{took:?}");
}
