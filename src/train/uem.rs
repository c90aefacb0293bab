//! Stage 2: the Unknown Estimation Module on a frozen segmentor.
//!
//! Frozen by construction: the optimiser holds the UEM's variables only and the segmentor runs without
//! gradients. With `frozen_norm` its batch norms use their running statistics and no tensor of it
//! changes; without, they use the batch's and drift, as in the reference, whose framework leaves the
//! frozen part in training mode.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::gmm::EmState;
use super::loader::{Outliers, Source};
use super::loss::{llr_loss, uem_targets};
use super::optimizer::AdamW;
use super::run::Plan;
use super::{Stage, head_forward, learn, raise, settings, thinned, window_px};
use crate::config::{AdamWConfig, EmConfig, HeadKind, TrainUemConfig, UemTrainConfig};
use crate::data::{IGNORE, OOD, Pair, cityscapes, coco};
use crate::eval::metrics::{exact_bins, mean, pixel_metrics};
use crate::model::config::{HeadConfig, Source as Origin, SourceFile, UemConfig};
use crate::model::fpn::to_map;
use crate::model::head::Head;
use crate::model::{Model, Precision, Score};
use crate::{Error, Result, checkpoint, preprocess, window};

/// Of the outliers, the share held back from training for validation is one in so many.
const HELD_BACK: usize = 10;

/// Pictures and outliers that a run validates on; it trains on none of them.
#[derive(Clone, Debug)]
pub struct Validation {
    /// Street pictures.
    pub frames: Vec<Pair>,
    /// Pictures pasted from.
    pub objects: Vec<Pair>,
    source: Arc<Source>,
}

/// The stage, the plan and the validation of a configuration.
///
/// # Errors
/// Weights or pictures that are missing or do not fit.
pub fn prepare(config: &TrainUemConfig, device: Device) -> Result<(UemStage, Plan, Validation)> {
    let run = &config.run;
    tch::manual_seed(run.seed.cast_signed());
    let model = network(&config.model, device)?;
    let mut objects = coco::pairs(&config.outliers.root)?;
    objects.shuffle(&mut ChaCha8Rng::seed_from_u64(run.seed));
    let held = objects.split_off(objects.len() - (objects.len() / HELD_BACK).max(1));
    objects.truncate(config.outliers.pool_size);
    if objects.is_empty() {
        let problem = "one mask; at least two are needed, for training and for validation";
        return Err(Error::bad_file(&config.outliers.root, problem));
    }
    let outliers = Outliers { pairs: objects, probability: config.outliers.probability };
    let source = Arc::new(Source {
        streets: cityscapes::pairs(&config.data.root, &config.data.train)?,
        outliers: Some(outliers),
        augment: config.augment,
        window: window_px(&model),
        batch_size: run.batch_size,
        seed: run.seed,
        num_classes: model.config().classes.0.len(),
    });
    let frames = cityscapes::pairs(&config.data.root, &config.data.validation)?;
    let frames = thinned(frames, run.validation_frames);
    let validation = Validation { frames, objects: held, source: Arc::clone(&source) };
    let plan = Plan {
        run: run.clone(),
        schedule: config.schedule,
        source,
        score: "llr_ap",
        settings: settings(config, run)?,
    };
    let options = UemOptions { frozen_norm: config.model.frozen_norm, alpha: config.loss.alpha };
    let stage = UemStage::new(model, options, config.optimizer, config.em)?;
    Ok((stage, plan, validation))
}

/// A trained segmentor with a UEM of random weights (libtorch's generator).
fn network(config: &UemTrainConfig, device: Device) -> Result<Model> {
    let segmentor = checkpoint::load(&config.segmentor, device, Precision::F32)?;
    let mut shape = segmentor.config().clone();
    if shape.uem.is_some() {
        let problem = "has a UEM already; stage 2 starts from a segmentor of `train-segmentor`";
        return Err(Error::bad_file(&config.segmentor, problem));
    }
    let head = match config.head {
        HeadKind::Linear => HeadConfig::Linear { num_classes: 2 },
        HeadKind::Gmm => HeadConfig::Gmm { num_classes: 2, num_components: config.num_components },
    };
    super::check_slots(head)?;
    shape.uem = Some(UemConfig { hidden: config.hidden, channels: config.channels, head });
    let name = config.segmentor.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let from = vec![SourceFile { name, sha256: shape.sha256.clone() }];
    shape.source = Origin { tool: "train-uem".into(), from };
    let mut model = Model::new(&shape, device)?;
    for (name, tensor) in segmentor.variables() {
        tch::no_grad(|| model.variables()[&name].shallow_clone().copy_(&tensor));
    }
    model.weights_changed();
    Ok(model)
}

impl Validation {
    /// Average precision of the LLR, mean over the pictures that took an outlier; the same pictures,
    /// objects and places each time. NaN where none did.
    ///
    /// # Errors
    /// A picture that cannot be read, or a label outside the classes.
    pub fn average_precision(&self, model: &Model) -> Result<f64> {
        let mut found = Vec::new();
        for (index, pair) in (0..).zip(&self.frames) {
            let sample = self.source.with_outlier(pair, index, &self.objects)?;
            let x = preprocess::normalise(&super::picture(&sample, model.device()));
            let outputs = window::segment(model, &[x], window::Plan::Paper, 1).remove(0);
            let llr = Score::Llr.of(&outputs).flatten(0, -1).to_device(Device::Cpu);
            let scores: Vec<f32> = llr.try_into().map_err(super::torch)?;
            let target = |&label: &u8| match label {
                OOD => 1,
                IGNORE => IGNORE,
                _ => 0,
            };
            let labels: Vec<u8> = sample.labels.iter().map(target).collect();
            found.push(pixel_metrics(&exact_bins(&scores, &labels)).ap);
        }
        Ok(mean(found.into_iter().filter(|ap| !ap.is_nan())))
    }
}

/// What stage 2 can be told.
#[derive(Clone, Copy, Debug)]
pub struct UemOptions {
    /// Whether the segmentor's batch norms keep their statistics.
    pub frozen_norm: bool,
    /// Weight of the UEM's own cross-entropy.
    pub alpha: f64,
}

/// The UEM in training.
#[derive(Debug)]
pub struct UemStage {
    /// The network, with a UEM.
    pub model: Model,
    /// The UEM head's memory where it is a G head.
    pub em: Option<EmState>,
    optimizer: AdamW,
    options: UemOptions,
    contrast_weight: f64,
}

impl UemStage {
    /// A stage that starts from the model's weights.
    ///
    /// # Errors
    /// [`Error::Setting`] for a model without UEM.
    pub fn new(
        model: Model,
        options: UemOptions,
        optimizer: AdamWConfig,
        em: EmConfig,
    ) -> Result<Self> {
        let memory = match model.uem.as_ref().map(|uem| &uem.head) {
            Some(Head::Gmm(gmm)) => Some(EmState::new(gmm, em)),
            Some(Head::Linear(_)) => None,
            None => return Err(Error::setting("model", "a segmentor", "a model with UEM")),
        };
        let mut variables: BTreeMap<_, _> = model.uem_store().variables().into_iter().collect();
        variables.retain(|_, tensor| tensor.requires_grad());
        let optimizer = AdamW::new(variables, optimizer);
        let contrast_weight = em.contrast_weight;
        Ok(Self { model, em: memory, optimizer, options, contrast_weight })
    }
}

impl Stage for UemStage {
    fn model(&self) -> &Model {
        &self.model
    }

    fn step(&mut self, images: &Tensor, labels: &Tensor, lr: f64) -> Result<f64> {
        let Self { model, em, optimizer, options, contrast_weight } = self;
        let Some(uem) = &model.uem else {
            return Err(Error::setting("model", "a segmentor", "a model with UEM"));
        };
        let targets = uem_targets(labels);
        let (features, logits) = tch::no_grad(|| {
            let features = model.backbone.forward(images);
            let map = model.decoder.forward(&features, !options.frozen_norm);
            let logits = raise(&model.head.forward(&map.to_kind(Kind::Float)), labels);
            (features, logits)
        });
        let map = to_map(&uem.project(&features.tokens), features.grid);
        let (outlier, labelled) = head_forward(&uem.head, &map, &targets, em.as_ref());
        let mut loss = llr_loss(&raise(&outlier, labels), &logits, &targets, options.alpha);
        if let Some(labelled) = &labelled {
            loss += labelled.contrast_loss() * *contrast_weight;
        }
        let em = em.as_mut().zip(labelled.as_ref());
        learn(&loss, optimizer, em.map(|(em, labelled)| (em, &uem.head, labelled)), lr)
    }

    fn optimizer(&mut self) -> &mut AdamW {
        &mut self.optimizer
    }

    fn em(&mut self) -> Option<&mut EmState> {
        self.em.as_mut()
    }

    fn trained(&self) -> BTreeMap<String, Tensor> {
        let mut variables = self.model.variables();
        let drifts = !self.options.frozen_norm;
        variables
            .retain(|name, _| name.starts_with("ood_") || drifts && name.contains(".running_"));
        variables
    }
}
