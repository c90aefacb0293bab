//! Stage 1: decoder and inlier head on a frozen backbone.

use std::collections::BTreeMap;
use std::sync::Arc;

use tch::{Device, Tensor};

use super::gmm::EmState;
use super::loader::Source;
use super::loss::cross_entropy;
use super::optimizer::AdamW;
use super::run::Plan;
use super::{Stage, head_forward, learn, raise, settings, thinned, window_px};
use crate::config::{AdamWConfig, EmConfig, TrainSegmentorConfig};
use crate::data::{Pair, cityscapes};
use crate::eval::metrics::Confusion;
use crate::model::config::Source as Origin;
use crate::model::head::Head;
use crate::model::{Model, classes};
use crate::{Error, Result, checkpoint, preprocess, window};

/// The stage, the plan and the validation pictures of a configuration.
///
/// # Errors
/// Weights or pictures that are missing or do not fit; settings that do not fit the architecture.
pub fn prepare(
    config: &TrainSegmentorConfig,
    device: Device,
) -> Result<(SegmentorStage, Plan, Vec<Pair>)> {
    let (network, run) = (&config.model, &config.run);
    let drawn = checkpoint::init(&network.architecture, network.head.variant(), run.seed)?;
    let mut model = Model::new(drawn.config(), device)?;
    for (name, tensor) in drawn.variables() {
        tch::no_grad(|| model.variables()[&name].shallow_clone().copy_(&tensor));
    }
    let from = vec![checkpoint::load_backbone(&network.backbone, &mut model)?];
    model.set_source(Origin { tool: "train-segmentor".into(), from });
    super::check_slots(model.config().head)?;
    let source = Source {
        streets: cityscapes::pairs(&config.data.root, &config.data.train)?,
        outliers: None,
        augment: config.augment,
        window: window_px(&model),
        batch_size: run.batch_size,
        seed: run.seed,
        num_classes: model.config().classes.0.len(),
    };
    let frames = cityscapes::pairs(&config.data.root, &config.data.validation)?;
    let plan = Plan {
        run: run.clone(),
        schedule: config.schedule,
        source: Arc::new(source),
        score: "miou",
        settings: settings(config, run)?,
    };
    tch::manual_seed(run.seed.cast_signed());
    let stage = SegmentorStage::new(model, config.optimizer, config.em);
    Ok((stage, plan, thinned(frames, run.validation_frames)))
}

/// Mean intersection over union on pictures at their native size, by the published sliding window;
/// NaN where a logit is, as of a run that is about to end for its loss.
///
/// # Errors
/// A picture that cannot be read, or a label outside the classes.
pub fn mean_iou(model: &Model, frames: &[Pair]) -> Result<f64> {
    let mut confusion = Confusion::new(model.config().classes.0.len());
    for pair in frames {
        let sample = pair.read()?;
        let x = preprocess::normalise(&super::picture(&sample, model.device()));
        let logits = window::segment(model, &[x], window::Plan::Paper, 1).remove(0).logits;
        if logits.isfinite().all().int64_value(&[]) == 0 {
            return Ok(f64::NAN);
        }
        let classes = classes(&logits).flatten(0, -1);
        let classes = Vec::try_from(classes.to_device(Device::Cpu)).map_err(super::torch)?;
        confusion.add(&classes, &sample.labels).map_err(|label| {
            let problem = format!("label {label}, expected a train id or 255");
            Error::bad_file(&pair.labels, problem)
        })?;
    }
    Ok(confusion.miou())
}

/// Decoder and head in training; the backbone is frozen because the optimiser never sees it.
#[derive(Debug)]
pub struct SegmentorStage {
    /// The network, a segmentor without UEM.
    pub model: Model,
    /// The head's memory where it is a G head.
    pub em: Option<EmState>,
    optimizer: AdamW,
    contrast_weight: f64,
}

impl SegmentorStage {
    /// A stage that starts from the model's weights.
    pub fn new(model: Model, optimizer: AdamWConfig, em: EmConfig) -> Self {
        let memory = match &model.head {
            Head::Gmm(gmm) => Some(EmState::new(gmm, em)),
            Head::Linear(_) => None,
        };
        let mut variables = trained(&model);
        variables.retain(|_, tensor| tensor.requires_grad());
        Self {
            em: memory,
            optimizer: AdamW::new(variables, optimizer),
            contrast_weight: em.contrast_weight,
            model,
        }
    }
}

/// The segmentor without its backbone.
fn trained(model: &Model) -> BTreeMap<String, Tensor> {
    let mut variables = model.variables();
    variables.retain(|name, _| name.starts_with("segmentor.") && !name.contains(".dinov2."));
    variables
}

impl Stage for SegmentorStage {
    fn model(&self) -> &Model {
        &self.model
    }

    fn step(&mut self, images: &Tensor, labels: &Tensor, lr: f64) -> Result<f64> {
        let Self { model, em, optimizer, contrast_weight } = self;
        let features = tch::no_grad(|| model.backbone.forward(images));
        let map = model.decoder.forward(&features, true);
        let (logits, labelled) = head_forward(&model.head, &map, labels, em.as_ref());
        let mut loss = cross_entropy(&raise(&logits, labels), labels);
        if let Some(labelled) = &labelled {
            loss += labelled.contrast_loss() * *contrast_weight;
        }
        let em = em.as_mut().zip(labelled.as_ref());
        learn(&loss, optimizer, em.map(|(em, labelled)| (em, &model.head, labelled)), lr)
    }

    fn optimizer(&mut self) -> &mut AdamW {
        &mut self.optimizer
    }

    fn em(&mut self) -> Option<&mut EmState> {
        self.em.as_mut()
    }

    fn trained(&self) -> BTreeMap<String, Tensor> {
        trained(&self.model)
    }
}
