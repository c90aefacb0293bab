//! Bags of other writers are read, and ours are read by others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a test stops where it fails and says what it skips"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ood_segmentation::bag::{BagReader, BagWriter, Message, Qos};
use ood_segmentation::image::{Image, Limits};
use ood_segmentation::msg::{self, CameraInfo, CompressedImage, Header, Stamp};
use serde::Deserialize;

/// The recorded bags, or a visible skip.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    if !path.exists() {
        eprintln!("SKIP {name}: {} is not there", path.display());
        return None;
    }
    Some(path)
}

fn read(path: &Path) -> Vec<Message> {
    let bag = BagReader::open(path).unwrap_or_else(|error| panic!("{}", error.chain()));
    bag.messages(&[]).unwrap().map(|message| message.unwrap()).collect()
}

/// The error of reading a bag to its end.
fn error(path: &Path) -> String {
    let messages = BagReader::open(path).and_then(|bag| bag.messages(&[]));
    match messages.and_then(|messages| messages.collect::<Result<Vec<_>, _>>()) {
        Ok(messages) => panic!("{}: {} messages read", path.display(), messages.len()),
        Err(error) => error.chain(),
    }
}

/// A bag folder made of files of the official fixtures, whose names carry their path.
fn fixture(folder: &Path, files: &[(&str, &str)]) -> Option<PathBuf> {
    let bag = folder.join("bag");
    fs::create_dir_all(&bag).unwrap();
    for (from, to) in files {
        let from = shared(&format!("rosbag2_official_fixtures/rosbag2_{from}"))?;
        fs::write(bag.join(to), fs::read(from).unwrap()).unwrap();
    }
    Some(bag)
}

fn counts(messages: &[Message]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for message in messages {
        *counts.entry(message.topic.as_str()).or_default() += 1;
    }
    counts
}

const CAMERA: &str = "/camera/front/image_raw/compressed";

#[test]
fn four_writers_of_one_drive_give_the_same_pictures() {
    let Some(folder) = shared("rosbag2") else { return };
    let mut pictures: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (name, jpegs, infos, raws, last) in [
        ("highway_mcap", 60, 60, 4, 1_700_000_004_720_001_000),
        ("highway_sqlite3", 60, 60, 4, 1_700_000_004_720_001_000),
        ("highway_sqlite3_msgzstd", 20, 20, 0, 1_700_000_001_520_001_000),
        ("highway_foxglove_zstd", 30, 0, 0, 1_700_000_002_320_000_000),
    ] {
        let path = folder.join(name);
        let messages = read(&path);
        let count = counts(&messages);
        let of = |topic| count.get(topic).copied().unwrap_or_default();
        assert_eq!(of(CAMERA), jpegs, "{name}");
        assert_eq!(of("/camera/front/camera_info"), infos, "{name}");
        assert_eq!(of("/camera/front/image_raw"), raws, "{name}");
        let bag = BagReader::open(&path).unwrap();
        assert_eq!(bag.span_ns(), Some((1_700_000_000_000_000_000, last)), "{name}");
        assert_eq!(messages.last().unwrap().log_time_ns, last, "{name}");
        assert!(messages.is_sorted_by_key(|message| message.log_time_ns), "{name}");
        for topic in bag.topics() {
            assert_eq!(topic.message_count, of(&topic.name), "{name}");
            assert_eq!(topic.is_image(), topic.name != "/camera/front/camera_info");
        }
        for message in messages.iter().filter(|message| message.topic == CAMERA) {
            let image: CompressedImage = msg::decode(&message.data).unwrap();
            assert!(image.data.starts_with(&[0xff, 0xd8]), "{name}: a JPEG");
            let jpeg = pictures.entry(message.log_time_ns).or_insert(image.data.clone());
            assert!(*jpeg == image.data, "{name} at {}", message.log_time_ns);
        }
    }
    assert_eq!(pictures.len(), 60);
}

#[test]
fn raw_pictures_and_calibration_decode() {
    let Some(path) = shared("rosbag2/highway_mcap") else { return };
    let mut encodings = Vec::new();
    for message in read(&path) {
        if message.topic == "/camera/front/image_raw" {
            let image: Image = msg::decode(&message.data).unwrap();
            assert_eq!((image.height, image.width), (540, 960));
            assert_eq!(image.data.len(), image.height as usize * image.step as usize);
            encodings.push(image.encoding);
        } else if message.topic == "/camera/front/camera_info" {
            let info: CameraInfo = msg::decode(&message.data).unwrap();
            assert_eq!((info.height, info.width), (540, 960));
            assert_eq!(info.k[8], 1.0);
            assert_eq!(msg::encode(&info).unwrap(), message.data);
        }
    }
    assert_eq!(encodings, ["bgr8", "rgb8", "mono8", "bgr8"]);
}

#[test]
fn images_come_out_decoded_and_other_types_are_refused() {
    let Some(path) = shared("rosbag2/highway_mcap") else { return };
    let limits = Limits::default();
    let (mut jpegs, mut raw) = (0, 0);
    for message in read(&path) {
        if message.topic == "/camera/front/camera_info" {
            // Its bytes would decode as an image: the type decides.
            let refused = message.image(&limits).unwrap_err().to_string();
            assert!(refused.contains("CameraInfo is not a picture"), "{refused}");
            continue;
        }
        let image = message.image(&limits).unwrap();
        assert_eq!((image.height, image.width), (540, 960));
        assert_eq!(image.header.frame_id, "front_camera");
        if message.topic == CAMERA {
            assert_eq!(image.data.len(), 540 * 960 * 3);
            jpegs += 1;
        } else {
            raw += 1;
        }
    }
    assert_eq!((jpegs, raw), (60, 4));
    let truncated = Message { data: vec![0, 1, 0, 0, 9], ..read(&path).swap_remove(0) };
    assert_eq!(truncated.image(&limits).unwrap_err().name(), "cdr");
}

#[test]
fn a_start_and_topics_narrow_what_is_read() {
    for name in ["rosbag2/highway_mcap", "rosbag2/highway_sqlite3"] {
        let Some(path) = shared(name) else { return };
        let bag = BagReader::open(&path).unwrap();
        let from = 1_700_000_004_000_000_000;
        let messages = bag.messages_from(&[CAMERA.to_string()], from).unwrap();
        let messages: Vec<_> = messages.map(|message| message.unwrap()).collect();
        assert_eq!(messages.len(), 10, "{name}: 4.00 to 4.72 s at 12.5 Hz");
        assert!(messages.iter().all(|m| m.topic == CAMERA && m.log_time_ns >= from));
        let error = bag.messages(&["/lidar".to_string()]).err().unwrap().chain();
        assert!(error.contains("/lidar") && error.contains(CAMERA), "{error}");
    }
}

#[test]
fn bags_recorded_by_ros_itself_are_read() {
    let folder = tempfile::tempdir().unwrap();
    for (storage, file) in [("mcap", "talker.mcap"), ("sqlite3", "talker.db3")] {
        let here = format!("py_test_resources_{storage}_talker_");
        let (data, said) = (format!("{here}{file}"), format!("{here}metadata.yaml"));
        let files = [(data.as_str(), file), (said.as_str(), "metadata.yaml")];
        let Some(bag) = fixture(&folder.path().join(storage), &files) else { return };
        let messages = read(&bag);
        assert_eq!(counts(&messages), BTreeMap::from([("/rosout", 10), ("/topic", 10)]));
        let texts = messages.iter().filter(|message| message.topic == "/topic");
        let texts: Vec<String> = texts.map(|text| msg::decode(&text.data).unwrap()).collect();
        let expected: Vec<_> = (0..10).map(|i| format!("Hello, world! {i}")).collect();
        assert_eq!(texts, expected, "{storage}");
        let bag = BagReader::open(&bag).unwrap();
        let topic = bag.topics().iter().find(|topic| topic.name == "/rosout").unwrap();
        assert_eq!(topic.qos, Some(Qos { reliable: true, transient_local: true }));
    }
    for (storage, file) in [("mcap", "cdr_test_0.mcap"), ("sqlite3", "cdr_test_0.db3")] {
        let here = format!("tests_resources_{storage}_cdr_test_");
        let (data, said) = (format!("{here}{file}"), format!("{here}metadata.yaml"));
        let files = [(data.as_str(), file), (said.as_str(), "metadata.yaml")];
        let Some(bag) = fixture(&folder.path().join(file), &files) else { return };
        let messages = read(&bag);
        assert_eq!(counts(&messages), BTreeMap::from([("/array_topic", 4), ("/test_topic", 3)]));
        assert_eq!(messages[0].log_time_ns, 1_586_406_456_763_032_325, "{storage}");
        assert_eq!(messages[6].log_time_ns, 1_586_406_456_914_169_506, "{storage}");
    }
}

/// `rcl_interfaces/msg/Log` as far as it is needed here.
#[derive(Deserialize)]
struct Log {
    _stamp: Stamp,
    _level: u8,
    _name: String,
    message: String,
}

#[test]
fn single_files_and_folders_without_metadata_are_bags_too() {
    let folder = tempfile::tempdir().unwrap();
    let talker = "py_test_resources_sqlite3_talker_talker.db3";
    let Some(bag) = fixture(folder.path(), &[(talker, "talker.db3")]) else { return };
    assert_eq!(read(&bag), read(&bag.join("talker.db3")));
    let logs = read(&bag).into_iter().filter(|message| message.topic == "/rosout");
    let logs: Vec<Log> = logs.map(|log| msg::decode(&log.data).unwrap()).collect();
    assert_eq!(logs.len(), 10);
    assert!(logs[0].message.contains("Hello, world! 0"));

    let services = "cpp_test_rosbag2_cpp_bags_topics_and_services.";
    for (end, counted) in [
        ("db3", [("/add_two_ints/_service_event", 6), ("/parameter_events", 7)]),
        ("mcap", [("/add_two_ints/_service_event", 6), ("/parameter_events", 7)]),
    ] {
        let from = format!("{services}{end}");
        let Some(bag) = fixture(&folder.path().join(end), &[(&from, "a")]) else { return };
        assert_eq!(counts(&read(&bag.join("a"))), BTreeMap::from(counted), "{end}");
    }
    fs::create_dir(folder.path().join("empty")).unwrap();
    assert!(error(&folder.path().join("empty")).contains("not a bag"));
    assert!(error(&folder.path().join("none")).contains("none"));
}

#[test]
fn zstd_around_a_file_is_taken_off_and_its_corruption_told() {
    let folder = tempfile::tempdir().unwrap();
    for (storage, file) in [("mcap", "talker.mcap"), ("sqlite3", "talker.db3")] {
        let here = format!("py_test_resources_{storage}_talker_");
        let (data, said) = (format!("{here}{file}"), format!("{here}metadata.yaml"));
        let files = [(data.as_str(), file), (said.as_str(), "metadata.yaml")];
        let Some(bag) = fixture(&folder.path().join(storage), &files) else { return };
        let plain = read(&bag);
        let packed = bag.join(format!("{file}.zstd"));
        let bytes = zstd::encode_all(&fs::read(bag.join(file)).unwrap()[..], 1).unwrap();
        fs::write(&packed, &bytes).unwrap();
        fs::remove_file(bag.join(file)).unwrap();
        let yaml = fs::read_to_string(bag.join("metadata.yaml")).unwrap();
        let yaml = yaml.replace(file, &format!("{file}.zstd"));
        let yaml = yaml.replace("compression_format: ''", "compression_format: zstd");
        let yaml = yaml.replace("compression_mode: ''", "compression_mode: FILE");
        fs::write(bag.join("metadata.yaml"), yaml).unwrap();
        assert_eq!(read(&bag), plain, "{storage}");
        assert_eq!(read(&packed), plain, "{storage}");
        fs::write(&packed, &bytes[..bytes.len() / 2]).unwrap();
        let error = error(&bag);
        assert!(error.contains(".zstd: zstd: "), "{error}");
    }
}

#[test]
fn damage_is_one_error_that_names_the_file_and_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    for (storage, file, cut) in
        [("mcap", "talker.mcap", "cut short"), ("sqlite3", "talker.db3", "its header says 28672")]
    {
        let here = format!("py_test_resources_{storage}_talker_");
        let (data, said) = (format!("{here}{file}"), format!("{here}metadata.yaml"));
        let files = [(data.as_str(), file), (said.as_str(), "metadata.yaml")];
        let Some(bag) = fixture(&folder.path().join(storage), &files) else { return };
        let (whole, yaml) = (bag.join(file), bag.join("metadata.yaml"));
        let (bytes, text) = (fs::read(&whole).unwrap(), fs::read_to_string(&yaml).unwrap());

        fs::write(&yaml, text.replace("message_count: 20", "message_count: 21")).unwrap();
        assert!(error(&bag).contains("says 21 messages in all, the files hold 20"));
        fs::write(&yaml, text.replacen("message_count: 10", "message_count: 9", 1)).unwrap();
        assert!(error(&bag).contains("says 9 messages on /"), "{}", error(&bag));
        let other = if storage == "mcap" { "sqlite3" } else { "mcap" };
        let id = format!("storage_identifier: {storage}");
        fs::write(&yaml, text.replace(&id, &format!("storage_identifier: {other}"))).unwrap();
        assert!(error(&bag).contains(&format!("is {storage}, metadata.yaml says {other}")));
        fs::write(&yaml, text.replace("std_msgs/msg/String", "std_msgs/msg/Int8")).unwrap();
        assert!(error(&bag).contains("says /topic is std_msgs/msg/Int8, the files say"));
        fs::write(&yaml, &text).unwrap();

        fs::write(&whole, &bytes[..bytes.len() * 2 / 3]).unwrap();
        let message = error(&bag);
        assert!(message.contains(file) && message.contains(cut), "{message}");
        fs::write(&whole, b"not a bag at all").unwrap();
        assert!(error(&bag).contains("neither mcap nor sqlite3"));
        fs::remove_file(&whole).unwrap();
        let message = error(&bag);
        assert!(message.contains("metadata.yaml: names") && message.contains(file), "{message}");
    }
}

#[test]
fn metadata_of_old_versions_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let v5 = folder.path().join("v5");
    fs::create_dir(&v5).unwrap();
    let Some(said) = shared("rosbag2_official_fixtures/real_camera_bag_v5_metadata.yaml") else {
        return;
    };
    fs::write(v5.join("metadata.yaml"), fs::read(said).unwrap()).unwrap();
    let message = error(&v5);
    assert!(message.contains("rosbag2_2025_02_09-07_49_15_0.db3, which is not there"), "{message}");

    // Up to version 3 a path names the folder it was recorded in.
    let here = "py_test_resources_sqlite3_talker_";
    let (data, said) = (format!("{here}talker.db3"), format!("{here}metadata.yaml"));
    let files = [(data.as_str(), "talker.db3"), (said.as_str(), "metadata.yaml")];
    let Some(bag) = fixture(folder.path(), &files) else { return };
    let yaml = fs::read_to_string(bag.join("metadata.yaml")).unwrap();
    let yaml = yaml.replace("version: 4", "version: 2").replace("- talker.db3", "- old/talker.db3");
    let lines =
        yaml.lines().filter(|line| !line.contains("compression") && !line.contains("offered"));
    fs::write(bag.join("metadata.yaml"), lines.collect::<Vec<_>>().join("\n")).unwrap();
    assert_eq!(read(&bag).len(), 20);
}

#[test]
fn a_flipped_bit_in_a_chunk_is_found() {
    let folder = tempfile::tempdir().unwrap();
    for compression in [None, Some(mcap::Compression::Zstd), Some(mcap::Compression::Lz4)] {
        let path = folder.path().join("a.mcap");
        let options = mcap::WriteOptions::new().compression(compression);
        let mut file = options.create(fs::File::create(&path).unwrap()).unwrap();
        let channel = file.add_channel(0, "/a", "cdr", &BTreeMap::new()).unwrap();
        let payload: Vec<u8> = (0..50_000_u32).map(|i| (i * i % 251) as u8).collect();
        let header = mcap::records::MessageHeader {
            channel_id: channel,
            sequence: 0,
            log_time: 7,
            publish_time: 7,
        };
        file.write_to_known_channel(&header, &payload).unwrap();
        file.finish().unwrap();
        assert_eq!(read(&path)[0].data, payload);
        let mut bytes = fs::read(&path).unwrap();
        bytes[200] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = error(&path);
        assert!(error.contains("a.mcap: chunk at byte"), "{compression:?}: {error}");
    }
}

#[test]
fn no_damage_to_a_file_makes_the_reader_panic() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "py_test_resources_mcap_talker_talker.mcap",
        "tests_resources_mcap_cdr_test_cdr_test_0.mcap",
        "py_test_resources_sqlite3_talker_talker.db3",
    ] {
        let Some(bag) = fixture(folder.path(), &[(name, "a")]) else { return };
        let path = bag.join("a");
        let whole = fs::read(&path).unwrap();
        let mut refused = 0;
        for at in (0..whole.len()).step_by(97) {
            for value in [0x00, 0xff, whole[at] ^ 0x01] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                fs::write(&path, bytes).unwrap();
                let messages = BagReader::open(&path).and_then(|bag| bag.messages(&[]));
                let read = messages.and_then(|messages| messages.collect::<Result<Vec<_>, _>>());
                refused += usize::from(read.is_err());
            }
        }
        assert!(refused > 0, "{name}");
    }
}

fn picture(sec: i32) -> Image {
    let header = Header { stamp: Stamp { sec, nanosec: 5 }, frame_id: "front".into() };
    let encoding = "mono8".into();
    let data = (0..6).collect();
    Image { header, height: 2, width: 3, encoding, is_bigendian: 0, step: 3, data }
}

/// Two topics, forty messages.
fn write(path: &Path) -> Vec<(String, u64, Vec<u8>)> {
    let mut bag = BagWriter::create(path).unwrap();
    let latched = Qos { reliable: true, transient_local: true };
    let masks = bag.add_topic("/front/ood/image", &msg::IMAGE, Qos::default()).unwrap();
    let infos = bag.add_topic("/front/ood/camera_info", &msg::CAMERA_INFO, latched).unwrap();
    assert!(bag.add_topic("/front/ood/image", &msg::IMAGE, latched).is_err());
    let mut written = Vec::new();
    for i in 0..20_i32 {
        let image = picture(i);
        let info = CameraInfo { header: image.header.clone(), ..CameraInfo::default() };
        let time = u64::try_from(i).unwrap() * 100;
        for (id, topic, cdr) in [
            (masks, "/front/ood/image", msg::encode(&image).unwrap()),
            (infos, "/front/ood/camera_info", msg::encode(&info).unwrap()),
        ] {
            bag.write(id, time, &cdr).unwrap();
            written.push((topic.to_string(), time, cdr));
        }
    }
    assert!(!path.exists(), "not before it is finished");
    bag.finish().unwrap();
    written
}

#[test]
fn a_written_bag_is_read_back_the_same_and_has_the_same_bytes_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("one/bag"), folder.path().join("two/bag"));
    let written = write(&a);
    write(&b);
    let messages = read(&a);
    let back: Vec<_> = messages.into_iter().map(|m| (m.topic, m.log_time_ns, m.data)).collect();
    assert_eq!(back, written);
    for file in ["bag_0.mcap", "metadata.yaml"] {
        assert!(fs::read(a.join(file)).unwrap() == fs::read(b.join(file)).unwrap(), "{file}");
    }
    let bag = BagReader::open(&a).unwrap();
    assert_eq!(bag.topics()[1].qos, Some(Qos::default()));
    assert_eq!(bag.topics()[0].qos, Some(Qos { reliable: true, transient_local: true }));
    assert!(BagWriter::create(&a).err().unwrap().chain().contains("already there"));
}

#[test]
fn an_unfinished_bag_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut bag = BagWriter::create(&folder.path().join("bag")).unwrap();
    let topic = bag.add_topic("/a", &msg::IMAGE, Qos::default()).unwrap();
    bag.write(topic, 1, &msg::encode(&picture(1)).unwrap()).unwrap();
    drop(bag);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn files_of_a_split_bag_are_merged_by_log_time() {
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("bag");
    fs::create_dir(&bag).unwrap();
    for (name, times) in [("z_0", [10, 30, 50]), ("a_10", [20, 30, 60]), ("m_2", [70, 80, 90])] {
        let mut part = BagWriter::create(&folder.path().join(name)).unwrap();
        let topic = part.add_topic("/a", &msg::IMAGE, Qos::default()).unwrap();
        for time in times {
            part.write(topic, time, name.as_bytes()).unwrap();
        }
        part.finish().unwrap();
        let file = format!("{name}_0.mcap");
        fs::rename(folder.path().join(name).join(&file), bag.join(&file)).unwrap();
    }
    let merged: Vec<_> = read(&bag)
        .into_iter()
        .map(|m| (m.log_time_ns, String::from_utf8(m.data).unwrap()))
        .collect();
    let z = |time| (time, "z_0".to_string());
    let a = |time| (time, "a_10".to_string());
    let m = |time| (time, "m_2".to_string());
    assert_eq!(merged, [z(10), a(20), z(30), a(30), z(50), a(60), m(70), m(80), m(90)]);
}

#[test]
fn mcap_without_chunks_and_with_each_compression_is_read_in_log_time_order() {
    use mcap::{Compression, WriteOptions};
    let folder = tempfile::tempdir().unwrap();
    for (name, options) in [
        ("unchunked", WriteOptions::new().use_chunks(false)),
        ("none", WriteOptions::new().compression(None).chunk_size(Some(10))),
        ("zstd", WriteOptions::new().compression(Some(Compression::Zstd)).chunk_size(Some(10))),
        ("lz4", WriteOptions::new().compression(Some(Compression::Lz4))),
    ] {
        let path = folder.path().join(name);
        let mut file = options.create(fs::File::create(&path).unwrap()).unwrap();
        let schema = file.add_schema("std_msgs/msg/String", "ros2msg", b"string data").unwrap();
        let channel = file.add_channel(schema, "/a", "cdr", &BTreeMap::new()).unwrap();
        let skipped = file.add_channel(schema, "/json", "json", &BTreeMap::new()).unwrap();
        for (channel_id, log_time, data) in
            [(channel, 3, "c"), (skipped, 3, "{}"), (channel, 1, "a"), (channel, 3, "d")]
        {
            let header =
                mcap::records::MessageHeader { channel_id, sequence: 0, log_time, publish_time: 0 };
            file.write_to_known_channel(&header, data.as_bytes()).unwrap();
        }
        file.finish().unwrap();
        let bag = BagReader::open(&path).unwrap();
        let messages = bag.messages(&["/a".to_string()]).unwrap();
        let messages: Vec<_> =
            messages.map(|m| m.unwrap()).map(|m| (m.log_time_ns, m.data)).collect();
        assert_eq!(
            messages,
            [(1, b"a".to_vec()), (3, b"c".to_vec()), (3, b"d".to_vec())],
            "{name}"
        );
        let error = bag.messages(&[]).err().unwrap().chain();
        assert!(error.contains("/json is serialized as `json`"), "{error}");
    }
}

/// What the Python readers found.
#[derive(Deserialize)]
struct Peer {
    topics: BTreeMap<String, (String, usize, bool, String, String)>,
    messages: Vec<(String, u64, (i32, u32), String)>,
    mcap_agrees: bool,
    profile: String,
}

#[test]
fn what_we_write_is_read_by_rosbags_and_mcap_for_python() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    let has = |python: &Path| {
        let run = Command::new(python).args(["-c", "import rosbags, mcap"]).output();
        run.is_ok_and(|run| run.status.success())
    };
    if !has(&python) {
        eprintln!("SKIP: {} has no rosbags; `make test` installs it", python.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bag");
    let written = write(&path);
    let run = Command::new(&python).arg(root.join("tests/peers/read_bag.py")).arg(&path).output();
    let run = run.unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let peer: Peer = serde_json::from_slice(&run.stdout).unwrap();
    let topic = |kind: &str, reliability: &str, durability: &str| {
        (kind.to_string(), 20, true, reliability.to_string(), durability.to_string())
    };
    assert_eq!(
        peer.topics,
        BTreeMap::from([
            ("/front/ood/image".into(), topic("sensor_msgs/msg/Image", "BEST_EFFORT", "VOLATILE")),
            (
                "/front/ood/camera_info".into(),
                topic("sensor_msgs/msg/CameraInfo", "RELIABLE", "TRANSIENT_LOCAL")
            ),
        ])
    );
    let digest = |bytes: &[u8]| {
        use sha2::Digest;
        sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    assert_eq!(peer.messages.len(), written.len());
    for ((topic, time, cdr), (their_topic, their_time, stamp, sha256)) in
        written.iter().zip(&peer.messages)
    {
        assert_eq!((topic, *time, digest(cdr)), (their_topic, *their_time, sha256.clone()));
        assert_eq!(*stamp, (i32::try_from(*time / 100).unwrap(), 5));
    }
    assert!(peer.mcap_agrees);
    assert_eq!(peer.profile, "ros2");
}
