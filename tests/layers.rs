//! Who may import whom: arrows point down only, and each big dependency lives in one place.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

/// The modules, lowest first; a module may name those on lower rows and on its own.
const LAYERS: [&[&str]; 6] = [
    &["error", "file", "image", "msg", "config", "threads", "supervisor", "quality"],
    &["model", "fault"],
    &["preprocess", "window", "checkpoint"],
    &["pipeline", "obstacle", "overlay", "selftest"],
    &["ros", "bag", "data", "eval"],
    &["train"],
];

/// Which modules may name a crate.
const HOMES: [(&str, &[&str]); 6] = [
    ("tch", &["model", "fault", "preprocess", "window", "checkpoint", "pipeline", "train"]),
    ("ros2_client", &["ros"]),
    ("rustdds", &["ros"]),
    ("serde_yaml", &["error", "config", "checkpoint", "bag"]),
    ("rusqlite", &["bag"]),
    ("mcap", &["bag"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The code of a file without comments and without its unit tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = text.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

/// Names that follow `prefix`, such as `config` of `crate::config::ClassTable`.
fn named_after<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    code.match_indices(prefix).map(move |(at, _)| {
        let rest = &code[at + prefix.len()..];
        &rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())]
    })
}

/// Every module named in `crate::a`, `crate::{a, b::c}` and `ood_segmentation::a`.
fn imports(code: &str) -> Vec<String> {
    let mut names: Vec<String> = named_after(code, "crate::").map(str::to_owned).collect();
    for group in code.split("use crate::{").skip(1) {
        let group = group.split(';').next().unwrap();
        let first = |item: &str| item.trim().split("::").next().unwrap().to_owned();
        names.extend(group.split(',').map(first));
    }
    names
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

#[test]
fn modules_import_downwards_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for path in files {
        let inside = path.strip_prefix(&root).unwrap();
        let module = inside.iter().next().unwrap().to_string_lossy().replace(".rs", "");
        let code = code(&path);
        if ["lib", "main", "bin"].contains(&module.as_str()) {
            continue;
        }
        let own = layer(&module).unwrap_or_else(|| panic!("{module} has no row in LAYERS"));
        for name in imports(&code) {
            seen += 1;
            if layer(&name).is_some_and(|other| other > own) {
                wrong.push(format!("{}: imports {name}, which is above it", inside.display()));
            }
        }
        for (krate, homes) in HOMES {
            // Not `tch::` in `batch::Batcher`.
            let is_name = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric());
            let used = code.contains(&format!("use {krate}"))
                || code.match_indices(&format!("{krate}::")).any(|(at, _)| is_name(at));
            if used && !homes.contains(&module.as_str()) {
                wrong.push(format!(
                    "{}: uses {krate}, which belongs in {homes:?}",
                    inside.display()
                ));
            }
        }
    }
    assert!(seen > 20, "only {seen} imports found: the scan is broken");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_scan_sees_an_upward_arrow() {
    assert_eq!(imports("use crate::ros::args;"), ["ros"]);
    let names = imports("use crate::{Error, pipeline::Pipeline};");
    assert!(names.contains(&"pipeline".to_owned()), "{names:?}");
    assert!(layer("ros") > layer("model"));
}
