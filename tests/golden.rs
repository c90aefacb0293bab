//! Every stage of the network against the authors' own classes, run once with random weights.
//!
//! Runs on the small set in `tests/data/golden`, on the full one where it is at hand, and on
//! `GOLDEN_DIR` alone when that is set (`make golden GOLDEN_DIR=..`). Prints the largest absolute
//! error per stage beside its tolerance; dimensions come from each file's metadata.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking and says what it measured or skips"
)]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use ood_segmentation::config::ClassTable;
use ood_segmentation::model::config::{Ffn, HeadConfig, PosEmbed};
use ood_segmentation::model::dinov2::resize_pos_embed;
use ood_segmentation::model::fpn::Fpn;
use ood_segmentation::model::head::Head;
use ood_segmentation::model::{Fused, Model, ModelConfig, Network, Outputs, Score};
use ood_segmentation::window;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// What the reference's README advises; nothing here is looser.
const TIGHT: f64 = 2e-5;
/// Log-densities of the mixtures.
const DENSITY: f64 = 1e-4;
/// Two nearly tied mixtures under a two-class layer norm: its slope there is 158 per nat.
const TIED: f64 = 5e-3;
/// The same after windows are averaged.
const TIED_WINDOWS: f64 = 1e-2;

/// The folders to check: `GOLDEN_DIR` alone, or the repository's and the full set beside it.
fn folders() -> Vec<PathBuf> {
    if let Some(folder) = std::env::var_os("GOLDEN_DIR") {
        return vec![folder.into()];
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let full = root.join("../shared/golden/model");
    if !full.is_dir() {
        eprintln!("SKIP the full golden set: {} is not there", full.display());
    }
    let all = [root.join("tests/data/golden"), full];
    all.into_iter().filter(|folder| folder.is_dir()).collect()
}

/// Files `<prefix>*.safetensors` of every folder, by name.
fn files(prefix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in folders() {
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut here: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        here.retain(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with(prefix) && name.ends_with(".safetensors")
        });
        here.sort();
        found.extend(here);
    }
    found
}

/// One golden file: tensors, its configuration, and the stages that failed so far.
struct Golden {
    name: String,
    tensors: HashMap<String, Tensor>,
    config: Value,
    failed: Vec<String>,
    checked: usize,
}

impl Golden {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let meta = header.metadata().as_ref().expect("metadata");
        let tensors = Tensor::read_safetensors(path).unwrap().into_iter().collect();
        println!("{}", path.display());
        Self {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            tensors,
            config: serde_json::from_str(&meta["config"]).unwrap(),
            failed: Vec::new(),
            checked: 0,
        }
    }

    fn has(&self, key: &str) -> bool {
        self.tensors.contains_key(key)
    }

    fn int(&self, pointer: &str) -> i64 {
        self.config
            .pointer(pointer)
            .and_then(Value::as_i64)
            .unwrap_or_else(|| panic!("{}: {pointer}", self.name))
    }

    fn ints<const N: usize>(&self, key: &str) -> [i64; N] {
        let values: Vec<i64> = serde_json::from_value(self.config[key].clone()).unwrap();
        values.try_into().unwrap()
    }

    /// Compares one stage, if the file holds it.
    fn check(&mut self, key: &str, got: &Tensor, tolerance: f64) {
        let Some(want) = self.tensors.get(key) else { return };
        self.checked += 1;
        assert_eq!(got.size(), want.size(), "{}: {key}: shape", self.name);
        let difference = got.to_kind(Kind::Double) - want.to_kind(Kind::Double);
        let error = difference.abs().max().double_value(&[]);
        let verdict = if error <= tolerance { "" } else { "   FAILED" }; // NaN fails
        println!("  {key:24} {error:9.2e}  of {tolerance:.0e}{verdict}");
        if !verdict.is_empty() {
            self.failed.push(format!("{}: {key}: {error:.3e} > {tolerance:.0e}", self.name));
        }
    }

    /// Integers and booleans: every element equal.
    fn check_equal(&mut self, key: &str, got: &Tensor) {
        self.check(key, got, 0.0);
    }

    fn finish(self) -> Vec<String> {
        assert!(self.checked > 0, "{}: holds no stage that is known here", self.name);
        self.failed
    }
}

/// The network that a `forward_*` file was made with.
fn model(golden: &Golden) -> Model {
    let head = |kind: &str, num_classes, components| match kind {
        "gmm" => HeadConfig::Gmm { num_classes, num_components: components },
        _ => HeadConfig::Linear { num_classes },
    };
    let classes = golden.int("/K");
    let mut config = ModelConfig::named("tiny", "d-d", ClassTable::cityscapes()).unwrap();
    let b = &mut config.backbone;
    b.embed_dim = golden.int("/vit/embed_dim");
    b.depth = golden.int("/vit/depth");
    b.num_heads = golden.int("/vit/num_heads");
    b.num_register_tokens = golden.int("/registers");
    b.pos_grid = golden.int("/vit/img_size") / b.patch_size;
    let antialias = golden.config["interpolate_antialias"].as_bool().unwrap();
    b.pos_embed = if antialias { PosEmbed::Antialias } else { PosEmbed::Offset };
    let swiglu = golden.has("state.segmentor.backbone.dinov2.blocks.0.mlp.w12.weight");
    b.ffn = if swiglu { Ffn::Swiglu } else { Ffn::Mlp };
    b.taps = golden.ints("taps");
    config.decoder.channels = golden.int("/fpn");
    config.decoder.mlp_hidden = golden.int("/dino_mlp_hidden");
    config.head = head(golden.config["seg"].as_str().unwrap(), classes, golden.int("/C"));
    let uem = config.uem.as_mut().unwrap();
    uem.hidden = golden.int("/uem/h");
    uem.channels = golden.int("/uem/o");
    let gmm = golden.has("state.ood_head.means");
    uem.head = head(if gmm { "gmm" } else { "linear" }, 2, golden.int("/Cood"));
    config.window = golden.ints("win");
    config.classes = table(usize::try_from(classes).unwrap());
    let mut model = Model::new(&config, Device::Cpu).unwrap();
    let loaded: BTreeMap<_, _> = golden
        .tensors
        .iter()
        .filter_map(|(key, tensor)| Some((key.strip_prefix("state.")?, tensor)))
        .collect();
    tch::no_grad(|| {
        for (key, mut variable) in model.variables() {
            let tensor =
                loaded.get(key.as_str()).unwrap_or_else(|| panic!("{}: no {key}", golden.name));
            assert_eq!(tensor.size(), variable.size(), "{}: {key}", golden.name);
            variable.copy_(tensor);
        }
    });
    model.weights_changed();
    model
}

/// `k` classes with made-up names.
fn table(k: usize) -> ClassTable {
    let mut rows = ClassTable::cityscapes().0;
    let template = rows[0].clone();
    rows.clear();
    for id in 0..k {
        let mut class = template.clone();
        class.id = u8::try_from(id).unwrap();
        class.name = format!("class {id}");
        rows.push(class);
    }
    ClassTable(rows)
}

fn check_head(golden: &mut Golden, prefix: &str, head: &Head, map: &Tensor) {
    if let Head::Gmm(gmm) = head {
        let channels = map.size()[1];
        let rows = map.permute([0, 2, 3, 1]).reshape([-1, channels]);
        let z = gmm.features(&rows);
        golden.check(&format!("{prefix}.feat_normed"), &z, TIGHT);
        golden.check(&format!("{prefix}.log_prob"), &gmm.log_density(&z), DENSITY);
    }
}

/// Scores and classes of full-resolution outputs.
fn check_scores(golden: &mut Golden, prefix: &str, outputs: &Outputs, uem_tolerance: f64) {
    let key = |name: &str| format!("{prefix}.{name}");
    golden.check(&key("seg_logits"), &outputs.logits, TIGHT);
    golden.check(&key("ood_logits"), outputs.uem.as_ref().unwrap(), uem_tolerance);
    golden.check(&key("neg_id_score"), &Score::NegId.of(outputs), TIGHT);
    golden.check(&key("ood_score"), &Score::Ood.of(outputs), uem_tolerance);
    golden.check(&key("llr"), &Score::Llr.of(outputs), uem_tolerance);
    golden.check_equal(&key("pred_class"), &outputs.logits.argmax(1, false));
}

fn check_forward(path: &Path) -> Vec<String> {
    let mut golden = Golden::read(path);
    let model = model(&golden);
    let gg = golden.has("state.ood_head.means");
    let x = golden.tensors["in.image"].shallow_clone();
    let vit = &model.backbone;
    let grid = vit.grid(&x);

    let patches = vit.patch_tokens(&x);
    golden.check("vit.patch_embed", &patches, TIGHT);
    golden.check("vit.pos_embed_used", &vit.pos_embed_at(grid), TIGHT);
    let tokens = vit.tokens_in(&patches, grid);
    golden.check("vit.tokens_in", &tokens, TIGHT);
    vit.run_blocks(tokens, |i, x| {
        golden.check(&format!("vit.block.{i}"), x, TIGHT);
        golden.check(&format!("vit.tap.{i}"), &vit.patches_normed(x), TIGHT);
    });
    let features = vit.forward(&x);
    golden.check("vit.final", &features.tokens, TIGHT);
    for (i, tap) in model.config().backbone.taps.iter().zip(&features.taps) {
        golden.check(&format!("vit.tap.{i}"), tap, TIGHT);
    }

    let fpn = &model.decoder;
    let mlp = fpn.mlp(&features.tokens);
    golden.check("fpn.dino_mlp", &mlp, TIGHT);
    let levels = fpn.levels(&features, false);
    let laterals = fpn.laterals(&levels, &mlp, grid);
    let mut check_all = |stage: &str, maps: &[Tensor]| {
        for (i, map) in maps.iter().enumerate() {
            golden.check(&format!("fpn.{stage}.{i}"), map, TIGHT);
        }
    };
    check_all("level", &levels);
    check_all("lateral", &laterals);
    let summed = Fpn::top_down(laterals);
    check_all("topdown", &summed);
    let outs = fpn.outs(&summed);
    check_all("out", &outs);
    let heads = fpn.heads(&outs, false);
    check_all("head", &heads);
    let map = fpn.forward(&features, false);
    golden.check("fpn.output", &map, TIGHT);

    check_head(&mut golden, "seg", &model.head, &map);
    golden.check("seg.logits", &model.logits(&features), TIGHT);
    let uem = model.uem.as_ref().unwrap();
    golden.check("uem.proj", &uem.project(&features.tokens), TIGHT);
    let (b, _, e) = uem.project(&features.tokens).size3().unwrap();
    let uem_map = uem.project(&features.tokens).transpose(1, 2).reshape([b, e, grid.0, grid.1]);
    check_head(&mut golden, "ood", &uem.head, &uem_map);
    let uem_tolerance = if gg { TIED } else { TIGHT };
    golden.check("ood.logits", &uem.forward(&features), uem_tolerance);
    check_scores(&mut golden, "full", &model.forward(&x), uem_tolerance);
    println!("  folded:");
    check_scores(&mut golden, "full", &Fused::new(model).forward(&x), uem_tolerance);
    golden.finish()
}

fn check_sliding(path: &Path) -> Vec<String> {
    let mut golden = Golden::read(path);
    let from = path.with_file_name(golden.config["state_from"].as_str().unwrap());
    let state = Golden::read(&from);
    let gg = state.has("state.ood_head.means");
    let model = model(&state);
    let [sh, sw] = golden.ints("stride");
    let [wh, ww] = model.config().window;
    let x = golden.tensors["in.image"].shallow_clone();
    let rows = window::starts(x.size()[2], wh, sh);
    let cols = window::starts(x.size()[3], ww, sw);
    let at: Vec<_> = rows.iter().flat_map(|&row| cols.iter().map(move |&col| (row, col))).collect();
    let pictures = [(x, at)];
    let mut check = |outputs: &Outputs| {
        check_scores(&mut golden, "slide", outputs, if gg { TIED_WINDOWS } else { TIGHT });
    };
    check(&window::segment_at(&model, &pictures, 1)[0]);
    let folded = Fused::new(model);
    for batch in [1, 3] {
        check(&window::segment_at(&folded, &pictures, batch)[0]);
    }
    golden.finish()
}

fn check_pos_embed(path: &Path) -> Vec<String> {
    let mut golden = Golden::read(path);
    let cases = golden.config["cases"].as_array().unwrap().clone();
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let side = |i: usize| case["grid"][i].as_i64().unwrap();
        let registers = case["mode"].as_str().unwrap().starts_with("reg");
        let rule = if registers { PosEmbed::Antialias } else { PosEmbed::Offset };
        let got =
            resize_pos_embed(&golden.tensors[&format!("{name}.in")], rule, (side(0), side(1)));
        golden.check_equal(&format!("{name}.out"), &got);
    }
    golden.finish()
}

/// Checks one file and returns what was beyond its tolerance.
type Check = fn(&Path) -> Vec<String>;

#[test]
fn every_stage_agrees_with_the_reference() {
    let _no_grad = tch::no_grad_guard();
    let mut failed = Vec::new();
    let mut checked = 0;
    let kinds: [(&str, Check); 3] =
        [("forward_", check_forward), ("sliding_", check_sliding), ("pos_embed", check_pos_embed)];
    for (prefix, check) in kinds {
        for path in files(prefix) {
            failed.extend(check(&path));
            checked += 1;
        }
    }
    let folders = folders();
    assert!(checked > 0, "no forward_*, sliding_* or pos_embed*.safetensors in {folders:?}");
    assert!(failed.is_empty(), "beyond tolerance:\n{}", failed.join("\n"));
}

/// Where the reference covers the image, its windows are ours; where it forgets the last ones, ours cover it.
#[test]
fn window_starts_agree_where_the_reference_covers_the_image() {
    for folder in folders() {
        let path = folder.join("sliding_starts.json");
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
        for case in cases {
            let int = |pointer: &str| case.pointer(pointer).unwrap().as_i64().unwrap();
            let list =
                |key: &str| -> Vec<i64> { serde_json::from_value(case[key].clone()).unwrap() };
            for (len, window, stride, key) in [
                (int("/H"), int("/win/0"), int("/stride/0"), "rows"),
                (int("/W"), int("/win/1"), int("/stride/1"), "cols"),
            ] {
                let ours = window::starts(len, window, stride);
                assert_eq!(ours.last(), Some(&(len - window).max(0)), "{case}");
                let theirs = list(key);
                if int("/uncovered_pixels") == 0 {
                    assert_eq!(ours, theirs, "{case}");
                } else {
                    assert!(
                        theirs.iter().all(|start| ours.contains(start) || *start < 0),
                        "{case}: {ours:?}"
                    );
                }
            }
        }
    }
}
