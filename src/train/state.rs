//! What an interrupted run needs to go on to the bit: one safetensors file that appears whole or not at all.
//!
//! It holds what steps change (weights, running statistics, moments, memory) as tensors and the
//! counters as JSON metadata. No generator's state is needed: samples depend on the seed and their
//! number alone. The frozen rest is read from where it came from and checked by its hash.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use super::Stage;
use crate::{Error, Result, checkpoint};

/// Counters of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Steps done.
    pub step: u64,
    /// Best validation so far.
    pub best: Option<f64>,
    /// The settings that decide the numbers; a run goes on under the same ones only.
    pub settings: String,
    /// SHA-256 of the frozen tensors.
    pub frozen: String,
    /// Steps of the optimiser.
    pub optimizer_steps: i64,
    /// Next column per slot of the memory, empty without a G head.
    pub queue_ptr: Vec<i64>,
    /// Labelled forwards of the G head.
    pub iteration_counter: i64,
}

/// SHA-256 over names and bytes of the tensors of the network that the stage does not train.
pub fn frozen_hash(stage: &dyn Stage) -> String {
    let trained = stage.trained();
    let mut sha256 = Sha256::new();
    for (name, tensor) in stage.model().variables() {
        if !trained.contains_key(&name) {
            let mut bytes = vec![0; 4 * tensor.numel()];
            tensor.to_device(Device::Cpu).contiguous().copy_data_u8(&mut bytes, tensor.numel());
            sha256.update(name.as_bytes());
            sha256.update(&bytes);
        }
    }
    checkpoint::hex(sha256.finalize().as_slice())
}

/// Every tensor that a step changes, by its name in the file; copying into them restores it.
fn tensors(stage: &mut dyn Stage) -> BTreeMap<String, Tensor> {
    let weights = stage.trained().into_iter();
    let mut all: BTreeMap<_, _> =
        weights.map(|(name, tensor)| (format!("weight.{name}"), tensor)).collect();
    all.extend(stage.optimizer().moments());
    if let Some(em) = stage.em() {
        all.insert("queue".into(), em.queue.shallow_clone());
    }
    all
}

/// Writes a run's state; `counters` need only step, best, settings and hash.
///
/// # Errors
/// A file that cannot be written; the old one stays then.
pub fn save(stage: &mut dyn Stage, mut counters: Counters, path: &Path) -> Result<()> {
    counters.optimizer_steps = stage.optimizer().steps;
    if let Some(em) = stage.em() {
        counters.queue_ptr.clone_from(&em.ptr);
        counters.iteration_counter = em.counter;
    }
    let json = serde_json::to_string(&counters).map_err(|e| Error::io(path)(e.into()))?;
    let metadata = HashMap::from([("counters".to_string(), json)]);
    checkpoint::write_tensors(path, &tensors(stage), Some(metadata))?;
    Ok(())
}

/// Puts a stage back to where [`save`] left it.
///
/// # Errors
/// A file of another run (settings, frozen weights, shapes), or a damaged one; the stage is then not
/// to be used.
pub fn restore(stage: &mut dyn Stage, settings: &str, path: &Path) -> Result<Counters> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let bad = |problem: String| Error::bad_file(path, problem);
    let broken = |error| bad(format!("not a whole training state: {error}"));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
    let json = header.metadata().as_ref().and_then(|metadata| metadata.get("counters"));
    let json =
        json.ok_or_else(|| bad("no counters: not a training state of this program".into()))?;
    let counters: Counters = serde_json::from_str(json).map_err(|e| bad(e.to_string()))?;
    if counters.settings != settings {
        let lines = counters.settings.lines().zip(settings.lines()).find(|(a, b)| a != b);
        let (then, now) = lines.unwrap_or(("", ""));
        let problem = format!(
            "was made with `{}`, the configuration says `{}`: restore it, or train into another run.out",
            then.trim(),
            now.trim()
        );
        return Err(bad(problem));
    }
    if counters.frozen != frozen_hash(stage) {
        return Err(bad("was made on other frozen weights than the configuration names".into()));
    }
    let file = SafeTensors::deserialize(&bytes).map_err(broken)?;
    for (name, tensor) in tensors(stage) {
        let view = file.tensor(&name).map_err(|error| bad(error.to_string()))?;
        if view.data().len() != 4 * tensor.numel() {
            let problem = format!("`{name}` is {:?}, expected {:?}", view.shape(), tensor.size());
            return Err(bad(problem));
        }
        let stored = Tensor::from_data_size(view.data(), &tensor.size(), Kind::Float);
        tch::no_grad(|| tensor.shallow_clone().copy_(&stored));
    }
    stage.optimizer().steps = counters.optimizer_steps;
    if let Some(em) = stage.em() {
        em.ptr.clone_from(&counters.queue_ptr);
        em.counter = counters.iteration_counter;
    }
    Ok(counters)
}
