//! Stage 1: decoder and inlier head on a frozen backbone.

use std::collections::BTreeMap;

use tch::Tensor;

use super::gmm::EmState;
use super::loss::cross_entropy;
use super::optimizer::AdamW;
use super::{Stage, head_forward, learn, raise};
use crate::Result;
use crate::config::{AdamWConfig, EmConfig};
use crate::model::Model;
use crate::model::head::Head;

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
            loss = loss + labelled.contrast_loss() * *contrast_weight;
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
