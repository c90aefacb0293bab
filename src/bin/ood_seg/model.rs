//! The arguments by which every command opens a model.

use std::path::PathBuf;

use clap::Args;
use ood_segmentation::model::{Model, Precision, device};
use ood_segmentation::{Result, checkpoint};

/// Which model, where and how.
#[derive(Args, Clone)]
pub(crate) struct ModelArgs {
    /// Weights: a safetensors file with its sidecar YAML beside it, from `init`, `convert` or training
    #[arg(short, long)]
    pub(crate) weights: PathBuf,
    /// Device: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// Arithmetic of the network: f32, bf16 or f16
    #[arg(long, default_value = "f32")]
    pub(crate) precision: Precision,
}

impl ModelArgs {
    /// Opens the weights and says on stderr what runs where.
    pub(crate) fn load(&self) -> Result<Model> {
        let (device, why) = device::select(&self.device)?;
        let model = checkpoint::load(&self.weights, device, self.precision)?;
        let config = model.config();
        eprintln!("{} {}, {}", config.architecture, config.variant(), why);
        Ok(model)
    }
}
