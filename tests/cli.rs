//! The command line tool as its user meets it: help, results, complaints, Ctrl-C.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test stops where it fails and says what it skips"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ood_segmentation::bag::{BagReader, BagWriter, Message, Qos};
use ood_segmentation::image::{Image, Limits};
use ood_segmentation::msg::{self, CameraInfo, CompressedImage, Header, Stamp};
use tempfile::TempDir;

/// What `--bag-out` writes of a frame, in this order; the names of the classes once.
const OUTPUTS: [&str; 9] = [
    "semantic/image",
    "semantic/confidence",
    "ood/image",
    "ood/probability",
    "ood/score",
    "overlay/image",
    "semantic/label_info",
    "ood/detections",
    "ood/outlines",
];
/// Rows and columns of the pictures in bags.
const SIZE: (u32, u32) = (12, 20);

fn ood_seg() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ood_seg"));
    command.env_remove("RUST_LOG");
    command
}

/// Exit code, stdout, stderr.
fn ran(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// A folder with `tiny.safetensors`, a small network of fixed random weights.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("tiny.safetensors");
    let (code, _, err) = ran(ood_seg().args(["init", "--arch", "tiny", "--out"]).arg(weights));
    assert_eq!(code, Some(0), "{err}");
    folder
}

/// `segment` with that network.
fn segment(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = ood_seg();
    command.current_dir(folder).args(["segment", "--weights", "tiny.safetensors"]);
    command.args(["--device", "cpu", "--plan", "single"]).args(arguments);
    command
}

fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pictures").join(name)
}

/// Every file below a folder with its content.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

fn names(folder: &Path) -> Vec<String> {
    files(folder).into_keys().collect()
}

/// A recorded picture; its stamp counts the frames.
fn frame(index: i32) -> Image {
    let (h, w) = (SIZE.0 as usize, SIZE.1 as usize);
    let header =
        Header { stamp: Stamp { sec: index, nanosec: 7 }, frame_id: "front_optical".into() };
    let data: Vec<u8> = (0..h * w).map(|at| u8::try_from(at % 251).unwrap()).collect();
    Image::packed(header, (h, w), "mono8", data)
}

/// A bag `name` with these pictures on `/front/image_raw`, one every 10 ms.
fn bag(folder: &Path, name: &str, images: impl Iterator<Item = Image>) -> PathBuf {
    let path = folder.join(name);
    let mut bag = BagWriter::create(&path).unwrap();
    let topic = bag.add_topic("/front/image_raw", &msg::IMAGE, Qos::default()).unwrap();
    for (image, time) in images.zip(1..) {
        bag.write(topic, time * 10_000_000, &msg::encode(&image).unwrap()).unwrap();
    }
    bag.finish().unwrap();
    path
}

fn messages(bag: &Path) -> Vec<Message> {
    BagReader::open(bag).unwrap().messages(&[]).unwrap().map(Result::unwrap).collect()
}

#[test]
fn every_command_explains_itself() {
    let (code, help, _) = ran(ood_seg().arg("--help"));
    assert_eq!(code, Some(0));
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands: Vec<_> =
        list.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    for expected in ["demo", "segment", "replay", "convert", "init", "check"] {
        assert!(commands.contains(&expected), "{help}");
    }
    for command in commands.into_iter().filter(|command| *command != "help") {
        let (code, help, err) = ran(ood_seg().args([command, "--help"]));
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(help.contains(&format!("Usage: ood_seg {command} ")), "{help}");
        // An option without a description would stand alone on its line.
        for line in help.lines().filter(|line| line.trim_start().starts_with('-')) {
            let described = line.trim().contains("  ") || help.contains(&format!("{line}\n    "));
            assert!(described, "{command}: {line}");
        }
    }
    let (code, out, err) = ran(&mut ood_seg());
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(err.contains("Usage: ood_seg"), "{err}");
}

#[test]
fn shards_of_folder_and_bag_are_disjoint_complete_and_the_same_each_time() {
    let folder = folder();
    let path = folder.path();
    fs::create_dir(path.join("photos")).unwrap();
    for name in ["a", "b", "c"] {
        fs::copy(picture("restart.jpg"), path.join(format!("photos/{name}.jpg"))).unwrap();
    }
    bag(path, "bag", (0..4).map(frame));
    let results = |shard: &str, out: &str| {
        let inputs = ["photos", "bag", "--write", "ood", "--shard", shard, "--out", out];
        let (code, out_text, err) = ran(&mut segment(path, &inputs));
        assert_eq!(code, Some(0), "{out_text}{err}");
        names(&path.join(out))
    };
    let whole = results("0/1", "whole");
    assert_eq!(whole.len(), 7, "{whole:?}");
    let parts = ["0/3", "1/3", "2/3"].map(|shard| results(shard, &shard.replace('/', "-of-")));
    assert_eq!(parts.each_ref().map(Vec::len), [3, 2, 2]);
    let mut joined = parts.concat();
    joined.sort();
    assert_eq!(joined, whole);
    assert_eq!(results("1/3", "again"), parts[1]);
}

#[test]
fn bad_input_is_exit_code_2_one_line_with_the_cause_and_no_file() {
    let folder = folder();
    let path = folder.path();
    let weights = fs::read(path.join("tiny.safetensors")).unwrap();
    fs::write(path.join("cut.safetensors"), &weights[..weights.len() / 2]).unwrap();
    fs::copy(path.join("tiny.yaml"), path.join("cut.yaml")).unwrap();
    fs::write(path.join("alone.safetensors"), &weights).unwrap();
    fs::create_dir(path.join("empty")).unwrap();
    fs::copy(picture("restart.jpg"), path.join("good.jpg")).unwrap();
    let jpeg = fs::read(picture("restart.jpg")).unwrap();
    fs::write(path.join("cut.jpg"), &jpeg[..jpeg.len() / 2]).unwrap();
    fs::write(path.join("text.png"), "not a picture").unwrap();
    fs::write(path.join("file"), "in the way").unwrap();
    let mut infos = BagWriter::create(&path.join("infos")).unwrap();
    let topic = infos.add_topic("/front/camera_info", &msg::CAMERA_INFO, Qos::default()).unwrap();
    infos.write(topic, 1, &[0, 1, 0, 0]).unwrap();
    infos.finish().unwrap();
    bag(path, "bag", [frame(1)].into_iter());
    let before = names(path);
    let cases: [(&[&str], &[&str]); 17] = [
        (&["none.jpg"], &["none.jpg: No such file"]),
        (&["none_bag", "--bag-out", "x"], &["none_bag: No such file"]),
        (&["empty"], &["empty", "without jpg, png or webp", "not a bag"]),
        (&["cut.jpg"], &["cut.jpg: JPEG: ", "expected", "found"]),
        (&["text.png"], &["text.png", "neither JPEG, PNG nor WebP", "13 bytes"]),
        (&["good.jpg", "./good.jpg"], &["good.jpg", "same stem"]),
        (&["good.jpg", "--weights", "cut.safetensors"], &["cut.safetensors"]),
        (&["good.jpg", "--weights", "alone.safetensors"], &["alone.yaml: No such file"]),
        (&["good.jpg", "--device", "tpu"], &["tpu", "cuda:N"]),
        (&["good.jpg", "--batch", "0"], &["`batch` is 0", "1 window"]),
        (&["good.jpg", "--ood-threshold", "nan"], &["NaN", "finite"]),
        (&["good.jpg", "--out", "file"], &["file: a file", "need a folder"]),
        (&["good.jpg", "--bag-out", "x"], &["good.jpg", "--bag-out takes bags only"]),
        (&["infos", "--bag-out", "x"], &["infos: no image topic", "/front/camera_info"]),
        (
            &["bag", "--topics", "/rear", "--bag-out", "x"],
            &["bag: no image topic", "/front/image_raw"],
        ),
        (&["bag", "--bag-out", "file"], &["file: already there"]),
        (&["bag", "--bag-out", "file/x"], &["file"]),
    ];
    for (arguments, told) in cases {
        let mut command = ood_seg();
        command.current_dir(path).args(["segment", "--plan", "single"]).args(arguments);
        for (option, value) in
            [("--weights", "tiny.safetensors"), ("--device", "cpu"), ("--out", "o")]
        {
            if !arguments.contains(&option) {
                command.args([option, value]);
            }
        }
        let (code, out, err) = ran(&mut command);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}: {err}");
        let complaints: Vec<_> = err.lines().filter(|line| line.starts_with("ood_seg: ")).collect();
        assert_eq!(complaints.len(), 1, "{arguments:?}: {err}");
        for part in told {
            assert!(complaints[0].contains(part), "{part:?} is not in {err}");
        }
        assert_eq!(names(path), before, "{arguments:?}");
    }
}

#[test]
fn an_unknown_value_is_answered_with_those_there_are() {
    for (option, value, allowed) in [
        ("--score", "lrr", "llr, "),
        ("--plan", "tile", "paper, tiles, single"),
        ("--precision", "fp16", "bf16"),
        ("--write", "masks", "labels, ood, score, overlay"),
    ] {
        let (code, out, err) =
            ran(ood_seg().args(["segment", "a.jpg", "--weights", "w", option, value]));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        assert!(err.contains(option) && err.contains(value) && err.contains(allowed), "{err}");
    }
}

#[test]
fn a_folder_of_pictures_becomes_four_files_each_the_same_every_time() {
    let folder = folder();
    let path = folder.path();
    fs::create_dir(path.join("in")).unwrap();
    fs::copy(picture("restart.jpg"), path.join("in/b.JPG")).unwrap();
    fs::copy(picture("alpha.png"), path.join("in/a.png")).unwrap();
    fs::write(path.join("in/notes.txt"), "no picture").unwrap();
    let mut outputs = Vec::new();
    for out in ["one", "two"] {
        let (code, said, err) = ran(&mut segment(path, &["in", "--out", out]));
        assert_eq!(code, Some(0), "{err}");
        assert!(said.starts_with(&format!("2 pictures in {out}: NAME_labels.png, ")), "{said}");
        outputs.push(files(&path.join(out)));
    }
    assert!(outputs[0] == outputs[1]);
    let kinds = ["labels.png", "ood.png", "overlay.png", "score.npy"];
    let expected = ["a", "b"].map(|stem| kinds.map(|kind| format!("{stem}_{kind}"))).concat();
    assert_eq!(outputs[0].keys().cloned().collect::<Vec<_>>(), expected);
    let npy = &outputs[0]["b_score.npy"];
    assert!(npy.starts_with(b"\x93NUMPY\x01\x00"));
    assert!(
        String::from_utf8_lossy(&npy[..128]).contains("'shape': (16, 24)"),
        "restart.jpg is 24x16"
    );
    let (code, _, err) = ran(&mut segment(path, &["in/a.png", "--out", "few", "--write", "ood"]));
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(names(&path.join("few")), ["a_ood.png"]);
}

#[test]
fn a_bad_picture_among_good_ones_is_named_and_the_others_are_segmented() {
    let folder = folder();
    let path = folder.path();
    fs::create_dir(path.join("in")).unwrap();
    fs::copy(picture("restart.jpg"), path.join("in/a.jpg")).unwrap();
    fs::write(path.join("in/b.jpg"), [0xff, 0xd8, 0xff, 0xe0]).unwrap();
    fs::copy(picture("progressive.jpg"), path.join("in/c.jpg")).unwrap();
    let (code, out, err) = ran(&mut segment(path, &["in", "--out", "out", "--write", "labels"]));
    assert_eq!(code, Some(2), "{err}");
    assert_eq!(names(&path.join("out")), ["a_labels.png", "c_labels.png"]);
    assert!(out.starts_with("2 pictures in out"), "{out}");
    let complaints: Vec<_> = err.lines().filter(|line| line.starts_with("ood_seg: ")).collect();
    assert!(complaints[0].starts_with("ood_seg: in/b.jpg: JPEG: "), "{err}");
    assert_eq!(
        complaints[1..],
        ["ood_seg: out: 2 of 3 pictures, the others could not be segmented"]
    );

    let lying = Image { step: 3, ..frame(2) };
    let input = bag(path, "bag", [frame(1), lying, frame(3)].into_iter());
    let (code, out, err) = ran(&mut segment(path, &["bag", "--bag-out", "masks"]));
    assert_eq!((code, out.as_str()), (Some(2), "2 frames in masks\n"), "{err}");
    assert!(err.contains("bag: /front/image_raw at 20000000 ns: "), "{err}");
    assert!(err.contains("step is 3, but a row of 20 mono8 pixels takes 20 bytes"), "{err}");
    let stamps = messages(&path.join("masks")).into_iter().map(|message| message.log_time_ns);
    let expected = [vec![10_000_000; OUTPUTS.len()], vec![30_000_000; OUTPUTS.len() - 1]];
    assert_eq!(stamps.collect::<Vec<_>>(), expected.concat());

    fs::remove_dir_all(&input).unwrap();
    bag(path, "bag", [Image { step: 3, ..frame(2) }, Image { width: 0, ..frame(2) }].into_iter());
    let (code, out, err) = ran(&mut segment(path, &["bag", "--bag-out", "none"]));
    assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
    assert!(err.contains("none: 0 of 2 pictures") && !path.join("none").exists(), "{err}");
}

#[test]
fn a_bag_becomes_a_bag_of_every_frame_that_others_read() {
    let folder = folder();
    let path = folder.path();
    bag(path, "bag", (1..4).map(frame));
    for out in ["one", "two"] {
        let (code, said, err) = ran(&mut segment(path, &["bag", "--bag-out", out]));
        assert_eq!((code, said), (Some(0), format!("3 frames in {out}\n")), "{err}");
    }
    let content = |name: &str| fs::read(path.join(format!("{name}/{name}_0.mcap"))).unwrap();
    assert!(content("one") == content("two"));
    let mut found = messages(&path.join("one")).into_iter();
    for index in 1..4 {
        for name in OUTPUTS.iter().filter(|name| index == 1 || **name != "semantic/label_info") {
            let message = found.next().unwrap();
            assert_eq!(message.topic, format!("/front/{name}"));
            assert_eq!(message.log_time_ns, u64::try_from(index).unwrap() * 10_000_000);
            if message.type_name == msg::IMAGE.type_name {
                let image: Image = msg::decode(&message.data).unwrap();
                assert_eq!(image.header, frame(index).header);
                assert_eq!((image.height, image.width), SIZE);
            }
        }
    }
    assert!(found.next().is_none());
    let Some(read) = read_by_others(&path.join("one")) else { return };
    let topics: Vec<_> = read["topics"].as_object().unwrap().keys().cloned().collect();
    let mut expected = OUTPUTS.map(|name| format!("/front/{name}"));
    expected.sort();
    assert_eq!(topics, expected);
    assert_eq!(read["topics"]["/front/semantic/label_info"][4], "TRANSIENT_LOCAL");
    for (topic, said) in read["topics"].as_object().unwrap() {
        assert_eq!(said[2], true, "{topic}: type hash");
    }
    let stamps = read["messages"].as_array().unwrap().iter().map(|message| message[2].to_string());
    let counts = [(1, OUTPUTS.len()), (2, OUTPUTS.len() - 1), (3, OUTPUTS.len() - 1)];
    let expected = counts.map(|(index, count)| vec![format!("[{index},7]"); count]).concat();
    assert_eq!(stamps.collect::<Vec<_>>(), expected);
}

/// What PyPI `rosbags` and `mcap` find in a bag, or a visible skip.
fn read_by_others(bag: &Path) -> Option<serde_json::Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    let import = Command::new(&python).args(["-c", "import rosbags, mcap"]).output();
    if !import.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIP: no rosbags; `make test` installs tests/peers/requirements.txt in .venv");
        return None;
    }
    let script = root.join("tests/peers/read_bag.py");
    let (code, out, err) = ran(Command::new(python).arg(script).arg(bag));
    assert_eq!(code, Some(0), "{err}");
    let read: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(read["mcap_agrees"], true);
    assert_eq!(read["profile"], "ros2");
    Some(read)
}

#[test]
fn pictures_become_one_mcap_file_for_viewers() {
    let folder = folder();
    let path = folder.path();
    fs::create_dir(path.join("in")).unwrap();
    fs::copy(picture("restart.jpg"), path.join("in/b.jpg")).unwrap();
    fs::copy(picture("alpha.png"), path.join("in/a.png")).unwrap();
    // A threshold that every pixel is above: one obstacle, the picture's border its outline.
    let arguments = ["in", "--fps", "4", "--ood-threshold=-1e9"];
    let (code, said, err) = ran(segment(path, &arguments).args(["--foxglove", "all.mcap"]));
    assert_eq!((code, said.as_str()), (Some(0), "2 frames in all.mcap\n"), "{err}");
    assert!(path.join("all.mcap").is_file());
    let found = messages(&path.join("all.mcap"));
    let topics = found.iter().map(|message| message.topic.as_str());
    let times = found.iter().map(|message| message.log_time_ns);
    let picture_topic = "/camera/image_raw/compressed";
    let mut expected: Vec<_> = OUTPUTS.iter().map(|name| format!("/camera/{name}")).collect();
    expected.push(picture_topic.to_owned());
    let again = expected.iter().filter(|name| !name.ends_with("label_info")).cloned();
    let expected = [expected.clone(), again.collect()].concat();
    assert_eq!(topics.collect::<Vec<_>>(), expected);
    assert_eq!(times.collect::<Vec<_>>(), [vec![250_000_000; 10], vec![500_000_000; 9]].concat());
    let of = |topic: &'static str| found.iter().filter(move |message| message.topic == topic);
    let header = |nanosec| Header { stamp: Stamp { sec: 0, nanosec }, frame_id: "camera".into() };
    let pictures = of(picture_topic).map(|message| {
        let jpeg: CompressedImage = msg::decode(&message.data).unwrap();
        assert_eq!(jpeg.format, "rgb8; jpeg compressed bgr8");
        Image::from_compressed(&jpeg, &Limits::default()).unwrap()
    });
    for (shown, (name, nanosec)) in
        pictures.zip([("alpha.png", 250_000_000), ("restart.jpg", 500_000_000)])
    {
        let own = Image::read_file(&picture(name), &Limits::default()).unwrap();
        assert_eq!(shown.header, header(nanosec));
        assert_eq!((shown.height, shown.width), (own.height, own.width), "{name}");
    }
    for (marker, detections) in of("/camera/ood/outlines").zip(of("/camera/ood/detections")) {
        let marker: msg::ImageMarker = msg::decode(&marker.data).unwrap();
        let detections: msg::Detection2DArray = msg::decode(&detections.data).unwrap();
        assert_eq!((marker.points.len(), detections.detections.len()), (8, 1));
        assert_eq!(marker.header, detections.header);
    }
    let Some(labels) = of("/camera/semantic/label_info").next() else { panic!("no names") };
    let labels: msg::LabelInfo = msg::decode(&labels.data).unwrap();
    assert_eq!(labels.class_map[0].class_name, "road");
    let read = read_by_others(&path.join("all.mcap"));
    assert!(read.is_none_or(|read| read["messages"].as_array().unwrap().len() == found.len()));
    let (code, _, err) = ran(&mut segment(path, &["in", "--foxglove", "all.mcap"]));
    assert!(code == Some(2) && err.contains("all.mcap: already there"), "{err}");
    let (code, _, err) = ran(&mut segment(path, &["in", "--foxglove", "all"]));
    assert!(code == Some(2) && err.contains("ends in .mcap"), "{err}");
}

#[test]
fn calibrations_of_a_bag_go_with_its_pictures_at_their_size() {
    let folder = folder();
    let path = folder.path();
    let mut bag = BagWriter::create(&path.join("bag")).unwrap();
    let images = bag.add_topic("/front/image_raw", &msg::IMAGE, Qos::default()).unwrap();
    let infos = bag.add_topic("/front/camera_info", &msg::CAMERA_INFO, Qos::default()).unwrap();
    for (index, focal) in [(1, 100.0), (2, 200.0)] {
        let image = frame(index);
        let mut info = CameraInfo { header: image.header.clone(), ..CameraInfo::default() };
        (info.height, info.width) = (2 * SIZE.0, 2 * SIZE.1);
        info.k = [focal, 0.0, 0.0, 0.0, focal, 0.0, 0.0, 0.0, 1.0];
        let time = u64::try_from(index).unwrap() * 1000;
        bag.write(images, time, &msg::encode(&image).unwrap()).unwrap();
        bag.write(infos, time + 1, &msg::encode(&info).unwrap()).unwrap();
    }
    bag.finish().unwrap();
    let (code, _, err) = ran(&mut segment(path, &["bag", "--foxglove", "front.mcap"]));
    assert_eq!(code, Some(0), "{err}");
    let found = messages(&path.join("front.mcap"));
    for name in ["camera_info", "semantic/camera_info", "ood/camera_info"] {
        let own = found.iter().filter(|message| message.topic == format!("/front/{name}"));
        let own: Vec<CameraInfo> = own.map(|info| msg::decode(&info.data).unwrap()).collect();
        assert_eq!(own.len(), 2, "{name}");
        for (info, index) in own.iter().zip(1..) {
            assert_eq!(info.header, frame(index).header);
            assert_eq!((info.height, info.width), SIZE);
            // The second comes after its picture, so that the newest by then is still the first.
            assert_eq!(info.k[0], 50.0, "{name}: half the size, half the focal length");
        }
    }
}

#[test]
fn two_topics_of_one_camera_do_not_write_over_each_others_results() {
    let folder = folder();
    let path = folder.path();
    let mut both = BagWriter::create(&path.join("bag")).unwrap();
    let raw = both.add_topic("/front/image_raw", &msg::IMAGE, Qos::default()).unwrap();
    let kind = &msg::COMPRESSED_IMAGE;
    let twin = both.add_topic("/front/image_raw/compressed", kind, Qos::default()).unwrap();
    let image = frame(1);
    let jpeg = CompressedImage {
        header: image.header.clone(),
        format: "jpeg".into(),
        data: fs::read(picture("restart.jpg")).unwrap(),
    };
    both.write(raw, 1, &msg::encode(&image).unwrap()).unwrap();
    both.write(twin, 2, &msg::encode(&jpeg).unwrap()).unwrap();
    both.finish().unwrap();
    for (out, topics, expected) in [
        (
            "all",
            &[][..],
            &[
                "front/image_raw/1.000000007_ood.png",
                "front/image_raw/compressed/1.000000007_ood.png",
            ][..],
        ),
        ("raw", &["--topics", "/front/image_raw"], &["front/1.000000007_ood.png"]),
    ] {
        let arguments = [&["bag", "--write", "ood", "--out", out], topics].concat();
        let (code, _, err) = ran(&mut segment(path, &arguments));
        assert_eq!(code, Some(0), "{err}");
        assert_eq!(names(&path.join(out)), expected);
    }
}

#[test]
fn ctrl_c_leaves_no_part_of_a_bag() {
    let folder = folder();
    let path = folder.path();
    bag(path, "bag", (0..5000).map(frame));
    fs::create_dir(path.join("out")).unwrap();
    let mut command = segment(path, &["bag", "--bag-out", "out/masks"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::read_dir(path.join("out")).unwrap().count() == 0 {
        assert!(Instant::now() < deadline, "the bag was not begun");
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(300)); // into the frames
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let err = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(130), "{err}");
    assert!(err.contains("out/masks: interrupted after ") && err.contains(" of 5000"), "{err}");
    assert_eq!(fs::read_dir(path.join("out")).unwrap().count(), 0, "{err}");
}

#[test]
fn a_drawn_bag_is_the_same_twice_and_rosbags_reads_pictures_and_calibration_of_one_stamp() {
    let folder = folder();
    let path = folder.path();
    let draw = |name: &str, more: &[&str]| {
        let out = path.join(name);
        let size =
            ["synth", "--bag", "--frames", "3", "--fps", "20", "--size", "64x48", "--seed", "4"];
        let (code, said, err) = ran(ood_seg().args(size).args(more).arg("--out").arg(&out));
        assert_eq!((code, said), (Some(0), format!("3 frames in {}\n", out.display())), "{err}");
        fs::read(out.join(format!("{name}_0.mcap"))).unwrap()
    };
    assert!(draw("one", &["--camera", "front"]) == draw("two", &["--camera", "front"]).clone());
    draw("jpeg", &["--jpeg"]);
    let found = messages(&path.join("one"));
    assert_eq!(found.len(), 6);
    for pair in found.chunks(2) {
        let info: CameraInfo = msg::decode(&pair[0].data).unwrap();
        let image: Image = msg::decode(&pair[1].data).unwrap();
        image.validate(&Limits::default()).unwrap();
        assert_eq!((image.height, image.width, image.encoding.as_str()), (48, 64, "rgb8"));
        assert_eq!((info.height, info.width, &info.header), (48, 64, &image.header));
        assert_eq!((image.header.frame_id.as_str(), info.k[8]), ("front_optical", 1.0));
        assert!(info.k[0] > 40.0 && info.p[0] == info.k[0] && info.p[6] == info.k[5]);
    }
    assert_eq!(found[5].log_time_ns - found[0].log_time_ns, 100_000_000);
    for message in messages(&path.join("jpeg")).iter().skip(1).step_by(2) {
        assert_eq!(message.topic, "/camera/image_raw/compressed");
        let image: CompressedImage = msg::decode(&message.data).unwrap();
        Image::from_compressed(&image, &Limits::default()).unwrap();
    }
    let again = ood_seg().args(["synth", "--bag", "--out"]).arg(path.join("one")).output().unwrap();
    assert!(String::from_utf8_lossy(&again.stderr).contains("already there"));
    let Some(read) = read_by_others(&path.join("one")) else { return };
    let topics: Vec<_> = read["topics"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(topics, ["/front/camera_info", "/front/image_raw"]);
    assert_eq!(read["messages"][5][2], serde_json::json!([1_767_225_600, 100_000_000]));
}
