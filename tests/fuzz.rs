//! The inputs of `fuzz/corpus` through the targets of `make fuzz`, whose bound on memory holds here too:
//! among them every finding so far.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where it fails")]
#![allow(unreachable_pub, unsafe_code, reason = "the fuzz crate's own files")]

#[path = "../fuzz/src/allocator.rs"]
mod allocator;
#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::path::Path;

/// Runs a target on its corpus and on what the repository holds of the kind anyway.
fn replay(target: impl Fn(&[u8]), folders: &[&str]) {
    for folder in folders {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let mut files: Vec<_> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.is_file());
        assert!(!files.is_empty(), "{}", folder.display());
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            // What a target does with the whole it must do with a part too.
            for end in [bytes.len(), bytes.len() / 2, bytes.len() / 3] {
                target(&bytes[..end]);
            }
        }
    }
}

#[test]
fn messages() {
    replay(targets::cdr, &["fuzz/corpus/cdr"]);
}

#[test]
fn raw_pictures() {
    replay(targets::image, &["fuzz/corpus/image"]);
}

#[test]
fn compressed_pictures() {
    replay(targets::compressed, &["fuzz/corpus/compressed", "tests/data/pictures"]);
}

#[test]
fn files() {
    // One after the other: these targets share a folder.
    replay(targets::checkpoint, &["fuzz/corpus/checkpoint"]);
    replay(targets::safetensors, &["fuzz/corpus/safetensors"]);
    replay(targets::bag, &["fuzz/corpus/bag"]);
    lying_texts();
    replay(targets::parameters, &["fuzz/corpus/parameters", "config"]);
}

#[test]
fn command_lines() {
    replay(targets::args, &["fuzz/corpus/args"]);
}

/// Bags in which one text claims to be far longer than its record: no room is made for it.
fn lying_texts() {
    let bag = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/bag/ours.mcap");
    let whole = std::fs::read(bag).unwrap();
    for text in
        ["sensor_msgs/msg/Image", "ros2msg", "/a/image_raw", "cdr", "offered_qos_profiles", "zstd"]
    {
        // The last place is the summary's; the length of a text stands before it.
        let at = whole.windows(text.len()).rposition(|bytes| bytes == text.as_bytes()).unwrap();
        let mut bytes = whole.clone();
        bytes[at - 4..at].copy_from_slice(&0xf000_0000_u32.to_le_bytes());
        targets::bag(&bytes);
    }
}
