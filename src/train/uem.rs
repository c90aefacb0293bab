//! Stage 2: the Unknown Estimation Module on a frozen segmentor.
//!
//! Frozen by construction: the optimiser holds the UEM's variables only and the segmentor runs without
//! gradients. With `frozen_norm` its batch norms use their running statistics and no tensor of it
//! changes; without, they use the batch's and drift, as in the reference, whose framework leaves the
//! frozen part in training mode.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::gmm::EmState;
use super::loss::{llr_loss, uem_targets};
use super::optimizer::AdamW;
use super::{Stage, head_forward, learn, raise};
use crate::config::{AdamWConfig, EmConfig};
use crate::model::Model;
use crate::model::fpn::to_map;
use crate::model::head::Head;
use crate::{Error, Result};

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
            loss = loss + labelled.contrast_loss() * *contrast_weight;
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
