//! Training against tensors written by the authors' official classes (UEM-likelihood-ratio at 1d76b9d):
//! Sinkhorn assignments, memory, Gaussians, losses, gradients and weights, step by step.
//!
//! `GOLDEN_DIR=<folder>` names the folder of the files; without it the small ones in `tests/data/golden`
//! are used and the others come from a `../shared/golden/model` where there is one.
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

use ood_segmentation::config::{AdamWConfig, Class, ClassTable, EmConfig, ScheduleConfig};
use ood_segmentation::data::Sample;
use ood_segmentation::model::config::{
    BackboneConfig, DecoderConfig, Ffn, HeadConfig, PosEmbed, Source, UemConfig,
};
use ood_segmentation::model::head::{Gmm, Head};
use ood_segmentation::model::{Model, ModelConfig};
use ood_segmentation::train::gmm::{EmState, Labelled, sinkhorn};
use ood_segmentation::train::loss::cross_entropy;
use ood_segmentation::train::schedule::learning_rate;
use ood_segmentation::train::segmentor::SegmentorStage;
use ood_segmentation::train::uem::{UemOptions, UemStage};
use ood_segmentation::train::{Stage, mix};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

const FILES: [&str; 8] = [
    "gmm_head_train.safetensors",
    "stage1_train_gmm.safetensors",
    "stage1_train_linear.safetensors",
    "stage2_train_dd.safetensors",
    "stage2_train_gd.safetensors",
    "stage2_train_gg.safetensors",
    "lr_schedule.json",
    "anomaly_mix.safetensors",
];

/// Where a file is; `None`, with a line that says so, where it is not.
fn find(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let given = std::env::var_os("GOLDEN_DIR").map(PathBuf::from);
    let folders = match given {
        Some(folder) => {
            let any = FILES.iter().any(|file| folder.join(file).is_file());
            assert!(any, "GOLDEN_DIR {} holds none of {FILES:?}", folder.display());
            vec![folder]
        }
        None => vec![root.join("tests/data/golden"), root.join("../shared/golden/model")],
    };
    let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("SKIP {name}: not in {folders:?}");
    }
    found
}

/// A golden file and the report of what was compared with it.
struct Golden {
    name: String,
    tensors: BTreeMap<String, Tensor>,
    config: Value,
    failures: Vec<String>,
}

impl Golden {
    fn open(name: &str) -> Option<Self> {
        let path = find(name)?;
        tch::set_num_threads(1); // as many as took the reference's sums
        let bytes = std::fs::read(&path).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let config = &header.metadata().as_ref().unwrap()["config"];
        Some(Self {
            name: name.into(),
            tensors: Tensor::read_safetensors(&path).unwrap().into_iter().collect(),
            config: serde_json::from_str(config).unwrap(),
            failures: Vec::new(),
        })
    }

    fn get(&self, key: &str) -> &Tensor {
        self.tensors.get(key).unwrap_or_else(|| panic!("{}: no `{key}`", self.name))
    }

    fn int(&self, key: &str) -> i64 {
        self.config[key].as_i64().unwrap_or_else(|| panic!("{}: no integer `{key}`", self.name))
    }

    fn float(&self, key: &str) -> f64 {
        self.config[key].as_f64().unwrap_or_else(|| panic!("{}: no number `{key}`", self.name))
    }

    /// Number of recorded steps, each of which has this tensor.
    fn steps(&self, tensor: &str) -> u64 {
        let recorded = |step: &u64| self.tensors.contains_key(&format!("step{step}.{tensor}"));
        (0..).take_while(recorded).count() as u64
    }

    /// Keys that start so, without that start.
    fn keys(&self, start: &str) -> Vec<String> {
        self.tensors.keys().filter_map(|key| key.strip_prefix(start).map(str::to_string)).collect()
    }

    /// Every entry within `absolute + relative * |expected|`.
    fn compare(&mut self, key: &str, got: &Tensor, absolute: f64, relative: f64) {
        let expected = self.get(key).to_kind(Kind::Double);
        let got = got.detach().to_kind(Kind::Double);
        assert_eq!(got.size(), expected.size(), "{}: `{key}`", self.name);
        let error = (got - &expected).abs();
        let excess = (&error - expected.abs() * relative).max().double_value(&[]);
        let largest = error.max().double_value(&[]);
        self.note(
            key,
            largest,
            excess <= absolute,
            &format!("{absolute:.0e} + {relative:.0e} |x|"),
        );
    }

    /// Integers and assignments, without any tolerance.
    fn same(&mut self, key: &str, got: &Tensor) {
        let off =
            got.ne_tensor(&self.get(key).to_kind(got.kind())).sum(Kind::Int64).int64_value(&[]);
        self.note(key, off as f64, off == 0, "0, entries that differ");
    }

    fn note(&mut self, key: &str, error: f64, good: bool, tolerance: &str) {
        let verdict = if good { "" } else { "  FAILED" };
        let line = format!("{} {key}: {error:.2e} (tolerance {tolerance}){verdict}", self.name);
        println!("{line}");
        if !good {
            self.failures.push(line);
        }
    }

    fn finish(self) {
        assert!(self.failures.is_empty(), "\n{}", self.failures.join("\n"));
    }

    fn em_config(&self, memory: i64) -> EmConfig {
        EmConfig {
            memory_size: memory,
            max_sample_size: self.int("max_sample"),
            update_interval: self.int("update_interval"),
            gamma_mean: 0.999,
            contrast_weight: 0.01,
        }
    }

    /// Puts the stored memory under `prefix` in place of the random one.
    fn restore(&self, prefix: &str, em: &mut EmState) {
        em.queue.copy_(self.get(&format!("{prefix}queue")));
        em.ptr = self.get(&format!("{prefix}queue_ptr")).try_into().unwrap();
        em.counter = self.get(&format!("{prefix}iteration_counter")).int64_value(&[0]);
    }

    fn compare_em(&mut self, prefix: &str, gmm: &Gmm, em: &EmState) {
        self.compare(&format!("{prefix}queue"), &em.queue, 1e-6, 0.0);
        self.same(&format!("{prefix}queue_ptr"), &Tensor::from_slice(&em.ptr));
        self.compare(&format!("{prefix}means"), &gmm.means, 1e-6, 0.0);
        self.compare(&format!("{prefix}diagonal"), &gmm.diagonal, 1e-6, 0.0);
        self.same(&format!("{prefix}iteration_counter"), &Tensor::from_slice(&[em.counter]));
    }
}

fn copy(into: &Tensor, from: &Tensor) {
    tch::no_grad(|| into.shallow_clone().copy_(from));
}

/// The classes of a table of `k` rows with made-up names.
fn classes(k: i64) -> ClassTable {
    let row = |id| Class {
        id,
        name: format!("class {id}"),
        colour: [0; 3],
        group: "any".into(),
        drivable: false,
    };
    ClassTable((0..u8::try_from(k).unwrap()).map(row).collect())
}

/// A head alone, of the shape of the file's tensors under `prefix`.
fn head_of(golden: &Golden, prefix: &str) -> HeadConfig {
    match golden.tensors.get(&format!("{prefix}means")) {
        Some(means) => {
            HeadConfig::Gmm { num_classes: means.size()[0], num_components: means.size()[1] }
        }
        None => {
            let weight = golden.get(&format!("{prefix}_head.weight"));
            HeadConfig::Linear { num_classes: weight.size()[0] }
        }
    }
}

/// The network that the file's state describes, with that state in it; `segmentor` is the prefix of
/// the segmentor's keys.
fn model(golden: &Golden, segmentor: &str) -> Model {
    let key = |name: &str| format!("{segmentor}{name}");
    let vit = |name: &str| golden.get(&key(&format!("backbone.dinov2.{name}"))).size();
    let p = &golden.config["p"];
    let int = |value: &Value| value.as_i64().unwrap();
    let taps: Vec<i64> = p["taps"].as_array().unwrap().iter().map(int).collect();
    let registers = key("backbone.dinov2.register_tokens");
    let registers = golden.tensors.get(&registers).map_or(0, |tokens| tokens.size()[1]);
    let window: Vec<i64> = p["hw"].as_array().unwrap().iter().map(int).collect();
    let mlp = golden.get(&key("backbone.learnable_layers.dino_mlp._layers.2.weight")).size();
    let head = head_of(golden, &key("segmentation_head."));
    let uem = golden.tensors.get("state.ood_projector._layers.4.weight").map(|last| UemConfig {
        hidden: last.size()[1],
        channels: last.size()[0],
        head: head_of(golden, "state.ood_head."),
    });
    let config = ModelConfig {
        format: ModelConfig::FORMAT,
        architecture: "golden".into(),
        backbone: BackboneConfig {
            embed_dim: vit("cls_token")[2],
            depth: int(&p["vit"]["depth"]),
            num_heads: int(&p["vit"]["num_heads"]),
            patch_size: vit("patch_embed.proj.weight")[2],
            num_register_tokens: registers,
            pos_grid: (vit("pos_embed")[1] - 1).isqrt(),
            pos_embed: if registers > 0 { PosEmbed::Antialias } else { PosEmbed::Offset },
            ffn: Ffn::Mlp,
            taps: taps.try_into().unwrap(),
        },
        decoder: DecoderConfig { channels: mlp[0], mlp_hidden: mlp[1] },
        head,
        uem,
        window: window.try_into().unwrap(),
        classes: classes(head.num_classes()),
        source: Source { tool: "golden".into(), from: Vec::new() },
        variant: String::new(),
        calibration: None,
        answer: None,
        sha256: String::new(),
    };
    let mut model = Model::new(&config, Device::Cpu).unwrap();
    for (name, tensor) in model.variables() {
        let stored = match name.strip_prefix("segmentor.") {
            Some(rest) => key(rest),
            None => format!("state.{name}"),
        };
        copy(&tensor, golden.get(&stored));
    }
    model.weights_changed();
    model
}

#[test]
fn sinkhorn_em_of_a_head_alone() {
    let Some(mut golden) = Golden::open(FILES[0]) else { return };
    let (e, k) = (golden.int("embedding_dim"), golden.int("num_classes"));
    let m = golden.int("components");
    let vs = tch::nn::VarStore::new(Device::Cpu);
    let head = HeadConfig::Gmm { num_classes: k, num_components: m };
    let Head::Gmm(gmm) = Head::new(&vs.root(), e, head) else { panic!("a G head was asked for") };
    for (name, tensor) in vs.variables() {
        copy(&tensor, golden.get(&format!("before.{name}")));
    }
    let mut em = EmState::new(&gmm, golden.em_config(golden.int("memory")));
    golden.restore("before.", &mut em);
    for step in 0..golden.steps("x") {
        let at = |name: &str| format!("step{step}.{name}");
        let x = golden.get(&at("x")).copy().set_requires_grad(true);
        let labels = golden.get(&at("gt")).copy();
        let (logits, labelled) = Labelled::forward(&gmm, &x, &labels);
        golden.same(&at("gt_lowres"), &labelled.labels);
        golden.compare(&at("feat_normed"), &labelled.features, 2e-5, 0.0);
        golden.compare(&at("log_prob"), &labelled.log_density, 1e-4, 0.0);
        golden.compare(&at("sem_seg"), &logits, 2e-5, 0.0);
        golden.same(&at("contrast_targets"), &labelled.targets);
        compare_assignments(&mut golden, step, &labelled, m);
        let size = labels.size();
        let raised = logits.upsample_bilinear2d([size[1], size[2]], false, None, None);
        let ce = cross_entropy(&raised, &labels);
        let contrast = labelled.contrast_loss();
        let total = &ce + &contrast * golden.float("contrast_weight");
        golden.compare(&at("loss_ce"), &ce, 1e-6, 0.0);
        golden.compare(&at("loss_contrast"), &contrast, 1e-6, 1e-6);
        golden.compare(&at("loss_total"), &total, 1e-6, 0.0);
        total.backward();
        golden.compare(&at("grad.x"), &x.grad(), 1e-6, 2e-3);
        for (name, mut tensor) in vs.variables() {
            if tensor.requires_grad() {
                golden.compare(&at(&format!("grad.{name}")), &tensor.grad(), 1e-6, 2e-3);
                tensor.zero_grad();
            }
        }
        em.update(&gmm, &labelled);
        golden.compare_em(&at("after."), &gmm, &em);
    }
    golden.finish();
}

/// Soft and hard assignments of every class, and who is let into memory.
fn compare_assignments(golden: &mut Golden, step: u64, labelled: &Labelled, m: i64) {
    let at = |name: &str| format!("step{step}.{name}");
    for class in 0..labelled.log_density.size()[1] {
        let key = |name: &str| at(&format!("sinkhorn.class{class}.{name}"));
        if golden.tensors.contains_key(&key("soft")) {
            let rows = labelled.labels.eq(class).nonzero().squeeze_dim(1);
            let soft = sinkhorn(&labelled.log_density.select(1, class).index_select(0, &rows));
            golden.compare(&key("soft"), &soft, 2e-5, 0.0);
            golden.same(&key("argmax"), &soft.argmax(1, false));
        }
    }
    let component = labelled.targets.remainder(m).where_scalarother(&labelled.correct, m);
    golden.same(&at("qs"), &component.one_hot(m + 1).narrow(1, 0, m));
}

#[test]
fn stage_1_with_a_g_head() {
    stage_1(FILES[1]);
}

#[test]
fn stage_1_with_a_d_head() {
    stage_1(FILES[2]);
}

fn stage_1(name: &str) {
    let Some(mut golden) = Golden::open(name) else { return };
    let model = model(&golden, "state.");
    let memory = golden.config["p"]["mem"].as_i64().unwrap();
    let mut stage = SegmentorStage::new(model, adamw(&golden), golden.em_config(memory));
    if let Some(em) = &mut stage.em {
        golden.restore("state.segmentation_head.", em);
    }
    run_stage(&mut golden, &mut stage, "segmentor.");
    golden.finish();
}

#[test]
fn stage_2_d_d() {
    stage_2(FILES[3]);
}

#[test]
fn stage_2_g_d() {
    stage_2(FILES[4]);
}

#[test]
fn stage_2_g_g() {
    stage_2(FILES[5]);
}

fn stage_2(name: &str) {
    let Some(mut golden) = Golden::open(name) else { return };
    let model = model(&golden, "state.segmentor.");
    let memory = golden.config["p"]["memood"].as_i64().unwrap();
    let alpha = golden.float("gmm_loss_weight");
    let options = UemOptions { frozen_norm: false, alpha };
    let mut stage =
        UemStage::new(model, options, adamw(&golden), golden.em_config(memory)).unwrap();
    if let Some(em) = &mut stage.em {
        golden.restore("state.ood_head.", em);
    }
    run_stage(&mut golden, &mut stage, "");
    golden.finish();
}

fn adamw(golden: &Golden) -> AdamWConfig {
    let betas = [0, 1].map(|i| golden.config["betas"][i].as_f64().unwrap());
    AdamWConfig { betas, eps: golden.float("eps"), weight_decay: golden.float("weight_decay") }
}

/// Every step of the file: loss, gradients, Gaussians; then the weights. Our names are the file's
/// after `prefix`.
fn run_stage(golden: &mut Golden, stage: &mut impl Stage, prefix: &str) {
    let schedule = ScheduleConfig {
        lr: golden.float("lr"),
        lr_end: golden.float("lr_end"),
        power: golden.float("power"),
        warmup_steps: golden.int("warmup").cast_unsigned(),
        max_steps: golden.int("max_steps").cast_unsigned(),
    };
    // Nearly tied classes of a G-G UEM turn the last digits of a density into a sign.
    let tied = stage.em().is_some() && prefix.is_empty();
    let close = if tied { 1e-5 } else { 1e-6 };
    let mut variables = BTreeMap::new();
    for (name, tensor) in stage.model().variables() {
        variables.insert(name.strip_prefix(prefix).unwrap_or(&name).to_string(), tensor);
    }
    for step in 0..golden.steps("image") {
        let at = |name: &str| format!("step{step}.{name}");
        // AdamW divides a gradient by its own size, so after its first update rounding is a step of lr
        // wherever a gradient is nothing else. A picture 6e-8 brighter moves the third step's gradient
        // norms by 3e-4, its queue by 1.3e-4 and the weights by 7.5e-4; another processor does as much.
        let (gradients, memory) = if tied && step > 1 { (1e-2, 1e-3) } else { (2e-3, 2e-5) };
        let lr = learning_rate(&schedule, step);
        golden.compare(&at("lr"), &Tensor::from(lr), 1e-15, 0.0);
        let (image, label) = (golden.get(&at("image")).copy(), golden.get(&at("label")).copy());
        let loss = stage.step(&image, &label, lr).unwrap();
        golden.compare(&at("loss"), &Tensor::from(loss), close, 0.0);
        for name in golden.keys(&at("gradnorm.")) {
            golden.compare(
                &at(&format!("gradnorm.{name}")),
                &variables[&name].grad().norm(),
                1e-6,
                gradients,
            );
        }
        for name in golden.keys(&at("grad.")) {
            let gradient = variables[&name].grad();
            golden.compare(&at(&format!("grad.{name}")), &gradient, close, gradients);
        }
        if golden.tensors.contains_key(&at("after.head.queue")) {
            let em = stage.em().unwrap();
            let (queue, ptr, counter) = (em.queue.shallow_clone(), em.ptr.clone(), em.counter);
            golden.compare(&at("after.head.queue"), &queue, memory, 0.0);
            golden.same(&at("after.head.queue_ptr"), &Tensor::from_slice(&ptr));
            golden.same(&at("after.head.iteration_counter"), &Tensor::from_slice(&[counter]));
            let head = if prefix.is_empty() { "ood_head" } else { "segmentation_head" };
            for name in ["means", "diagonal"] {
                let key = at(&format!("after.head.{name}"));
                golden.compare(&key, &variables[&format!("{head}.{name}")], memory, 0.0);
            }
        }
    }
    let weights = match (tied, stage.em().is_some()) {
        (true, _) => (5e-3, 1e-2),
        (false, true) => (2e-3, 2e-3),
        (false, false) => (2e-4, 2e-3),
    };
    compare_weights(golden, &variables, weights);
}

/// The weights after the last step, entry by entry to `absolute`, which AdamW makes of the last
/// digits of small gradients; norms and sums of all of them, the latter to `sums` of the norm.
fn compare_weights(
    golden: &mut Golden,
    variables: &BTreeMap<String, Tensor>,
    (absolute, sums): (f64, f64),
) {
    for name in golden.keys("final.norm.") {
        // A bias in front of a batch norm has no gradient but noise, which AdamW turns into steps.
        let gradient = (0..golden.steps("image"))
            .map(|step| golden.get(&format!("step{step}.gradnorm.{name}")).double_value(&[]));
        if gradient.fold(0.0, f64::max) < 1e-6 {
            println!(
                "{} final.{name}: not compared, its gradient is zero but for noise",
                golden.name
            );
            golden.tensors.remove(&format!("final.{name}"));
            continue;
        }
        let weight = &variables[&name];
        golden.compare(&format!("final.norm.{name}"), &weight.norm(), 1e-6, 2e-3);
        let sum = weight.sum(Kind::Double);
        let slack = sums * golden.get(&format!("final.norm.{name}")).double_value(&[]);
        golden.compare(&format!("final.sum.{name}"), &sum, slack, 2e-3);
    }
    for name in golden.keys("final.") {
        if let Some(tensor) = variables.get(&name) {
            golden.compare(&format!("final.{name}"), tensor, absolute, 0.0);
        }
    }
}

#[test]
fn learning_rates_of_both_stages() {
    let Some(path) = find(FILES[6]) else { return };
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for (stage, values) in file.as_object().unwrap() {
        let schedule = ScheduleConfig {
            lr: 5e-4,
            lr_end: 1e-7,
            power: 1.0,
            warmup_steps: values["warmup"].as_u64().unwrap(),
            max_steps: values["max_steps"].as_u64().unwrap(),
        };
        for (step, lr) in values["lr"].as_object().unwrap() {
            let (step, lr) = (step.parse().unwrap(), lr.as_f64().unwrap());
            let got = learning_rate(&schedule, step);
            assert!((got - lr).abs() <= 1e-12 * lr, "{stage} step {step}: {got}, golden {lr}");
        }
    }
}

#[test]
fn anomaly_mix_replays_the_recorded_draws() {
    let Some(golden) = Golden::open(FILES[7]) else { return };
    let bytes = |key: String| Vec::<u8>::try_from(golden.get(&key).flatten(0, -1)).unwrap();
    for case in golden.config["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let sample = |picture: &str, labels: &str| {
            let size = golden.get(&format!("{name}.{labels}")).size();
            Sample {
                height: usize::try_from(size[0]).unwrap(),
                width: usize::try_from(size[1]).unwrap(),
                rgb: bytes(format!("{name}.{picture}")),
                labels: bytes(format!("{name}.{labels}")),
            }
        };
        let mut street = sample("image", "label");
        let mut draws = case["draws"].as_array().unwrap().iter();
        let pasted = mix::paste(&mut street, &sample("coco_image", "coco_mask"), |high| {
            let draw = draws.next().expect("a draw that the reference did not make");
            assert_eq!(draw["high_inclusive"].as_u64(), Some(high as u64), "{name}");
            usize::try_from(draw["value"].as_u64().unwrap()).unwrap()
        });
        assert!(draws.next().is_none(), "{name}: a draw of the reference was not made");
        assert_eq!(pasted, case["changed"].as_u64() != Some(0), "{name}");
        assert_eq!(street, sample("out_image", "out_label"), "{name}");
    }
}
