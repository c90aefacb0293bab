//! Training of the model that the node runs.
//!
//! A small backbone can be pre-trained here ([`backbone`]), the published ones are converted. Stage 1 ([`segmentor`]) trains decoder and inlier head on a frozen backbone, stage 2 ([`uem`]) the
//! UEM on a frozen segmentor. What only training needs lives here: the Gaussians' memory ([`gmm`]),
//! the optimiser's moments, augmentation, outlier mixing. Sample `i` of a run depends on the seed and
//! on `i` alone, so a run that resumes at a step needs no generator's state to go on exactly.

pub mod augment;
pub mod backbone;
pub mod gmm;
pub mod loader;
pub mod log;
pub mod loss;
pub mod mix;
pub mod optimizer;
pub mod run;
pub mod schedule;
pub mod segmentor;
pub mod state;
pub mod uem;

use std::collections::BTreeMap;

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::config::RunConfig;
use crate::data::{IGNORE, Pair, Sample};
use crate::model::Model;
use crate::model::config::HeadConfig;
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

/// The settings that decide a run's numbers, a line each: all but where and how often it writes.
fn settings(config: &impl Serialize, run: &RunConfig) -> Result<String> {
    let json = |error: serde_json::Error| Error::io(&run.out)(error.into());
    let mut all = serde_json::to_value(config).map_err(json)?;
    all["run"] = serde_json::json!({ "seed": run.seed, "batch_size": run.batch_size });
    serde_json::to_string_pretty(&all).map_err(json)
}

/// At most `most` of the pairs, evenly; 0 takes all.
fn thinned(pairs: Vec<Pair>, most: usize) -> Vec<Pair> {
    let (count, most) = (pairs.len(), if most == 0 { pairs.len() } else { most });
    let kept = |i: &usize| (i + 1) * most / count > i * most / count;
    pairs
        .into_iter()
        .enumerate()
        .filter(|(i, _)| most >= count || kept(i))
        .map(|(_, p)| p)
        .collect()
}

/// Height and width of the network's window, px.
fn window_px(model: &Model) -> [usize; 2] {
    model.config().window.map(|side| usize::try_from(side).unwrap_or(0))
}

/// The picture of a sample as `(3, h, w)` uint8.
fn picture(sample: &Sample, device: Device) -> Tensor {
    let [h, w] = [sample.height, sample.width].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    let rgb = Tensor::from_data_size(&sample.rgb, &[h, w, 3], Kind::Uint8);
    rgb.to_device(device).permute([2, 0, 1]).contiguous()
}

/// Refuses a G head with so many Gaussians that a slot's number would read as [`IGNORE`].
fn check_slots(head: HeadConfig) -> Result<()> {
    let HeadConfig::Gmm { num_classes, num_components } = head else { return Ok(()) };
    let slots = num_classes * num_components;
    if slots <= i64::from(IGNORE) {
        return Ok(());
    }
    let allowed = format!("at most {IGNORE} classes times components in training");
    Err(Error::setting("num_components", &slots, allowed))
}

/// A tensor that cannot be read back.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn torch(error: tch::TchError) -> Error {
    Error::Torch { what: "reading a result", problem: error.to_string() }
}
