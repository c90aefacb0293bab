//! The targets.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ood_segmentation::bag::BagReader;
use ood_segmentation::checkpoint::{self, Options};
use ood_segmentation::config::{NodeConfig, Override, TrainSegmentorConfig, TrainUemConfig};
use ood_segmentation::image::{Image, Limits};
use ood_segmentation::model::Precision;
use ood_segmentation::msg::{self, CameraInfo, CompressedImage, Header};
use ood_segmentation::preprocess;
use ood_segmentation::ros::{Network, RosArgs};
use sha2::{Digest, Sha256};
use tch::Device;

/// Small enough that what they let through is quickly worked on.
const LIMITS: Limits = Limits { max_width: 512, max_height: 512, max_bytes: 1 << 20 };

/// CDR of every message type that is read from DDS or a bag; the first byte chooses.
pub fn cdr(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    macro_rules! read {
        ($type:ty) => {
            if let Ok(message) = msg::decode::<$type>(bytes) {
                let again = msg::encode(&message).expect("what was read can be written");
                msg::decode::<$type>(&again).expect("what was written can be read");
            }
        };
    }
    match kind % 10 {
        0 => read!(Image),
        1 => read!(CompressedImage),
        2 => read!(CameraInfo),
        3 => read!(msg::FrameStatus),
        4 => read!(msg::LabelInfo),
        5 => read!(msg::Detection2DArray),
        6 => read!(msg::ImageMarker),
        7 => read!(msg::DiagnosticArray),
        8 => read!(Header),
        _ => read!(String),
    }
}

/// A raw picture as CDR: what validation accepts can be converted.
pub fn image(data: &[u8]) {
    let Ok(image) = msg::decode::<Image>(data) else { return };
    let Ok(encoding) = image.validate(&LIMITS) else { return };
    let rgb = preprocess::to_rgb(&image, encoding, Device::Cpu).expect("it was validated");
    assert_eq!(rgb.size(), [3, i64::from(image.height), i64::from(image.width)]);
}

/// A JPEG, PNG or WebP file: what comes out is a valid picture within the limits.
pub fn compressed(data: &[u8]) {
    let message = CompressedImage { data: data.to_vec(), ..CompressedImage::default() };
    if let Ok(image) = Image::from_compressed(&message, &LIMITS) {
        image.validate(&LIMITS).expect("decoded pictures are valid");
    }
}

/// A torch checkpoint: zip archive and pickle.
pub fn checkpoint(data: &[u8]) {
    let (source, out) = (file("a.ckpt", data), folder().join("out.safetensors"));
    if checkpoint::convert(&[source], &out, &Options::default(), &|_, _| {}).is_ok() {
        checkpoint::read_config(&out).ok();
    }
}

/// Weights and their sidecar, parted by the first zero byte; in the latter `HASH` is the weights' true
/// hash, or no mutation would come past it.
pub fn safetensors(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (yaml, weights) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    let yaml = String::from_utf8_lossy(yaml).replace("HASH", &hash(weights));
    file("a.yaml", yaml.as_bytes());
    let path = file("a.safetensors", weights);
    checkpoint::load(&path, Device::Cpu, Precision::F32).ok();
}

/// SHA-256, lower-case hex.
fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A bag file, MCAP or SQLite, and the pictures in it.
pub fn bag(data: &[u8]) {
    let path = file("bag", data);
    let Ok(bag) = BagReader::open(&path) else { return };
    let Ok(messages) = bag.messages(&[]) else { return };
    for message in messages.map_while(Result::ok).take(100) {
        message.image(&LIMITS).ok();
    }
}

/// A ROS parameter file; also as each of the other YAML files.
pub fn parameters(data: &[u8]) {
    let path = file("a.yaml", data);
    if let Ok(config) = NodeConfig::load("/front/node", &[Override::File(path.clone())]) {
        config.values().expect("a configuration that was accepted has values");
    }
    TrainSegmentorConfig::load(&path).ok();
    TrainUemConfig::load(&path).ok();
}

/// A command line, its arguments parted by zero bytes; files that it names are not read.
pub fn args(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(args) = RosArgs::parse(text.split('\0').map(str::to_owned)) else { return };
    Network::from_env(|name| {
        text.split('\0').find_map(|pair| pair.strip_prefix(name)).map(str::to_owned)
    })
    .ok();
    let Ok(names) = args.names("node") else { return };
    names.topic("camera/image_raw").ok();
    names.twin("camera/image_raw", "compressed").ok();
    let mut overrides = args.overrides(&names);
    overrides.retain(|given| matches!(given, Override::Value { .. }));
    NodeConfig::load(&names.node_name(), &overrides).ok();
}

/// A folder in memory, one per process.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let new = || {
        let memory = Path::new("/dev/shm");
        let parent = if memory.exists() { memory.to_path_buf() } else { std::env::temp_dir() };
        tempfile::tempdir_in(parent).expect("a folder for the inputs")
    };
    FOLDER.get_or_init(new).path()
}

/// A file in it with this content.
fn file(name: &str, content: &[u8]) -> PathBuf {
    let path = folder().join(name);
    fs::write(&path, content).expect("room for an input");
    path
}
