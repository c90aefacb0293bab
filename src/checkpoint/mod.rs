//! Weights in and out: safetensors and the sidecar that describes them, strict in both directions.
//!
//! `x.safetensors` holds float32 tensors under the names of the authors' UEM checkpoints, which are
//! those of [`Model::variables`]; `x.yaml` is the [`ModelConfig`] with the SHA-256 of the former.
//! Nothing is guessed: a missing, left-over or wrongly shaped tensor is an error that names it.
//! (tch's own loader would broadcast a `[1]` over a whole weight, and convert types, in silence.)

mod archive;
mod convert;
mod pickle;
mod source;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

pub use convert::{Converted, Options, convert};

use crate::config::ClassTable;
use crate::model::answer::Answer;
use crate::model::config::{BackboneConfig, Calibration, Source, SourceFile};
use crate::model::{Model, ModelConfig, Precision};
use crate::{Error, Result, file};

/// Sidecar of a backbone alone: what `convert` makes of the published DINOv2 files and training of a
/// segmentor starts from. The tensors have the names that they have in a whole network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneFile {
    /// Version of this file's layout, that of [`ModelConfig`].
    pub format: u32,
    /// Name of the architecture, such as `vitb14_reg`.
    pub architecture: String,
    /// The ViT; its taps are a suggestion.
    pub backbone: BackboneConfig,
    /// Where the weights came from.
    pub source: Source,
    /// SHA-256 of the safetensors file beside this one, lower-case hex.
    pub sha256: String,
}

/// Loads a network and its weights onto a device.
///
/// # Errors
/// A file that cannot be read; a sidecar that contradicts itself or the file (SHA-256, names, shapes,
/// types); values that no trained network has (see [`save`]).
pub fn load(path: &Path, device: Device, precision: Precision) -> Result<Model> {
    let mut config: ModelConfig = match sidecar(path) {
        Err(Error::Yaml { .. }) if sidecar::<BackboneFile>(path).is_ok() => {
            let problem = "holds a backbone alone; `ood_seg train-segmentor` makes a network of it";
            return Err(Error::bad_file(path, problem));
        }
        other => other?,
    };
    config.validate()?;
    config.variant.clear(); // it agreed with the heads, which may be changed from here on
    let bytes = verified(path, &config.sha256, config.num_weights())?;
    let mut model = Model::new(&config, device)?;
    fill(path, &bytes, &model.variables())?;
    model.weights_changed();
    if precision != Precision::F32 {
        model.set_precision(precision);
    }
    Ok(model)
}

/// What a network's sidecar says, without its weights.
///
/// # Errors
/// A sidecar that is missing, does not parse or contradicts itself.
pub fn read_config(path: &Path) -> Result<ModelConfig> {
    let config: ModelConfig = sidecar(path)?;
    config.validate()?;
    Ok(config)
}

/// Fills the backbone of a network from a file that holds a backbone alone, and returns the file's
/// name and SHA-256 for the [`Source`] of what is made from it.
///
/// # Errors
/// As [`load`]; also a backbone of other numbers than the network's (their taps may differ).
pub fn load_backbone(path: &Path, model: &mut Model) -> Result<SourceFile> {
    let file: BackboneFile = sidecar(path)?;
    let wanted = &model.config().backbone;
    if (BackboneConfig { taps: wanted.taps, ..file.backbone.clone() }) != *wanted {
        let problem = format!(
            "is a {} backbone, the network to be filled has a {}: {:?} and {:?}",
            file.architecture,
            wanted.architecture(),
            file.backbone,
            wanted
        );
        return Err(Error::bad_file(path, problem));
    }
    let bytes = verified(path, &file.sha256, wanted.num_weights())?;
    let mut variables = model.variables();
    variables.retain(|name, _| name.starts_with(source::BACKBONE));
    fill(path, &bytes, &variables)?;
    model.weights_changed();
    Ok(SourceFile { name: file_name(path), sha256: file.sha256 })
}

/// Writes a network's weights and sidecar; the same weights give the same bytes. A calibration and
/// an answer stay behind: they were made for the weights that were read.
///
/// # Errors
/// Weights that are not float32, not finite, all zero where that cannot be (matrices, norms' scales,
/// variances), standard deviations that are not positive; a file that cannot be written. Neither
/// file is left behind then.
pub fn save(model: &Model, path: &Path) -> Result<()> {
    let variant = model.config().variant();
    let config = ModelConfig { variant, calibration: None, answer: None, ..model.config().clone() };
    write(path, &model.variables(), |sha256| ModelConfig { sha256, ..config })
}

/// Writes a calibration into the sidecar of weights, which stay as they are.
///
/// # Errors
/// A sidecar that cannot be read or written; a calibration that is not made of numbers.
pub fn set_calibration(path: &Path, calibration: Calibration) -> Result<()> {
    let config = ModelConfig { calibration: Some(calibration), ..sidecar(path)? };
    config.validate()?;
    write_yaml(&path.with_extension("yaml"), &config)
}

/// Writes the answer to the self-test's pictures into the sidecar of weights, which stay as they are.
///
/// # Errors
/// A sidecar that cannot be read or written.
pub fn set_answer(path: &Path, answer: Answer) -> Result<()> {
    let config = ModelConfig { answer: Some(answer), ..sidecar(path)? };
    write_yaml(&path.with_extension("yaml"), &config)
}

/// Writes the backbone of a network with its sidecar, for [`load_backbone`].
///
/// # Errors
/// As [`save`].
pub fn save_backbone(model: &Model, path: &Path) -> Result<()> {
    let config = model.config();
    let mut tensors = model.variables();
    tensors.retain(|name, _| name.starts_with(source::BACKBONE));
    write(path, &tensors, |sha256| BackboneFile {
        format: ModelConfig::FORMAT,
        architecture: config.backbone.architecture(),
        backbone: config.backbone.clone(),
        source: config.source.clone(),
        sha256,
    })
}

/// A network with random weights: the same on every machine for the same seed.
///
/// Weights are drawn for ReLU layers (He et al. 2015), biases are 0 and norms neutral, so that
/// what comes out depends on the picture.
///
/// # Errors
/// An architecture or variant that [`ModelConfig::named`] does not know.
pub fn init(arch: &str, variant: &str, seed: u64) -> Result<Model> {
    let mut config = ModelConfig::named(arch, variant, ClassTable::cityscapes())?;
    let from = vec![SourceFile { name: format!("seed {seed}"), sha256: String::new() }];
    config.source = Source { tool: "init".into(), from };
    let mut model = Model::new(&config, Device::Cpu)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for (name, mut tensor) in model.variables() {
        let size = tensor.size();
        let kind = name.rsplit('.').next().unwrap_or_default();
        // Uniform draws only: they need no function that differs between machines in its last bit.
        let bound = match kind {
            "weight" if size.len() > 1 => (6.0 / size[1..].iter().product::<i64>() as f32).sqrt(),
            "means" => (3.0 / size[2] as f32).sqrt(),
            "cls_token" | "pos_embed" | "register_tokens" => 0.03,
            "bias" => 0.0,
            _ => continue,
        };
        let draws = (0..tensor.numel()).map(|_| rng.r#gen::<f32>() * 2.0 * bound - bound);
        let values: Vec<f32> = draws.collect();
        tch::no_grad(|| tensor.copy_(&Tensor::from_slice(&values).view(size.as_slice())));
    }
    model.weights_changed();
    Ok(model)
}

/// What a weights file is by its first nine bytes, whatever its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// `torch.save` since torch 1.6.
    Zip,
    /// A bare pickle: `torch.save` before.
    Pickle,
    /// The rest, of which the safetensors crate accepts what is safetensors.
    Safetensors,
}

impl Format {
    fn of(first: &[u8]) -> Self {
        // A safetensors file starts with the length of its header, in which any byte may occur, and
        // the header with a brace; at its place a zip file has a compression method.
        match first {
            [_, _, _, _, _, _, _, _, b'{', ..] => Self::Safetensors,
            [b'P', b'K', ..] => Self::Zip,
            [0x80, ..] => Self::Pickle,
            _ => Self::Safetensors,
        }
    }
}

/// A YAML file as its struct.
fn yaml<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    serde_yaml::from_str(&text).map_err(|source| Error::Yaml { path: path.into(), source })
}

/// The sidecar beside `x.safetensors`.
fn sidecar<T: DeserializeOwned>(path: &Path) -> Result<T> {
    if path.extension().is_none_or(|ending| ending != "safetensors") {
        let problem =
            "weights are a .safetensors file; `ood_seg convert` makes one of .pth and .ckpt";
        return Err(Error::bad_file(path, problem));
    }
    yaml(&path.with_extension("yaml"))
}

/// The file's bytes, once they are those that the sidecar speaks of.
fn verified(path: &Path, sha256: &str, num_weights: i64) -> Result<Vec<u8>> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    if Format::of(&bytes) != Format::Safetensors {
        let problem =
            "is a pickle or zip by its first bytes, not safetensors; see `ood_seg convert`";
        return Err(Error::bad_file(path, problem));
    }
    let found = hex(Sha256::digest(&bytes).as_slice());
    if found != sha256 {
        let problem = format!("has SHA-256 {found}, its sidecar says {sha256}: one was changed");
        return Err(Error::bad_file(path, problem));
    }
    let values = i64::try_from(bytes.len() / 4).unwrap_or(i64::MAX);
    if values < num_weights {
        let problem = format!(
            "has room for {values} weights, its sidecar describes a network of at least {num_weights}"
        );
        return Err(Error::bad_file(path, problem));
    }
    Ok(bytes)
}

/// Copies every tensor of a safetensors file into the variable of its name.
fn fill(path: &Path, bytes: &[u8], variables: &BTreeMap<String, Tensor>) -> Result<()> {
    let tensors = SafeTensors::deserialize(bytes)
        .map_err(|error| Error::bad_file(path, format!("not a whole safetensors file: {error}")))?;
    let left_over = tensors.iter().filter(|(name, _)| !variables.contains_key(*name));
    if let Some((name, view)) = left_over.min_by_key(|(name, _)| *name) {
        let found = described(view.dtype(), view.shape());
        return Err(mismatch(path, name, found, "no such tensor in this network"));
    }
    for (name, variable) in variables {
        let expected = described(Dtype::F32, variable.size());
        let Ok(view) = tensors.tensor(name) else {
            return Err(mismatch(path, name, "missing", expected));
        };
        let found = described(view.dtype(), view.shape());
        if found != expected {
            return Err(mismatch(path, name, found, expected));
        }
        put(path, name, variable, view.data())?;
    }
    Ok(())
}

/// Overwrites a variable with little-endian float32 bytes of exactly its size, if they can be weights.
fn put(path: &Path, name: &str, variable: &Tensor, bytes: &[u8]) -> Result<()> {
    let failed = |error: tch::TchError| torch("copying weights", &error);
    let size = variable.size();
    if bytes.len() != 4 * variable.numel() {
        let found = format!("{} bytes", bytes.len());
        return Err(mismatch(path, name, found, described(Dtype::F32, &size)));
    }
    let tensor = Tensor::f_from_data_size(bytes, &size, Kind::Float).map_err(failed)?;
    plausible(path, name, &tensor)?;
    tch::no_grad(|| variable.shallow_clone().f_copy_(&tensor)).map_err(failed)
}

/// Refuses what no trained network holds.
fn plausible(path: &Path, name: &str, tensor: &Tensor) -> Result<()> {
    let all = |condition: Tensor| condition.all().int64_value(&[]) != 0;
    let kind = name.rsplit('.').next().unwrap_or_default();
    let wrong = if !all(tensor.isfinite()) {
        Some(("NaN or infinite somewhere", "finite numbers"))
    } else if matches!(kind, "weight" | "running_var") && all(tensor.eq(0.0)) {
        Some(("0 everywhere", "trained values"))
    } else if kind == "running_var" && !all(tensor.ge(0.0)) {
        Some(("negative somewhere", "variances"))
    } else if kind == "diagonal" && !all(tensor.gt(0.0)) {
        Some(("0 or negative somewhere", "standard deviations"))
    } else {
        None
    };
    wrong.map_or(Ok(()), |(found, expected)| Err(mismatch(path, name, found, expected)))
}

/// Writes tensors in the order of their names, and the sidecar that `describe` makes of their SHA-256.
fn write<S: Serialize>(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    describe: impl FnOnce(String) -> S,
) -> Result<()> {
    if path.extension().is_none_or(|ending| ending != "safetensors") {
        let allowed = "a name that ends in .safetensors; the sidecar stands beside it";
        return Err(Error::setting("out", &path.display(), allowed));
    }
    for (name, tensor) in tensors {
        plausible(path, name, tensor)?;
    }
    let sha256 = write_tensors(path, tensors, None)?;
    write_yaml(&path.with_extension("yaml"), &describe(sha256)).inspect_err(|_| {
        if let Err(left) = fs::remove_file(path) {
            log::warn!("{} stays without its sidecar: {left}", path.display());
        }
    })
}

/// Writes float32 tensors in the order of their names as safetensors; the file's SHA-256.
///
/// # Errors
/// A tensor of another type, a file that cannot be written.
pub(crate) fn write_tensors(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    metadata: Option<HashMap<String, String>>,
) -> Result<String> {
    let mut end = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        if tensor.kind() != Kind::Float {
            return Err(mismatch(path, name, format!("{:?}", tensor.kind()), "F32 in a file"));
        }
        let start = end;
        end += 4 * tensor.numel();
        let shape = tensor.size().iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect();
        let info = TensorInfo { dtype: Dtype::F32, shape, data_offsets: (start, end) };
        infos.push((name.clone(), info));
    }
    let header = Metadata::new(metadata, infos).map_err(io::Error::other);
    let header = header.and_then(|header| Ok(serde_json::to_vec(&header)?));
    let mut header = header.map_err(Error::io(path))?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut sha256 = Sha256::new();
    file::write(path, |file| {
        let mut put = |bytes: &[u8]| {
            sha256.update(bytes);
            file.write_all(bytes)
        };
        put(&(header.len() as u64).to_le_bytes())?;
        put(&header)?;
        for tensor in tensors.values() {
            let mut bytes = vec![0; 4 * tensor.numel()];
            let tensor = tensor.to_device(Device::Cpu).contiguous();
            tensor.f_copy_data_u8(&mut bytes, tensor.numel()).map_err(io::Error::other)?;
            put(&bytes)?;
        }
        Ok(())
    })?;
    Ok(hex(sha256.finalize().as_slice()))
}

fn write_yaml(path: &Path, content: &impl Serialize) -> Result<()> {
    let text = serde_yaml::to_string(content);
    let text = text.map_err(|source| Error::Yaml { path: path.to_path_buf(), source })?;
    file::write(path, |file| file.write_all(text.as_bytes()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Type and shape as messages show them: `F32 [1, 26, 48]`.
fn described(dtype: impl std::fmt::Debug, shape: impl std::fmt::Debug) -> String {
    format!("{dtype:?} {shape:?}")
}

fn mismatch(
    path: &Path,
    tensor: &str,
    found: impl Into<String>,
    expected: impl Into<String>,
) -> Error {
    let (found, expected) = (found.into(), expected.into());
    Error::Tensor { path: path.into(), tensor: tensor.into(), found, expected }
}

fn torch(what: &'static str, error: &tch::TchError) -> Error {
    let problem = error.to_string().lines().next().unwrap_or_default().into();
    Error::Torch { what, problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model;

    #[test]
    fn what_is_saved_is_loaded_bit_for_bit_and_a_seed_always_gives_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, seed) in [("a.safetensors", 7), ("b.safetensors", 7), ("c.safetensors", 8)] {
            save(&init("tiny", "g-g", seed).unwrap(), &path(name)).unwrap();
        }
        let bytes = |name: &str| fs::read(path(name)).unwrap();
        assert!(bytes("a.safetensors") == bytes("b.safetensors"));
        assert!(bytes("a.safetensors") != bytes("c.safetensors"));
        let (made, loaded) = (
            init("tiny", "g-g", 7).unwrap(),
            load(&path("a.safetensors"), Device::Cpu, Precision::F32).unwrap(),
        );
        assert_eq!(loaded.config().source.from[0].name, "seed 7");
        let variables = loaded.variables();
        assert!(variables.keys().any(|name| name.ends_with("heads.3.9.running_var")));
        assert!(made.variables().iter().all(|(name, tensor)| tensor.equal(&variables[name])));
    }

    #[test]
    fn weights_that_no_network_has_are_neither_saved_nor_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        for (name, value) in [
            ("ood_head.diagonal", 0.0),
            ("segmentor.backbone.learnable_layers.fpn1.2.running_var", -1.0),
            ("ood_projector._layers.0.weight", 0.0),
            ("segmentor.backbone.dinov2.cls_token", f64::INFINITY),
        ] {
            let model = init("tiny", "g-g", 1).unwrap();
            let bad = model.variables()[name].full_like(value);
            tch::no_grad(|| model.variables()[name].shallow_clone().copy_(&bad));
            let error = save(&model, &path).unwrap_err().chain();
            assert!(error.contains(name), "{error}");
        }
        let mut half = init("tiny", "d", 1).unwrap();
        half.set_precision(Precision::Bf16);
        assert!(save(&half, &path).unwrap_err().chain().contains("F32"));
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
    }

    #[test]
    fn random_networks_answer_differently_to_different_pictures_and_places() {
        for variant in ["d-d", "g-g"] {
            let model = init("tiny", variant, 0).unwrap();
            let _no_grad = tch::no_grad_guard();
            tch::manual_seed(1);
            let coarse = Tensor::randn([2, 3, 5, 10], (Kind::Float, Device::Cpu));
            let outputs = model.forward(&coarse.upsample_nearest2d([140, 280], None, None));
            let classes = outputs.logits.argmax(1, false);
            let most = classes.view(-1).bincount::<Tensor>(None, 19).max().int64_value(&[]);
            assert!(most < classes.numel() as i64 * 8 / 10, "{variant}: {most} of one class");
            let spread = model::Score::Llr.of(&outputs).std(true).double_value(&[]);
            assert!(spread > 0.1, "{variant}: {spread}");
        }
    }
}
