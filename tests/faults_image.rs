//! Rows 1 to 16 of the fault catalogue that no other test injects: pictures that lie or show nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod peers;

use std::path::Path;
use std::process::Command;

use ood_segmentation::data::synth::{Scene, SceneConfig, scene_seed};
use ood_segmentation::quality::bit;
use peers::{Node, Peer, is_status, picture};
use serde_json::{Value, json};

const TOPIC: &str = "/camera/image_raw";

/// A node that has answered once, and the peer that is its camera and reads its status.
fn running(domain: u16) -> Option<(Node, Peer)> {
    let mut peer = Peer::start(domain)?;
    // The peer writes what it forges with a writer of its own.
    let settings = ["budget_ms:=600000", "stale_after_ms:=600000", "writer_lock_ms:=0"];
    let node = Node::start(domain, &settings.map(|setting| ["-p", setting]).concat());
    peer.read_status("/camera/status");
    peer.repeat(&picture(TOPIC, 1), is_status);
    Some((node, peer))
}

/// Sends a good picture and waits for its masks.
fn recovers(peer: &mut Peer, stamp: u32) {
    peer.tell(&picture(TOPIC, stamp));
    let status = peer.wait("the next good frame", |line| line["stamp"] == json!([stamp, 5]));
    assert_eq!((&status["state"], &status["reason"]), (&json!(0), &json!("")), "{status}");
}

/// A file of 42x70 grey pixels, none like its neighbours.
fn noise(folder: &Path, seed: u32) -> Value {
    let byte = |i: u32| {
        let mixed = (i ^ seed << 16).wrapping_mul(0x9e37_79b1);
        let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca77);
        (mixed ^ mixed >> 13).to_le_bytes()[0]
    };
    let path = folder.join(format!("{seed}.bin"));
    std::fs::write(&path, (0..42 * 70).map(byte).collect::<Vec<_>>()).unwrap();
    json!(path)
}

/// Level of a status of `/diagnostics`.
fn level(line: &Value, name: &str) -> Option<u64> {
    let statuses = line.get("status")?.as_array()?;
    let of = |status: &&Value| status["name"] == format!("ood_segmentation: {name}");
    statuses.iter().find(of)?["level"].as_u64()
}

#[test]
fn row_03_data_beyond_the_last_row_is_no_fault() {
    let Some((_node, mut peer)) = running(110) else { return };
    let mut long = picture(TOPIC, 20);
    long["length"] = json!(42 * 70 + 100);
    peer.tell(&long);
    let status = peer.wait("long data", |line| line["stamp"] == json!([20, 5]));
    assert_eq!(status["state"], 0, "{status}");
}

#[test]
fn row_09_floating_point_pixels_are_refused_whatever_they_hold() {
    let Some((_node, mut peer)) = running(111) else { return };
    let mut nan = picture(TOPIC, 20);
    (nan["encoding"], nan["step"]) = (json!("32FC1"), json!(4 * 70));
    (nan["length"], nan["fill"]) = (json!(4 * 42 * 70), json!(255)); // every pixel NaN
    peer.tell(&nan);
    let status = peer.wait("refusal", |line| line["stamp"] == json!([20, 5]));
    assert_eq!((&status["state"], &status["reason"]), (&json!(1), &json!("encoding")), "{status}");
    recovers(&mut peer, 21);
}

/// An Image message of these fields as little-endian CDR, base64; the frame is "cam", the data empty but
/// its length what it is said to be.
fn forged(frame: &[u8], [height, width]: [u32; 2], data: u32) -> String {
    let mut bytes = [1u32, 0].map(u32::to_le_bytes).concat();
    bytes.extend(u32::try_from(frame.len()).unwrap().to_le_bytes());
    bytes.extend(frame); // four bytes, so that what follows is aligned
    bytes.extend([height, width, 5].map(u32::to_le_bytes).concat());
    bytes.extend(b"rgb8\0\0\0\0");
    bytes.extend([width, data].map(u32::to_le_bytes).concat());
    base64(&bytes)
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let at = (group >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit <= chunk.len() { DIGITS[at].into() } else { '=' });
        }
    }
    text
}

#[test]
fn row_10_and_11_forged_messages_cost_themselves_alone_and_no_memory() {
    let Some((node, mut peer)) = running(112) else { return };
    let most = u32::MAX;
    let good = *b"cam\0";
    let forgeries = [
        (base64(&[1, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 97, 98, 99, 0]), "cdr"), // 4 GiB of text
        (forged(b"\xff\xfe\x80\0", [2, 2], 0), "cdr"),                                 // not UTF-8
        (forged(&good, [2, 2], most), "cdr"), // 4 GiB of data
        (forged(&good, [2, 2], 1 << 30), "cdr"),
        (forged(&good, [most, most], 0), "size_limit"),
        (forged(&good, [0, 2], 0), "size_zero"),
        (base64(&[0x41; 64]), "cdr"), // another type's bytes under this one's name
    ];
    let lie = |body: &str| json!({"do": "lie", "topic": TOPIC, "base64": body});
    peer.repeat(&lie(&forgeries[0].0), |line| line["reason"] == "cdr");
    recovers(&mut peer, 30);
    let memory = node.memory();
    for (stamp, (body, reason)) in (31..).zip(&forgeries) {
        peer.tell(&lie(body));
        let status = peer.wait(reason, |line| line["state"] == 1);
        assert_eq!(status["reason"], *reason, "{status}");
        recovers(&mut peer, stamp);
    }
    let grown = node.memory().saturating_sub(memory);
    assert!(grown < 64, "{grown} MB more");
}

#[test]
fn row_13_a_small_file_of_a_huge_picture_is_refused_before_it_is_decoded() {
    let Some(mut peer) = Peer::start(113) else { return };
    let node = Node::start(113, &[]);
    peer.read_status("/camera/status");
    // 65500x65500 rgb8, says its header: 12 GB.
    let bomb = "iVBORw0KGgoAAAANSUhEUgAA/9wAAP/cCAIAAAAcNYFMAAAAEUlEQVR4nGNgGAWjYBQMdwAAA+gAAbOm00YAAAAASUVORK5CYII=";
    let bomb = |second: u32| {
        json!({"do": "compressed", "topic": "/camera/image_raw/compressed", "base64": bomb,
            "stamp": [second, 5]})
    };
    peer.repeat(&bomb(20), is_status);
    let memory = node.memory();
    for second in 21..41 {
        peer.tell(&bomb(second));
        let status = peer.wait("refusal", |line| line["stamp"] == json!([second, 5]));
        let found = (&status["state"], &status["reason"]);
        assert_eq!(found, (&json!(1), &json!("size_limit")), "{status}");
    }
    let grown = node.memory().saturating_sub(memory);
    assert!(grown < 64, "{grown} MB more");
}

#[test]
fn row_15_pictures_that_show_nothing_are_flagged_and_segmented() {
    let Some((_node, mut peer)) = running(115) else { return };
    let folder = tempfile::tempdir().unwrap();
    peer.ask(
        &json!({"do": "read", "topic": "/diagnostics", "type": "diagnostics", "reliable": true}),
    );
    let shown = |peer: &Peer, expected: u64| {
        peer.wait("image_quality", |line| level(line, "image_quality/camera") == Some(expected));
    };
    for (stamp, fill, bits) in [(20, 2, bit::DARK), (21, 255, bit::BRIGHT | bit::SATURATED)] {
        let mut blind = picture(TOPIC, stamp);
        blind["fill"] = json!(fill);
        peer.tell(&blind);
        let status = peer.wait("its status", |line| line["stamp"] == json!([stamp, 5]));
        assert_eq!(status["state"], 0, "masks come all the same: {status}");
        let quality = u16::try_from(status["quality"].as_u64().unwrap()).unwrap();
        assert_eq!(quality & bits, bits, "{status}");
        shown(&peer, 2);
    }
    let mut good = picture(TOPIC, 22);
    good["file"] = noise(folder.path(), 1);
    peer.tell(&good);
    let status = peer.wait("its status", |line| line["stamp"] == json!([22, 5]));
    assert_eq!(status["quality"], 0, "{status}");
    shown(&peer, 0);
}

#[test]
fn row_16_a_picture_that_stands_still_under_new_stamps_is_told() {
    let Some((_node, mut peer)) = running(116) else { return };
    let folder = tempfile::tempdir().unwrap();
    peer.ask(
        &json!({"do": "read", "topic": "/diagnostics", "type": "diagnostics", "reliable": true}),
    );
    let mut play = picture(TOPIC, 100);
    play["file"] = noise(folder.path(), 2);
    (play["do"], play["rate"], play["seconds"]) = (json!("play"), json!(10), json!(5));
    peer.tell(&play);
    let frozen = u64::from(bit::FROZEN);
    peer.wait("the flag", |line| line["quality"].as_u64().is_some_and(|bits| bits & frozen != 0));
    peer.wait("the error", |line| level(line, "image_quality/camera") == Some(2));
    let mut other = picture(TOPIC, 900);
    other["file"] = noise(folder.path(), 3);
    peer.tell(&other);
    let status = peer.wait("another picture", |line| line["stamp"] == json!([900, 5]));
    assert_eq!((&status["quality"], &status["state"]), (&json!(0), &json!(0)), "{status}");
}

/// Height and width of the drawn pictures.
const DRAWN: [u32; 2] = [180, 320];

/// The demo model in `folder`, calibrated on 40 drawn pictures that are seen through one window.
fn familiar_with_the_drawn_world(folder: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (weights, world) = (folder.join("demo.safetensors"), folder.join("world"));
    for ending in ["safetensors", "yaml"] {
        let from = root.join("models/demo").with_extension(ending);
        std::fs::copy(from, weights.with_extension(ending)).unwrap();
    }
    let run = |line: String| {
        let ran =
            Command::new(env!("CARGO_BIN_EXE_ood_seg")).args(line.split(' ')).output().unwrap();
        assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    };
    let [world, weights] = [&world, &weights].map(|path| path.display().to_string());
    let sets = "--train 0 --val 0 --paste 0 --anomaly 0 --obstacle 0 --pasted 40 --size 320x180";
    run(format!("synth --out {world} --seed 3 {sets}"));
    let plan = "--plan single --device cpu --fpr 0.01 --unfamiliar 0.025";
    let said = run(format!("calibrate -w {weights} -d {world}/pasted/dataset_AnomalyTrack {plan}"));
    assert!(said.contains("2.44 % of frames like these"), "{said}");
    weights
}

#[test]
fn a_picture_unlike_the_calibrations_is_flagged_and_segmented() {
    let Some(mut peer) = Peer::start(117) else { return };
    let folder = tempfile::tempdir().unwrap();
    let weights = familiar_with_the_drawn_world(folder.path());
    let weights = format!("model.weights:={weights}");
    let _node = Node::start(117, &["-p", &weights]);
    peer.read_status("/camera/status");
    peer.ask(
        &json!({"do": "read", "topic": "/diagnostics", "type": "diagnostics", "reliable": true}),
    );
    peer.repeat(&picture(TOPIC, 1), is_status);
    let [height, width] = DRAWN;
    let mut show = |stamp: u32, rgb: &[u8]| {
        let file = folder.path().join("shown.bin");
        std::fs::write(&file, rgb).unwrap();
        peer.tell(&json!({"do": "image", "topic": TOPIC, "height": height, "width": width,
            "step": 3 * width, "encoding": "rgb8", "file": file, "stamp": [stamp, 5]}));
        let status = peer.wait("its status", |line| line["stamp"] == json!([stamp, 5]));
        assert_eq!(status["state"], 0, "masks come all the same: {status}");
        let bits = u16::try_from(status["quality"].as_u64().unwrap()).unwrap();
        let ratio = status["unfamiliarity"].as_f64().unwrap();
        assert_eq!(bits & bit::UNFAMILIAR != 0, ratio > 1.0, "{status}");
        ratio
    };
    let config = SceneConfig { height, width, ..SceneConfig::default() };
    for i in 0..3 {
        let scene = Scene::new(scene_seed(99, 1, i.into()), &config).unwrap().render(0).rgb;
        let change = |by: fn(u8) -> u8| scene.iter().map(|v| by(*v)).collect::<Vec<_>>();
        let familiar = show(10 * i + 20, &scene);
        assert!(familiar < 1.0, "scene {i}: {familiar}");
        let strange = [
            ("inverted", change(|v| 255 - v)),
            ("in fog", change(|v| v / 4 + 150)),
            ("noise", (0..scene.len()).map(|k| ((k * k * 40_503) >> 7).to_le_bytes()[0]).collect()),
        ];
        for (stamp, (what, picture)) in (10 * i + 21..).zip(strange) {
            let ratio = show(stamp, &picture);
            // Not every inverted street is beyond the bound; each is farther off than the street.
            let least = if what == "inverted" { familiar } else { 1.0 };
            assert!(ratio > least, "{what} {i}: {ratio}, the scene {familiar}");
        }
    }
    peer.wait("the warning", |line| level(line, "image_quality/camera") == Some(1));
}
