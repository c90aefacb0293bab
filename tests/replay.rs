//! `ood_seg replay` over real DDS: what arrives is what was recorded, when it was recorded.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a test stops where it fails and says what it skips"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ood_segmentation::bag::{BagReader, BagWriter, Qos};
use ood_segmentation::msg;
use ood_segmentation::ros::raw::{self, Participant};

const PATIENCE: Duration = Duration::from_secs(20);

fn replay(bag: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_ood_seg"))
        .arg("replay")
        .arg(bag)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn output(child: Child) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn reading(reliable: bool) -> raw::Qos {
    raw::Qos { reliable, transient_local: false, samples: 256 }
}

/// The recorded drive, or a visible skip.
fn drive() -> Option<PathBuf> {
    let bag = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/rosbag2/highway_mcap");
    if !bag.exists() {
        eprintln!("SKIP: {} is not there", bag.display());
        return None;
    }
    Some(bag)
}

#[test]
fn a_recorded_camera_arrives_whole_and_in_its_own_time() {
    let Some(bag) = drive() else { return };
    let (topic, kind) = ("/camera/front/image_raw/compressed", msg::COMPRESSED_IMAGE.type_name);
    let recorded = BagReader::open(&bag).unwrap().messages(&[topic.to_string()]).unwrap();
    let recorded: Vec<_> = recorded.map(|message| message.unwrap()).collect();
    let participant = Participant::new(21).unwrap();
    let reader = participant.reader(topic, kind, reading(true)).unwrap();

    let player =
        replay(&bag, &["--rate", "4", "--topics", topic, "--domain", "21", "--wait", "20"]);
    let mut began = None;
    for message in &recorded {
        let sample = reader.next(PATIENCE).unwrap().expect("a sample in time");
        // Where the interface lets it through in one datagram, RTPS pads it to four bytes.
        let (bytes, padding) = sample.data.split_at(message.data.len());
        assert!(bytes == message.data && padding.len() < 4, "at {} ns", message.log_time_ns);
        let (first, first_ns) = *began.get_or_insert((sample.received, message.log_time_ns));
        let due = Duration::from_nanos(message.log_time_ns - first_ns) / 4;
        let came = sample.received - first;
        assert!(came + Duration::from_millis(300) > due, "{came:?}, due at {due:?}");
        assert!(came < due + Duration::from_secs(5), "{came:?}, due at {due:?}");
    }
    assert_eq!(recorded.len(), 60);
    let (code, out, err) = output(player);
    assert_eq!(code, Some(0), "{err}");
    let row = out.lines().find(|line| line.starts_with(topic)).expect("a row of the topic");
    let row: Vec<_> = row.split_whitespace().collect();
    assert_eq!((row[1], row[2], row[4]), ("60", "0", "1"), "{out}");
    assert_eq!(reader.next(Duration::from_millis(100)).unwrap(), None);
}

/// A bag of five small messages on `/a`, best effort, a tenth of a second apart.
fn small(folder: &Path) -> PathBuf {
    let path = folder.join("bag");
    let mut bag = BagWriter::create(&path).unwrap();
    let topic = bag.add_topic("/a", &msg::CAMERA_INFO, Qos::default()).unwrap();
    for i in 0..5 {
        bag.write(topic, i * 100_000_000, &[0, 1, 0, 0, u8::try_from(i).unwrap()]).unwrap();
    }
    bag.finish().unwrap();
    path
}

#[test]
fn it_loops_from_the_start_asked_for_until_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let bag = small(folder.path());
    let participant = Participant::new(22).unwrap();
    let reader = participant.reader("/a", msg::CAMERA_INFO.type_name, reading(false)).unwrap();
    let arguments = ["--loop", "--start", "0.3", "--domain", "22", "--wait", "20"];
    let player = replay(&bag, &arguments);
    for i in [3, 4, 3, 4, 3] {
        let sample = reader.next(PATIENCE).unwrap().expect("a sample in time");
        assert_eq!(sample.data[4], i);
    }
    let asked = Instant::now();
    let id = player.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let (code, out, err) = output(player);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.lines().last().unwrap().starts_with("/a "), "{out}");
    assert!(asked.elapsed() < PATIENCE);
}

#[test]
fn bad_input_is_one_line_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let bag = small(folder.path());
    let none = folder.path().join("none");
    for (bag, arguments, told) in [
        (&none, &[][..], "none: No such file"),
        (&bag, &["--topics", "/b"], "no topic /b; it holds /a"),
        (&bag, &["--rate", "0"], "`--rate` is 0, allowed: 0.001 to 1000"),
        (&bag, &["--start", "0.5"], "`--start` is 0.5, allowed: 0 to 0.400"),
    ] {
        let (code, out, err) = output(replay(bag, &[arguments, &["--domain", "23"]].concat()));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        assert!(err.contains(told) && err.lines().count() == 1, "{err}");
    }
}
