//! The commands around labelled frames: `dataset check`, `evaluate`, `calibrate`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test fails by panicking and says what it skips"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ood_segmentation::checkpoint;
use ood_segmentation::model::Precision;
use tch::Device;

const W: u32 = 280;
const H: u32 = 140;

fn ood_seg(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ood_seg")).args(arguments).output().unwrap()
}

fn succeed(arguments: &[&str]) -> String {
    let output = ood_seg(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// The error of a command that must end with exit code 2.
fn fail(arguments: &[&str]) -> String {
    let output = ood_seg(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder with random weights and a set of four frames, one without obstacle.
struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { folder: tempfile::tempdir().unwrap() };
        succeed(&["init", "-o", text(&fixture.path("tiny.safetensors"))]);
        for i in 0..4u32 {
            let obstacle = |x: u32, y: u32| i < 3 && x / 24 == 3 + i && y / 24 == 3;
            let image = image::RgbImage::from_fn(W, H, |x, y| {
                let noise = u8::try_from((x * 7919 + y * 104_729 + i) % 90).unwrap();
                image::Rgb(if obstacle(x, y) { [250, noise, 20] } else { [90 + noise; 3] })
            });
            let label = image::GrayImage::from_fn(W, H, |x, y| {
                image::Luma([if y < 20 { 255 } else { u8::from(obstacle(x, y)) }])
            });
            let name = format!("dataset_ObstacleTrack/images/validation_{i}.png");
            image.save(fixture.path(&name)).unwrap();
            let name =
                format!("dataset_ObstacleTrack/labels_masks/validation_{i}_labels_semantic.png");
            label.save(fixture.path(&name)).unwrap();
        }
        fixture
    }

    /// A path in the folder, whose parents exist.
    fn path(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn evaluate(&self, out: &str, more: &[&str]) -> Vec<String> {
        let (weights, set) = (self.path("tiny.safetensors"), self.path("dataset_ObstacleTrack"));
        let out = self.path(out);
        let head = ["evaluate", "-w", text(&weights), "-d", text(&set), "-o", text(&out)];
        head.iter().chain(more).map(ToString::to_string).collect()
    }
}

fn run(arguments: &[String]) -> String {
    succeed(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn shards_merge_to_the_bytes_of_one_run_with_table_pictures_and_submission() {
    let fixture = Fixture::new();
    let scores = ["--scores", "llr,entropy"];
    let submission = fixture.path("submission");
    let more = [&scores[..], &["--submission", text(&submission)]].concat();
    let table = run(&fixture.evaluate("whole", &more));
    assert!(
        table.contains("| llr     | smiyc  |") && table.contains("| entropy | exact  |"),
        "{table}"
    );
    for shard in ["1/2", "0/2"] {
        run(&fixture.evaluate("parts", &[&scores[..], &["--shard", shard]].concat()));
    }
    let (set, parts) = (fixture.path("dataset_ObstacleTrack"), fixture.path("parts"));
    succeed(&["evaluate", "--merge", "-d", text(&set), "-o", text(&parts)]);
    for file in ["results.json", "results.md", "roc.png", "pr.png", "frames.png"] {
        let read = |out: &str| fs::read(fixture.path(&format!("{out}/{file}"))).unwrap();
        assert!(read("whole") == read("parts"), "{file}");
    }
    let json = fs::read_to_string(fixture.path("whole/results.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["scores"][0]["smiyc"]["positives"], 3 * 24 * 24);
    assert_eq!(json["scores"][0]["exact"]["negatives"], 4 * 120 * 280 - 3 * 24 * 24);
    assert!(!fixture.path("whole/part-0-of-1").exists());
    for i in 0..4 {
        let name = format!("anomaly_p/ood_segmentation/ObstacleTrack-all/validation_{i}.hdf5");
        let map = fs::read(submission.join(name)).unwrap();
        assert_eq!(map.len(), 1256 + 2 * 140 * 280);
    }
}

#[test]
fn a_calibration_stands_in_the_sidecar_and_goes_when_the_weights_change() {
    let fixture = Fixture::new();
    let (weights, set) = (fixture.path("tiny.safetensors"), fixture.path("dataset_ObstacleTrack"));
    let calibrate = |score, target, share| {
        let head = ["calibrate", "-w", text(&weights), "-d", text(&set)];
        ood_seg(&[&head[..], &["--score", score, target, share]].concat())
    };
    let sidecar = || fs::read_to_string(weights.with_extension("yaml")).unwrap();
    let before = sidecar();
    let refused = calibrate("llr", "--missed", "0.1");
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(2) && error.contains("3 with obstacles"), "{error}");
    assert_eq!(calibrate("llr", "--tpr", "1.5").status.code(), Some(2));
    assert_eq!(sidecar(), before);
    // A random network may rank either way, and a score that ranks backwards is refused.
    let scores = ["ood", "llr", "neg_id", "entropy", "rba", "msp"];
    let mut scores = scores.into_iter();
    let rises = scores.find(|score| calibrate(score, "--tpr", "0.9").status.success());
    let score = rises.expect("no score of the network rises");
    let after = sidecar();
    assert!(after.contains("calibration:") && after.contains("target: tpr 0.9"), "{after}");
    assert!(after.contains(&format!("score: {score}")) && after.contains("frames: 4"), "{after}");
    // Read back it is whole; new weights start without one.
    let model = checkpoint::load(&weights, Device::Cpu, Precision::F32).unwrap();
    assert_eq!(model.config().calibration.as_ref().unwrap().dataset, "ObstacleTrack all");
    let saved = fixture.path("saved.safetensors");
    checkpoint::save(&model, &saved).unwrap();
    assert_eq!(fs::read_to_string(saved.with_extension("yaml")).unwrap(), before);
}

#[test]
fn a_half_set_is_described_and_refused() {
    let fixture = Fixture::new();
    let set = fixture.path("dataset_ObstacleTrack");
    let good = succeed(&["dataset", "check", text(&set)]);
    assert!(good.contains("140x280 px (height, width): 4"), "{good}");
    assert!(good.contains("1 anomaly           1728 px"), "{good}");
    fs::remove_file(set.join("labels_masks/validation_2_labels_semantic.png")).unwrap();
    let error = fail(&["dataset", "check", text(fixture.folder.path())]);
    assert!(error.contains("dataset_ObstacleTrack"), "{error}");
    let weights = fixture.path("tiny.safetensors");
    let error = fail(&["evaluate", "-w", text(&weights), "-d", text(&set)]);
    assert!(error.contains("validation_2.png has no labels"), "{error}");
}

#[test]
fn the_mini_data_set_is_whole() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/mini_dataset");
    if !path.is_dir() {
        eprintln!("SKIP mini data set: no {}", path.display());
        return;
    }
    let said = succeed(&["dataset", "check", text(&path)]);
    assert!(said.contains("layout    AnomalyTrack, split all"), "{said}");
    assert!(said.contains("layout    ObstacleTrack, split all"), "{said}");
    assert_eq!(said.matches("frames    5, 5 with labels").count(), 2, "{said}");
    assert!(said.contains("255 ignored        2924657 px"), "{said}");
}
