//! Pre-training and both stages from a configuration file to weights on disk, on a small drawn data set.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking and says what it measured or skips"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use ood_segmentation::config::{TrainBackboneConfig, TrainSegmentorConfig, TrainUemConfig};
use ood_segmentation::data::synth::{Pool, Scene, SceneConfig, paste_picture, scene_seed};
use ood_segmentation::image::write_png;
use ood_segmentation::model::{Model, Precision};
use ood_segmentation::train::log::Row;
use ood_segmentation::train::run::{Outcome, Plan, Watch};
use ood_segmentation::train::{Stage, backbone, segmentor, uem};
use ood_segmentation::{Result, checkpoint};
use tch::Device;

/// Networks are drawn from libtorch's generator, which all tests share: one at a time.
static GENERATOR: Mutex<()> = Mutex::new(());

fn alone<T>(draw: impl FnOnce() -> T) -> T {
    let _guard = GENERATOR.lock().unwrap();
    draw()
}

/// A data set of 6 street pictures of 150x290 px and 4 pictures to paste from, a backbone of random
/// weights, and configurations that take a few small steps.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let config = SceneConfig { width: 290, height: 150, ..SceneConfig::default() };
        for (split, count) in [("train", 4), ("val", 2)] {
            for i in 0..count {
                let frame = Scene::new(scene_seed(1, 0, i), &config).unwrap().render(0);
                let path = |kind: &str, end: &str| {
                    root.join(format!("street/{kind}/{split}/town/town_{split}_{i}_{end}.png"))
                };
                write_png(&path("leftImg8bit", "leftImg8bit"), 150, 290, &frame.rgb).unwrap();
                write_png(&path("gtFine", "gtFine_labelTrainIds"), 150, 290, &frame.labels)
                    .unwrap();
            }
        }
        for i in 0..4 {
            let picture = paste_picture(Pool::Training, i, 80, 60);
            let id = format!("{i:012}");
            let masks = root.join("coco/annotations/ood_seg_train2017");
            // A PNG by its first bytes, whatever its name says.
            let image = root.join(format!("coco/train2017/{id}.jpg"));
            write_png(&image, 60, 80, &picture.rgb).unwrap();
            write_png(&masks.join(format!("{id}.png")), 60, 80, &picture.labels).unwrap();
        }
        let random = alone(|| checkpoint::init("tiny", "d", 9).unwrap());
        checkpoint::save_backbone(&random, &root.join("backbone.safetensors")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A shipped configuration with other values at some keys, `section.key`.
    fn config(&self, shipped: &str, changes: &[(&str, serde_json::Value)]) -> PathBuf {
        let text = std::fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(shipped),
        );
        let mut config: serde_json::Value = serde_yaml::from_str(&text.unwrap()).unwrap();
        let small: [(&str, serde_json::Value); 9] = [
            ("run.batch_size", 2.into()),
            ("run.checkpoint_every_steps", 1.into()),
            ("run.validate_every_steps", 2.into()),
            ("run.validation_frames", 1.into()),
            ("run.device", "cpu".into()),
            ("data.root", self.path("street").to_str().unwrap().into()),
            ("augment.crop", [126, 266].as_slice().into()),
            ("schedule.warmup_steps", 1.into()),
            ("schedule.max_steps", 4.into()),
        ];
        let em = [("em.memory_size", 30.into()), ("em.max_sample_size", 10.into())];
        let em: &[_] = if config.get("em").is_some() { &em } else { &[] };
        for (key, value) in small.iter().chain(em).chain(changes) {
            let (section, key) = key.split_once('.').unwrap();
            assert!(config[section].get(key).is_some(), "no {section}.{key} in {shipped}");
            config[section][key] = value.clone();
        }
        let path = self
            .path(&format!("{}.yaml", config["run"]["out"].as_str().unwrap().replace('/', "_")));
        std::fs::write(&path, serde_yaml::to_string(&config).unwrap()).unwrap();
        path
    }

    fn backbone(&self, out: &str) -> TrainBackboneConfig {
        let out = self.path(out);
        let changes =
            [("run.out", out.to_str().unwrap().into()), ("model.architecture", "tiny".into())];
        TrainBackboneConfig::load(&self.config("demo/backbone.yaml", &changes)).unwrap()
    }

    fn segmentor(&self, out: &str, head: &str, max_steps: u64) -> TrainSegmentorConfig {
        let out = self.path(out);
        let changes = [
            ("run.out", out.to_str().unwrap().into()),
            ("model.architecture", "tiny".into()),
            ("model.head", head.into()),
            ("model.backbone", self.path("backbone.safetensors").to_str().unwrap().into()),
            ("schedule.max_steps", max_steps.into()),
        ];
        TrainSegmentorConfig::load(&self.config("train_segmentor.yaml", &changes)).unwrap()
    }

    fn uem(&self, out: &str, head: &str, frozen_norm: bool) -> TrainUemConfig {
        let segmentor = self.path("segmentor.safetensors");
        if !segmentor.exists() {
            let random = alone(|| checkpoint::init("tiny", "d", 5).unwrap());
            checkpoint::save(&random, &segmentor).unwrap();
        }
        let out = self.path(out);
        let changes = [
            ("run.out", out.to_str().unwrap().into()),
            ("model.segmentor", segmentor.to_str().unwrap().into()),
            ("model.head", head.into()),
            ("model.hidden", 24.into()),
            ("model.channels", 16.into()),
            ("model.frozen_norm", frozen_norm.into()),
            ("outliers.root", self.path("coco").to_str().unwrap().into()),
            ("outliers.probability", 1.0.into()),
            ("loss.alpha", 0.5.into()),
        ];
        TrainUemConfig::load(&self.config("train_uem.yaml", &changes)).unwrap()
    }
}

/// Runs a plan that is told to stop after `stop_after` steps of this call, if that is not 0.
fn run(
    plan: &Plan,
    stage: &mut dyn Stage,
    stop_after: usize,
    mut validate: impl FnMut(&Model) -> Result<f64>,
) -> Result<Outcome> {
    let stop = AtomicBool::new(false);
    let mut steps = 0;
    let mut report = |_: &Row| {
        steps += 1;
        stop.store(steps == stop_after, Ordering::Relaxed);
    };
    plan.run(stage, true, &mut Watch { stop: &stop, validate: &mut validate, report: &mut report })
}

fn train_backbone(config: &TrainBackboneConfig, stop_after: usize) -> Result<Outcome> {
    let (mut stage, plan, validation) = alone(|| backbone::prepare(config, Device::Cpu))?;
    let outcome = run(&plan, &mut stage, stop_after, |model| validation.mean_iou(model))?;
    checkpoint::save_backbone(&stage.model, &config.run.out.join("backbone.safetensors"))?;
    Ok(outcome)
}

fn train_segmentor(config: &TrainSegmentorConfig, stop_after: usize) -> Result<Outcome> {
    let (mut stage, plan, frames) = alone(|| segmentor::prepare(config, Device::Cpu))?;
    run(&plan, &mut stage, stop_after, |model| segmentor::mean_iou(model, &frames))
}

fn train_uem(config: &TrainUemConfig, stop_after: usize) -> Result<Outcome> {
    let (mut stage, plan, validation) = alone(|| uem::prepare(config, Device::Cpu))?;
    run(&plan, &mut stage, stop_after, |model| validation.average_precision(model))
}

/// A network that a run wrote.
fn load(path: &Path) -> Model {
    alone(|| checkpoint::load(path, Device::Cpu, Precision::F32).unwrap())
}

/// The tensors of a file, as bytes.
fn tensors(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.iter().map(|(name, view)| (name.to_string(), view.data().to_vec())).collect()
}

#[test]
fn a_run_stopped_and_resumed_is_the_run_that_was_not_to_the_last_bit() {
    let world = World::new();
    for head in ["gmm", "linear"] {
        let (whole, parts) = (format!("{head}/whole"), format!("{head}/parts"));
        let done = train_segmentor(&world.segmentor(&whole, head, 4), 0).unwrap();
        assert_eq!((done.step, done.stopped), (4, false));
        let stopped = train_segmentor(&world.segmentor(&parts, head, 4), 1).unwrap();
        assert_eq!((stopped.step, stopped.stopped), (1, true));
        let resumed = train_segmentor(&world.segmentor(&parts, head, 4), 0).unwrap();
        assert_eq!(resumed, done);
        for file in ["state.safetensors", "last.safetensors", "best.safetensors"] {
            let of = |run: &str| tensors(&world.path(run).join(file));
            assert!(of(&whole) == of(&parts), "{head}: {file}");
        }
        let log = std::fs::read_to_string(world.path(&parts).join("log.csv")).unwrap();
        assert_eq!(log.lines().count(), 5);
        let trained = load(&world.path(&parts).join("last.safetensors"));
        assert_eq!(trained.config().source.tool, "train-segmentor");
    }
    let other = train_segmentor(&world.segmentor("gmm/whole", "gmm", 5), 0).unwrap_err().chain();
    assert!(other.contains(r#"max_steps": 4"#) && other.contains(r#"max_steps": 5"#), "{other}");
}

#[test]
fn a_backbone_of_a_run_stopped_and_resumed_is_that_of_the_run_that_was_not_and_stage_1_takes_it() {
    let world = World::new();
    let done = train_backbone(&world.backbone("whole"), 0).unwrap();
    assert!(done.best.is_some_and(|miou| (0.0..=1.0).contains(&miou)), "{done:?}");
    // Stopped after a validation, whose position embedding must not outlive it.
    assert!(train_backbone(&world.backbone("parts"), 3).unwrap().stopped);
    assert_eq!(train_backbone(&world.backbone("parts"), 0).unwrap(), done);
    for file in ["state.safetensors", "last.safetensors", "backbone.safetensors"] {
        let of = |run: &str| tensors(&world.path(run).join(file));
        assert!(of("whole") == of("parts"), "{file}");
    }
    let random = tensors(&world.path("backbone.safetensors"));
    let trained = tensors(&world.path("whole/backbone.safetensors"));
    assert!(trained.keys().eq(random.keys()));
    let mut config = world.segmentor("on_top", "linear", 1);
    config.model.backbone = world.path("whole/backbone.safetensors");
    train_segmentor(&config, 0).unwrap();
    let segmentor = tensors(&world.path("on_top/last.safetensors"));
    assert!(trained.iter().all(|(name, values)| segmentor[name] == *values));
}

#[test]
fn stage_2_leaves_the_segmentor_bit_identical_unless_its_norms_may_drift() {
    let world = World::new();
    for (out, head, frozen_norm) in [("d", "linear", true), ("g", "gmm", true), ("r", "gmm", false)]
    {
        let done = train_uem(&world.uem(out, head, frozen_norm), 0).unwrap();
        assert!(done.best.is_some_and(|ap| (0.0..=1.0).contains(&ap)), "{done:?}");
        let before = tensors(&world.path("segmentor.safetensors"));
        let after = tensors(&world.path(out).join("last.safetensors"));
        let moved: Vec<_> = before.keys().filter(|name| before[*name] != after[*name]).collect();
        if frozen_norm {
            assert!(moved.is_empty(), "{out}: {moved:?}");
        } else {
            assert_eq!(moved.len(), 16, "{moved:?}"); // mean and variance of eight batch norms
            assert!(moved.iter().all(|name| name.contains(".running_")), "{moved:?}");
        }
        let log = std::fs::read_to_string(world.path(out).join("log.csv")).unwrap();
        assert!(log.lines().last().is_some_and(|line| line.starts_with("4,")), "{log}");
    }
}

#[test]
fn a_loss_that_is_not_a_number_ends_the_run_and_leaves_the_last_state() {
    let world = World::new();
    let mut config = world.segmentor("nan", "linear", 4);
    config.schedule.lr = 1e30;
    let error = train_segmentor(&config, 0).unwrap_err().chain();
    assert!(error.contains("the loss is"), "{error}");
    // Step 1 has lr 0, step 2 throws the weights to 1e30, step 3 computes what is not a number.
    let state = tensors(&world.path("nan/state.safetensors"));
    assert!(state.keys().any(|name| name.starts_with("first.")));
    load(&world.path("nan/last.safetensors"));
}

#[test]
fn a_full_disk_ends_a_run_with_its_last_state_good_and_with_room_it_goes_on_to_the_same_weights() {
    let unshare = |script: &str| {
        let mut command = std::process::Command::new("unshare");
        command.args(["-rm", "sh", "-c", script]).env("OMP_NUM_THREADS", "1");
        command.output()
    };
    if !unshare("mount -t tmpfs none /tmp").is_ok_and(|output| output.status.success()) {
        eprintln!("SKIP: this system lets nobody mount a small disk of their own");
        return;
    }
    let world = World::new();
    let yaml = |out: &str| {
        let path = world.path(&format!("{out}_run.yaml"));
        let text = serde_yaml::to_string(&world.uem(out, "linear", true)).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let train = |out: &str| {
        format!("{} train-uem --resume -c {}", env!("CARGO_BIN_EXE_ood_seg"), yaml(out))
    };
    let whole = unshare(&train("whole")).unwrap();
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let sizes =
        std::fs::read_dir(world.path("whole")).unwrap().map(|entry| entry.unwrap().metadata());
    let pages: u64 = sizes.map(|file| file.unwrap().len().div_ceil(4096)).sum();
    // Room for the files of one checkpoint, not for a second copy of the weights beside them.
    let (disk, kept) = (world.path("full"), world.path("kept"));
    let (disk, kept, part) = (disk.display(), kept.display(), (pages + 12) * 4096);
    let run = train("full");
    let script = format!(
        "mkdir {disk} {kept}; mount -t tmpfs -o size={part} none {disk} || exit 9\n\
         {run} && exit 8\n\
         ls {disk} > {kept}/files; cp {disk}/state.safetensors {kept}/ || exit 7\n\
         mount -o remount,size=64m {disk} && {run} && cp {disk}/* {kept}/"
    );
    let output = unshare(&script).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    let files = std::fs::read_to_string(world.path("kept/files")).unwrap();
    assert!(files.contains("state.safetensors") && !files.contains(".part"), "{files}");
    for file in ["state.safetensors", "last.safetensors"] {
        let of = |run: &str| tensors(&world.path(run).join(file));
        assert!(of("whole") == of("kept"), "{file}");
    }
}
