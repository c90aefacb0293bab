//! The evidence recorder from outside: what a cause leaves on the disk, and a disk that is full.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod peers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ood_segmentation::bag::{BagReader, Message};
use ood_segmentation::image::{Image, Limits};
use ood_segmentation::msg::{self, FrameStatus};
use peers::{Node, PATIENCE, Peer, is_status, picture};
use serde_json::{Value, json};
use sha2::Digest;

const TOPIC: &str = "/camera/image_raw";

fn node(domain: u16, folder: &Path, parameters: &[&str]) -> Node {
    let directory = format!("record.directory:={}", folder.display());
    let fixed = [&*directory, "record.before_s:=3.0", "record.after_s:=1.0"];
    let args: Vec<_> = fixed.iter().chain(parameters).flat_map(|value| ["-p", value]).collect();
    Node::start(domain, &args)
}

fn bags(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut bags: Vec<_> = entries
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("evidence_"))
        .collect();
    bags.sort();
    bags
}

/// Waits until there are bags that `are_they` likes.
fn wait_for(folder: &Path, are_they: impl Fn(&[PathBuf]) -> bool) -> Vec<PathBuf> {
    let end = Instant::now() + PATIENCE;
    loop {
        let found = bags(folder);
        if are_they(&found) {
            return found;
        }
        assert!(Instant::now() < end, "{found:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn read(path: &Path) -> BTreeMap<String, Vec<Message>> {
    let bag = BagReader::open(path).unwrap();
    let mut messages = BTreeMap::<String, Vec<Message>>::new();
    let names: Vec<_> = bag.topics().iter().map(|topic| topic.name.clone()).collect();
    for message in bag.messages(&names).unwrap() {
        let message = message.unwrap();
        messages.entry(message.topic.clone()).or_default().push(message);
    }
    messages
}

fn bad(stamp: u32) -> Value {
    let mut bad = picture(TOPIC, stamp);
    bad["encoding"] = json!("rgb42");
    bad
}

#[test]
fn a_fault_leaves_a_bag_of_the_seconds_around_it_that_other_readers_read() {
    let Some(mut peer) = Peer::start(130) else { return };
    let folder = tempfile::tempdir().unwrap();
    // No obstacle and no bad picture: only the refusal is a cause.
    let mut node = node(130, folder.path(), &["ood_threshold:=1e6", "quality.enabled:=false"]);
    peer.read_status("/camera/status");
    peer.repeat(&picture(TOPIC, 1), is_status);
    for stamp in 10..13 {
        peer.tell(&picture(TOPIC, stamp));
        peer.wait("its status", |line| line["stamp"] == json!([stamp, 5]));
    }
    assert_eq!(bags(folder.path()), [] as [PathBuf; 0]);
    peer.tell(&bad(20));
    peer.wait("the refusal", |line| line["stamp"] == json!([20, 5]));
    peer.tell(&picture(TOPIC, 21));
    peer.wait("its status", |line| line["stamp"] == json!([21, 5]));
    let found = wait_for(folder.path(), |bags| !bags.is_empty());
    assert!(found[0].to_string_lossy().ends_with("_fault"), "{found:?}");
    let messages = read(&found[0]);
    let statuses = messages["/camera/status"].iter();
    let statuses: Vec<FrameStatus> = statuses.map(|m| msg::decode(&m.data).unwrap()).collect();
    let of = |stamp: i32| statuses.iter().find(|s| s.header.stamp.sec == stamp).unwrap();
    assert_eq!((of(12).state, of(20).state, of(21).state), (0, 1, 0));
    assert_eq!(of(20).reason, "encoding");
    for topic in ["image_raw", "semantic/image", "ood/image", "ood/probability"] {
        let pictures = &messages[&format!("/camera/{topic}/compressed")];
        let image = pictures.last().unwrap().image(&Limits::default()).unwrap();
        assert_eq!((image.height, image.width), (42, 70), "{topic}");
        let stamps = pictures.iter().map(|p| p.image(&Limits::default()).unwrap().header.stamp.sec);
        let stamps: Vec<_> = stamps.filter(|stamp| *stamp > 1).collect();
        assert_eq!(stamps, [10, 11, 12, 21], "{topic}");
    }
    let counted: usize = read_by_others(&found[0]).values().map(Vec::len).sum();
    assert_eq!(counted, messages.values().map(Vec::len).sum::<usize>());
    node.signal("-INT");
    assert!(node.end().0.success());
}

/// The seconds of the stamps on every topic, as rosbags decodes the messages.
fn read_by_others(bag: &Path) -> BTreeMap<String, Vec<i64>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python =
        Command::new(root.join(".venv/bin/python")).args(["-c", READ]).arg(bag).output().unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    serde_json::from_slice(&python.stdout).unwrap()
}

/// Decodes all messages by rosbags and counts them by mcap's own reader, which must agree.
const READ: &str = "
import json, sys, pathlib
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from mcap.reader import make_reader
folder = pathlib.Path(sys.argv[1])
store, found = get_typestore(Stores.ROS2_JAZZY), {}
with Reader(folder) as bag:
    for connection in bag.connections:
        if connection.msgtype not in store.types:
            store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
    for connection, _, data in bag.messages():
        message = store.deserialize_cdr(data, connection.msgtype)
        found.setdefault(connection.topic, []).append(message.header.stamp.sec)
with open(next(folder.glob('*.mcap')), 'rb') as file:
    count = sum(1 for _ in make_reader(file).iter_messages())
assert count == sum(map(len, found.values()))
print(json.dumps(found))
";

const INFO: &str = "/camera/camera_info";

/// Shows a picture with its calibration until a frame has got one, then three more; the digests of their
/// scores by the second of the stamp.
fn show_calibrated(peer: &mut Peer) -> BTreeMap<i64, String> {
    let show = |peer: &mut Peer, stamp: u32| {
        peer.tell(&json!({"do": "info", "topic": INFO, "height": 42, "width": 70,
            "k": [9.0, 0.0, 35.0, 0.0, 9.0, 21.0, 0.0, 0.0, 1.0],
            "p": [9.0, 0.0, 35.0, 0.0, 0.0, 9.0, 21.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            "stamp": [stamp, 5]}));
        peer.tell(&json!({"do": "sleep", "seconds": 0.5}));
        peer.tell(&picture(TOPIC, stamp));
    };
    let calibrated = (2..10).any(|stamp| {
        show(peer, stamp);
        let mut seen = false;
        peer.wait("its status", |line| {
            seen |= line["type"] == "info";
            is_status(line) && line["stamp"] == json!([stamp, 5])
        });
        seen
    });
    assert!(calibrated, "no frame got its calibration");
    let digest = |stamp: u32| {
        show(peer, stamp);
        let line = peer.wait("its score", |line| {
            line["topic"] == "/camera/ood/score" && line["stamp"] == json!([stamp, 5])
        });
        (i64::from(stamp), line["sha256"].as_str().unwrap().to_owned())
    };
    (10..13).map(digest).collect()
}

/// How many bags the recorder says to have written, and what it left out.
fn recorder(line: &Value) -> Option<[&str; 2]> {
    let name = json!("ood_segmentation: recorder");
    let status = line["status"].as_array()?.iter().find(|status| status["name"] == name)?;
    let values = status["values"].as_array()?;
    let of = |key: &str| values.iter().find(|pair| pair["key"] == key)?["value"].as_str();
    Some([of("bags")?, of("dropped")?])
}

#[test]
fn a_bag_holds_every_output_of_every_frame_as_it_was_published() {
    let Some(mut peer) = Peer::start(135) else { return };
    let folder = tempfile::tempdir().unwrap();
    let parameters = ["ood_threshold:=1e6", "quality.enabled:=false"];
    let _node = node(135, folder.path(), &parameters);
    peer.read_status("/camera/status");
    let topics = [
        ("image", "/camera/ood/score"),
        ("info", "/camera/ood/camera_info"),
        ("diagnostics", "/diagnostics"),
    ];
    for (kind, topic) in topics {
        let reliable = kind != "image";
        peer.ask(&json!({"do": "read", "type": kind, "topic": topic, "reliable": reliable}));
    }
    peer.repeat(&picture(TOPIC, 1), |line| line["topic"] == "/camera/ood/score");
    let scores = show_calibrated(&mut peer);
    peer.tell(&bad(20));
    let bags = wait_for(folder.path(), |bags| !bags.is_empty());
    let found = read_by_others(&bags[0]);
    let pictures =
        ["image_raw", "semantic/image", "semantic/confidence", "ood/image", "ood/probability"];
    let pictures = pictures.map(|name| format!("{name}/compressed"));
    let others = [
        "camera_info",
        "semantic/camera_info",
        "ood/score",
        "ood/camera_info",
        "ood/detections",
        "ood/outlines",
        "status",
    ];
    let outputs: Vec<_> = pictures.into_iter().chain(others.map(str::to_owned)).collect();
    for output in &outputs {
        let stamps = found.get(&format!("/camera/{output}"));
        let stamps = stamps.unwrap_or_else(|| panic!("no {output} in {found:?}"));
        assert!((10..13).all(|stamp| stamps.contains(&stamp)), "{output}: {stamps:?}");
    }
    assert_eq!(found["/camera/semantic/label_info"], [0], "holds for all");
    assert_eq!(found.len(), outputs.len() + 1, "{found:?}");
    let mut recorded = BTreeMap::new();
    for message in &read(&bags[0])["/camera/ood/score"] {
        let score: Image = msg::decode(&message.data).unwrap();
        let digest = sha2::Sha256::digest(&score.data);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        recorded.insert(i64::from(score.header.stamp.sec), digest);
    }
    assert!(scores.iter().all(|(stamp, digest)| recorded[stamp] == *digest), "the scores differ");
    peer.wait("the recorder's count", |line| recorder(line) == Some(["1", "0"]));
}

#[test]
fn a_call_of_the_service_leaves_a_bag_and_without_a_folder_is_told_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (domain, on) in [(133, true), (134, false)] {
        if Peer::start(domain).is_none() {
            return;
        }
        let bags = folder.path().to_owned();
        let _node = if on { node(domain, &bags, &[]) } else { Node::start(domain, &[]) };
        let called = Command::new(root.join(".venv/bin/python"))
            .arg(root.join("tests/peers/params.py"))
            .args(["/ood_segmentation", r#"[["frame"], ["record", {"empty": 0}]]"#])
            .env("ROS_DOMAIN_ID", domain.to_string())
            .output()
            .unwrap();
        assert!(called.status.success(), "{}", String::from_utf8_lossy(&called.stderr));
        let brought: Value = serde_json::from_slice(&called.stdout).unwrap();
        assert_eq!(brought[1]["success"], on, "{brought}");
        if on {
            wait_for(folder.path(), |bags| !bags.is_empty());
        } else {
            assert!(
                brought[1]["message"].as_str().unwrap().contains("record.directory"),
                "{brought}"
            );
        }
    }
}

#[test]
fn the_oldest_bags_go_when_all_together_are_too_large() {
    let Some(mut peer) = Peer::start(131) else { return };
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("evidence_1_fault");
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join("old.mcap"), vec![0; 2_000_000]).unwrap();
    let _node = node(131, folder.path(), &["record.max_mb:=1"]);
    peer.read_status("/camera/status");
    peer.repeat(&bad(1), is_status);
    wait_for(folder.path(), |bags| !bags.is_empty() && !bags.contains(&old));
}

#[test]
fn row_91_a_full_disk_ends_the_recording_and_nothing_else() {
    let Some(mut peer) = Peer::start(132) else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=5m", "tmpfs"];
    let mounted = Command::new("mount").args(mount).arg(&disk).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIP: no right to mount a small disk");
        return;
    }
    let _disk = Mounted(disk.clone());
    let mut node = node(132, &disk, &["record.after_s:=60.0"]);
    peer.read_status("/camera/status");
    peer.repeat(&bad(1), is_status);
    let noise: Vec<u8> = (0..300 * 400 * 3u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 15).to_le_bytes()[0])
        .collect();
    let pixels = folder.path().join("noise.bin");
    std::fs::write(&pixels, noise).unwrap();
    let full = || {
        let free = Command::new("stat").args(["-f", "-c", "%a %b"]).arg(&disk).output().unwrap();
        let free = String::from_utf8(free.stdout).unwrap();
        let (left, all) = free.trim().split_once(' ').unwrap();
        left.parse::<u64>().unwrap() * 20 < all.parse::<u64>().unwrap() + 40
    };
    let (end, mut stamp) = (Instant::now() + 3 * PATIENCE, 10);
    let mut was_full = false;
    while !was_full || stamp < 40 {
        assert!(Instant::now() < end, "the disk did not fill up");
        peer.tell(
            &json!({"do": "image", "topic": TOPIC, "height": 300, "width": 400, "step": 1200,
            "encoding": "rgb8", "file": pixels, "stamp": [stamp, 5]}),
        );
        let status = peer.wait("its status", |line| line["stamp"] == json!([stamp, 5]));
        assert_eq!(status["state"], 0, "{status}");
        was_full |= full() || !bags(&disk).is_empty();
        stamp += 1;
    }
    node.signal("-INT");
    let (status, log) = node.end();
    assert!(status.success(), "{log}");
    assert!(log.contains("the disk is full") || log.contains("recording given up"), "{log}");
    for bag in bags(&disk) {
        assert!(!read(&bag).is_empty());
    }
}

/// A disk that goes with the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}
