//! Every accepted picture format through the real node, published and read back by an independent DDS
//! implementation; the masks are those of `ood_seg segment` on the same pictures, bit for bit.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a test stops where it fails and says what it skips"
)]

mod peers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use ood_segmentation::bag::{BagReader, BagWriter, Qos};
use ood_segmentation::checkpoint;
use ood_segmentation::image::{Encoding, Image, Limits, encode_jpeg, encode_png};
use ood_segmentation::model::{Precision, Score};
use ood_segmentation::msg::{self, CompressedImage, Header, Stamp};
use ood_segmentation::obstacle::ObstacleConfig;
use ood_segmentation::pipeline::{Pipeline, PipelineConfig, Planes};
use ood_segmentation::window::Plan;
use peers::{Node, Peer};
use serde_json::{Value, json};
use tch::Device;

const DOMAIN: u16 = 41;
/// Rows and columns: no square, no multiple of the network's patch, small enough for stock sockets.
const SIZE: (usize, usize) = (60, 100);
/// The picture outputs below a camera's namespace: name, encoding, bytes per pixel.
const OUTPUTS: [(&str, &str, usize); 6] = [
    ("semantic/image", "mono8", 1),
    ("semantic/confidence", "mono8", 1),
    ("ood/image", "mono8", 1),
    ("ood/probability", "mono8", 1),
    ("ood/score", "32FC1", 4),
    ("overlay/image", "rgb8", 3),
];
/// Those with a `/compressed` twin, and its format.
const TWINS: [(&str, &str); 4] = [
    ("semantic/image", "mono8; png compressed "),
    ("ood/image", "mono8; png compressed "),
    ("ood/probability", "mono8; png compressed "),
    ("overlay/image", "rgb8; jpeg compressed bgr8"),
];

/// Whether the kernel holds all outputs of one frame at once; a visible skip when it does not.
fn sockets_are_large_enough() -> bool {
    let (h, w) = SIZE;
    let frame: usize = OUTPUTS.iter().map(|(_, _, bytes)| bytes * h * w).sum();
    let need = 5 * frame / 2; // a burst wants two and a half times its size
    let limit = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    if limit < need {
        eprintln!("SKIP raw topics: they need net.core.rmem_max {need}, here it is {limit}");
    }
    limit >= need
}

/// A coloured picture with edges in both directions, rgb8.
fn scene() -> Vec<u8> {
    let (h, w) = SIZE;
    let pixel = |y: usize, x: usize| {
        let block = (y / 9 + x / 13) % 3 * 60;
        [y * 4 % 256, (x * 2 + block) % 256, (y * x / 11 + block) % 256].map(|value| value as u8)
    };
    (0..h * w).flat_map(|at| pixel(at / w, at % w)).collect()
}

/// The scene in an encoding, every row followed by `padding` bytes.
fn encoded(name: &str, padding: usize) -> Image {
    let (h, w) = SIZE;
    let rgb = scene();
    let px: Vec<[u8; 3]> = rgb.chunks(3).map(|px| [px[0], px[1], px[2]]).collect();
    let grey = |i: usize| px[i][1];
    let all = |f: &dyn Fn([u8; 3]) -> Vec<u8>| px.iter().flat_map(|&px| f(px)).collect();
    // Chroma of a pair of pixels; what colours it stands for does not matter here.
    let (u, v) = (|i: usize| px[i / 2 * 2][2], |i: usize| px[i / 2 * 2][0]);
    let packed: Vec<u8> = match Encoding::from_name(name).unwrap() {
        Encoding::Rgb8 => rgb,
        Encoding::Bgr8 => all(&|[r, g, b]| vec![b, g, r]),
        Encoding::Rgba8 => all(&|[r, g, b]| vec![r, g, b, 7]),
        Encoding::Bgra8 => all(&|[r, g, b]| vec![b, g, r, 7]),
        Encoding::Mono8 => (0..h * w).map(grey).collect(),
        Encoding::Uyvy => {
            let pair = |i| [if i % 2 == 0 { u(i) } else { v(i) }, grey(i)];
            (0..h * w).flat_map(pair).collect()
        }
        Encoding::Yuyv => {
            let pair = |i| [grey(i), if i % 2 == 0 { u(i) } else { v(i) }];
            (0..h * w).flat_map(pair).collect()
        }
        Encoding::Nv12 => {
            let row = |y: usize| (0..w).map(move |x| 2 * y * w + x);
            let chroma = (0..h / 2).flat_map(row).map(|i| if i % 2 == 0 { u(i) } else { v(i) });
            (0..h * w).map(grey).chain(chroma).collect()
        }
        Encoding::Bayer(colours) => {
            let colour = |i: usize| px[i][usize::from(colours[i / w % 2 * 2 + i % w % 2])];
            (0..h * w).map(colour).collect()
        }
    };
    let encoding = Encoding::from_name(name).unwrap();
    let row = encoding.row_bytes(w as u32) as usize;
    let pad = vec![0xA5; padding];
    let data = packed.chunks(row).flat_map(|row| [row, &pad].concat()).collect();
    let step = (row + padding) as u32;
    let (height, width, encoding) = (h as u32, w as u32, name.to_owned());
    Image { height, width, encoding, step, data, ..Image::default() }
}

/// A threshold that the scene's scores lie on both sides of.
fn middle_score(weights: &Path) -> f32 {
    let model = checkpoint::load(weights, Device::Cpu, Precision::F32).unwrap();
    let (plan, limits) = (Plan::Single, Limits::default());
    let config = PipelineConfig {
        plan,
        batch: 1,
        score: Score::Llr,
        ood_threshold: 0.0,
        obstacle: ObstacleConfig::default(),
        limits,
    };
    let pipeline = Pipeline::new(model, config).unwrap();
    let planes = Planes { score: true, ..Planes::default() };
    let mut score = pipeline.run(&encoded("rgb8", 0), planes).unwrap().score.unwrap();
    score.sort_by(f32::total_cmp);
    score[score.len() / 2]
}

/// `ood_seg segment` on what `input` names.
fn segment(weights: &Path, threshold: f32, input: &[&Path], output: [&str; 2]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ood_seg"));
    command.args(["segment", "--device", "cpu", "--plan", "single", "--weights"]).arg(weights);
    command.arg(format!("--ood-threshold={threshold}")).args(output).args(input);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Every output of every stamp that `ood_seg segment --bag-out` writes for these messages.
fn segmented(
    folder: &Path,
    (weights, threshold): (&Path, f32),
    messages: &[(u32, Image)],
) -> BTreeMap<(u32, String), Image> {
    let (input, output) = (folder.join("in"), folder.join("out"));
    let mut bag = BagWriter::create(&input).unwrap();
    let topic = bag.add_topic("/front/image_raw", &msg::IMAGE, Qos::default()).unwrap();
    for (stamp, image) in messages {
        bag.write(topic, u64::from(*stamp) * 1_000, &msg::encode(image).unwrap()).unwrap();
    }
    bag.finish().unwrap();
    segment(weights, threshold, &[&input], ["--bag-out", output.to_str().unwrap()]);
    let messages = BagReader::open(&output).unwrap().messages(&[]).unwrap().map(|m| m.unwrap());
    let pictures = messages.filter(|message| message.type_name == msg::IMAGE.type_name);
    let outputs = pictures.map(|message| {
        let image: Image = msg::decode(&message.data).unwrap();
        assert_eq!(message.log_time_ns, image.header.stamp.sec as u64 * 1_000);
        let name = message.topic.strip_prefix("/front/").unwrap().to_owned();
        ((image.header.stamp.sec as u32, name), image)
    });
    outputs.collect()
}

/// What came back of one picture: the peer's line by output.
fn outputs_of(peer: &Peer, stamp: u32, frame_id: &str, prefix: &str) -> BTreeMap<String, Value> {
    let mut seen = BTreeMap::new();
    peer.wait(&format!("complete set of outputs of {stamp}"), |line| {
        if line["stamp"] == json!([stamp, 5]) {
            assert_eq!(line["frame_id"], frame_id, "{line}");
            let topic = line["topic"].as_str().unwrap();
            seen.insert(topic.strip_prefix(prefix).unwrap().to_owned(), line.clone());
        }
        seen.len() == OUTPUTS.len() + TWINS.len() + 1
    });
    let status = &seen["status"];
    assert_eq!((&status["state"], &status["reason"]), (&json!(0), &json!("")), "{status}");
    assert_eq!((&status["height"], &status["width"]), (&json!(SIZE.0), &json!(SIZE.1)), "{status}");
    seen
}

fn bytes(line: &Value) -> Vec<u8> {
    std::fs::read(line["file"].as_str().unwrap()).unwrap()
}

/// The outputs agree among themselves, and each raw one with `expected` where that has it.
fn check(seen: &BTreeMap<String, Value>, expected: impl Fn(&str) -> Option<Vec<u8>>) {
    let (h, w) = SIZE;
    for (name, encoding, pixel) in OUTPUTS {
        let line = &seen[name];
        assert_eq!((&line["height"], &line["width"]), (&json!(h), &json!(w)), "{line}");
        assert_eq!((&line["encoding"], &line["is_bigendian"]), (&json!(encoding), &json!(0)));
        assert_eq!(line["step"], json!(w * pixel), "{line}");
        let found = bytes(line);
        assert_eq!(found.len(), h * w * pixel, "{line}");
        if let Some(expected) = expected(name) {
            let differ = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
            assert!(found == expected, "{differ} of {} bytes differ: {line}", expected.len());
        }
    }
    for (name, format) in TWINS {
        let line = &seen[&format!("{name}/compressed")];
        assert_eq!(line["format"], format, "{line}");
        let raw = bytes(&seen[name]);
        if format.contains("png") {
            assert_eq!((&line["height"], &line["width"]), (&json!(h), &json!(w)), "{line}");
            assert_eq!(line["channels"], 1, "{line}");
            assert!(bytes(line) == raw, "{line}");
        } else {
            let (data, header) = (bytes(line), Header::default());
            let jpeg = CompressedImage { header, format: format.into(), data };
            let jpeg = Image::from_compressed(&jpeg, &Limits::default()).unwrap();
            let off: u32 = jpeg.data.iter().zip(&raw).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
            let mean = f64::from(off) / raw.len() as f64;
            assert!(jpeg.data.len() == raw.len() && mean < 12.0, "{mean} levels off: {line}");
        }
    }
    for name in ["semantic/image", "ood/image"] {
        let mask = bytes(&seen[name]);
        assert!(mask.iter().any(|value| *value != mask[0]), "{name} is one value");
    }
    assert!(bytes(&seen["ood/image"]).iter().all(|value| [0, 255].contains(value)));
}

/// Reads every output of a camera, reliably.
fn read_all(peer: &mut Peer, camera: &str, folder: &Path) {
    let twins = TWINS.iter().map(|(name, _)| (format!("{name}/compressed"), "compressed"));
    let raw = OUTPUTS.iter().map(|(name, ..)| ((*name).to_owned(), "image"));
    for (name, kind) in raw.chain(twins).chain([("status".to_owned(), "status")]) {
        let topic = format!("/{camera}/{name}");
        peer.ask(&json!({"do": "read", "topic": topic, "type": kind, "reliable": true,
            "save": folder}));
    }
}

/// Publishes until every output has come once: from then on both sides know each other.
fn warm_up(peer: &mut Peer, command: &Value) {
    let seen = std::cell::RefCell::new(std::collections::BTreeSet::new());
    peer.repeat(command, |line| {
        if let Some(topic) = line["topic"].as_str().filter(|_| line.get("stamp").is_some()) {
            seen.borrow_mut().insert(topic.to_owned());
        }
        seen.borrow().len() == OUTPUTS.len() + TWINS.len() + 1
    });
}

fn publish(folder: &Path, stamp: u32, image: &Image) -> Value {
    let file = folder.join(format!("{stamp}.raw"));
    std::fs::write(&file, &image.data).unwrap();
    json!({"do": "image", "topic": "/front/image_raw", "height": image.height, "width": image.width,
        "encoding": image.encoding, "step": image.step, "file": file, "stamp": [stamp, 5],
        "frame_id": "front_optical", "reliable": true})
}

#[test]
fn every_encoding_gives_the_masks_of_the_offline_tool_to_another_dds() {
    if !sockets_are_large_enough() {
        return;
    }
    let Some(mut peer) = Peer::start(DOMAIN) else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let weights = peers::weights(folder);
    let threshold = middle_score(&weights);
    let threshold_parameter = format!("ood_threshold:={threshold:?}");
    let _node = Node::start(
        DOMAIN,
        &["-p", "cameras:=[front]", "-p", "mask_reliability:=reliable", "-p", &threshold_parameter],
    );
    let pictures: Vec<(u32, Image)> = Encoding::NAMES
        .iter()
        .flat_map(|(name, _)| [encoded(name, 0), encoded(name, 6)])
        .zip(100..)
        .map(|(mut image, stamp)| {
            image.header.stamp = Stamp { sec: stamp, nanosec: 5 };
            image.header.frame_id = "front_optical".into();
            (stamp as u32, image)
        })
        .collect();
    let expected = segmented(folder, (&weights, threshold), &pictures);
    assert_eq!(expected.len(), pictures.len() * OUTPUTS.len());

    read_all(&mut peer, "front", folder);
    warm_up(&mut peer, &publish(folder, 1, &pictures[0].1));
    let mut scores: BTreeMap<Vec<u8>, Vec<&str>> = BTreeMap::new();
    for (stamp, image) in &pictures {
        peer.tell(&publish(folder, *stamp, image));
        let seen = outputs_of(&peer, *stamp, "front_optical", "/front/");
        let find = |name: &str| expected.get(&(*stamp, name.to_owned())).map(|i| i.data.to_vec());
        check(&seen, |name| Some(find(name).unwrap()));
        scores.entry(bytes(&seen["ood/score"])).or_default().push(&image.encoding);
    }
    // One picture under several names is one picture, whatever its padding.
    let mut groups: Vec<_> = scores.into_values().collect();
    groups.iter_mut().for_each(|names| names.dedup());
    groups.sort();
    let bayer = |pattern| vec![pattern];
    assert_eq!(
        groups,
        [
            bayer("bayer_bggr8"),
            bayer("bayer_gbrg8"),
            bayer("bayer_grbg8"),
            bayer("bayer_rggb8"),
            vec!["mono8", "8UC1"],
            vec!["nv12"],
            vec!["rgb8", "bgr8", "rgba8", "bgra8", "8UC3", "8UC4"],
            vec!["uyvy", "yuv422", "yuyv", "yuv422_yuy2"],
        ]
    );
}

/// The plane of a NumPy file of format version 1.0.
fn npy(path: &Path) -> Vec<u8> {
    let file = std::fs::read(path).unwrap();
    let header = usize::from(u16::from_le_bytes([file[8], file[9]]));
    file[10 + header..].to_vec()
}

#[test]
fn jpeg_and_png_give_the_masks_of_the_offline_tool_to_another_dds() {
    if !sockets_are_large_enough() {
        return;
    }
    let Some(mut peer) = Peer::start(DOMAIN + 1) else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let weights = peers::weights(folder);
    let threshold = middle_score(&weights);
    let threshold_parameter = format!("ood_threshold:={threshold:?}");
    let _node = Node::start(
        DOMAIN + 1,
        &["-p", "cameras:=[rear]", "-p", "mask_reliability:=reliable", "-p", &threshold_parameter],
    );
    let (h, w) = SIZE;
    let grey = encoded("mono8", 0).data;
    let files: Vec<PathBuf> = [
        ("a.jpg", encode_jpeg(h, w, &scene(), 80).unwrap()),
        ("b.png", encode_png(h, w, &scene()).unwrap()),
        ("c.png", encode_png(h, w, &grey).unwrap()),
    ]
    .iter()
    .map(|(name, file)| {
        std::fs::write(folder.join(name), file).unwrap();
        folder.join(name)
    })
    .collect();
    let out = folder.join("out");
    let inputs: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    segment(&weights, threshold, &inputs, ["--out", out.to_str().unwrap()]);

    read_all(&mut peer, "rear", folder);
    let publish = |stamp: u32, file: &Path| {
        json!({"do": "compressed", "topic": "/rear/image_raw/compressed", "file": file,
            "format": file.extension().unwrap().to_str(), "stamp": [stamp, 5],
            "frame_id": "rear_optical", "reliable": true})
    };
    warm_up(&mut peer, &publish(1, &files[0]));
    for (file, stamp) in files.iter().zip(100..) {
        peer.tell(&publish(stamp, file));
        let seen = outputs_of(&peer, stamp, "rear_optical", "/rear/");
        let stem = file.file_stem().unwrap().to_str().unwrap();
        let path = |end: &str| out.join(format!("{stem}{end}"));
        let png = |end| Some(Image::read_file(&path(end), &Limits::default()).unwrap().data.into());
        check(&seen, |name| match name {
            "semantic/image" => png("_labels.png"),
            "ood/image" => png("_ood.png"),
            "overlay/image" => png("_overlay.png"),
            "ood/score" => Some(npy(&path("_score.npy"))),
            _ => None,
        });
    }
}
