//! Both training stages on the model that the node runs.
//!
//! Stage 1 ([`segmentor`]) trains decoder and inlier head on a frozen backbone, stage 2 ([`uem`]) the
//! UEM on a frozen segmentor. What only training needs lives here: the Gaussians' memory ([`gmm`]),
//! the optimiser's moments, augmentation, outlier mixing. Sample `i` of a run depends on the seed and
//! on `i` alone, so a run that resumes at a step needs no generator's state to go on exactly.

pub mod augment;
pub mod gmm;
pub mod loss;
pub mod mix;
pub mod optimizer;
pub mod schedule;
pub mod segmentor;
pub mod uem;

use std::collections::BTreeMap;

use tch::Tensor;

use crate::model::Model;
use crate::model::head::Head;
use crate::{Error, Result};
use gmm::{EmState, Labelled};
use optimizer::AdamW;

/// One stage of training: a step, and what of it has to be written down to go on later.
pub trait Stage {
    /// The network.
    fn model(&self) -> &Model;

    /// One optimiser step on normalised pictures `(b, 3, h, w)` and int64 labels `(b, h, w)`; the loss.
    ///
    /// # Errors
    /// [`Error::Torch`] for a loss that is not finite; no weight has moved then.
    fn step(&mut self, images: &Tensor, labels: &Tensor, lr: f64) -> Result<f64>;

    /// The optimiser.
    fn optimizer(&mut self) -> &mut AdamW;

    /// The memory of the head in training, where it is a G head.
    fn em(&mut self) -> Option<&mut EmState>;

    /// Every tensor of the network that a step may change.
    fn trained(&self) -> BTreeMap<String, Tensor>;
}

/// Logits of a head on a map, and for a G head in training the rest of its labelled forward.
fn head_forward(
    head: &Head,
    map: &Tensor,
    labels: &Tensor,
    em: Option<&EmState>,
) -> (Tensor, Option<Labelled>) {
    match (head, em) {
        (Head::Gmm(gmm), Some(_)) => {
            let (logits, labelled) = Labelled::forward(gmm, map, labels);
            (logits, Some(labelled))
        }
        _ => (head.forward(map), None),
    }
}

/// Logits raised to the labels' size (bilinear, `align_corners = false`).
fn raise(logits: &Tensor, labels: &Tensor) -> Tensor {
    let size = labels.size();
    logits.upsample_bilinear2d([size[1], size[2]], false, None, None)
}

/// Backward pass, EM and optimiser step of a loss; its value.
fn learn(
    loss: &Tensor,
    optimizer: &mut AdamW,
    em: Option<(&mut EmState, &Head, &Labelled)>,
    lr: f64,
) -> Result<f64> {
    let value = loss.double_value(&[]);
    if !value.is_finite() {
        let problem =
            format!("the loss is {value}; lower schedule.lr and resume from the last state");
        return Err(Error::Torch { what: "training step", problem });
    }
    optimizer.zero_grad();
    loss.backward();
    if let Some((em, Head::Gmm(gmm), labelled)) = em {
        em.update(gmm, labelled);
    }
    optimizer.step(lr);
    Ok(value)
}
