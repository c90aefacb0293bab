//! Pre-training of a small backbone on labelled pictures, from random weights to tokens worth freezing.
//!
//! Not DINOv2's self-distillation, which takes more pictures and time than a small model is worth: a
//! linear `Probe` reads two things off every final patch token, the classes of its 4 x 4 cells and
//! its pixels. The classes teach what stage 1 needs; the pixels keep what a classifier would throw
//! away, and with it what stage 2 can tell the unknown by. The probe ends with the run.

use std::collections::BTreeMap;
use std::sync::Arc;

use tch::nn::{self, Module};
use tch::{Device, Kind, Reduction, Tensor};

use super::gmm::EmState;
use super::loader::Source;
use super::loss::cross_entropy;
use super::optimizer::AdamW;
use super::run::Plan;
use super::{Stage, learn, settings, thinned, window_px};
use crate::config::{AdamWConfig, AugmentConfig, TrainBackboneConfig};
use crate::data::cityscapes;
use crate::eval::metrics::Confusion;
use crate::model::Model;
use crate::model::config::{Source as Origin, SourceFile};
use crate::model::dinov2::Features;
use crate::model::fpn::to_map;
use crate::{Error, Result, checkpoint};

/// Cells along a side of a patch; the decoder's map is as fine.
const CELLS: i64 = 4;

/// The stage, the plan and the validation of a configuration.
///
/// # Errors
/// Pictures that are missing or do not fit; an architecture that there is not.
pub fn prepare(
    config: &TrainBackboneConfig,
    device: Device,
) -> Result<(BackboneStage, Plan, Validation)> {
    let run = &config.run;
    let drawn = checkpoint::init(&config.model.architecture, "d", run.seed)?;
    let mut model = Model::new(drawn.config(), device)?;
    tch::manual_seed(run.seed.cast_signed());
    for (name, tensor) in drawn.variables() {
        tch::no_grad(|| model.variables()[&name].shallow_clone().copy_(&tensor));
    }
    let from = vec![SourceFile { name: format!("seed {}", run.seed), sha256: String::new() }];
    model.set_source(Origin { tool: "train-backbone".into(), from });
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
    let still =
        AugmentConfig { scale: [1.0, 1.0], crop: source.window, flip: 0.0, colour_jitter: 0.0 };
    let held_back = Source {
        streets: thinned(frames, run.validation_frames),
        augment: still,
        batch_size: 1,
        ..source.clone()
    };
    let stage = BackboneStage::new(model, config.loss.reconstruction, config.optimizer);
    let validation = Validation { source: held_back, classes: stage.probe.classes() };
    let plan = Plan {
        run: run.clone(),
        schedule: config.schedule,
        source: Arc::new(source),
        score: "miou",
        settings: settings(config, run)?,
    };
    Ok((stage, plan, validation))
}

/// A window of each validation picture, and the layer that reads classes off the tokens.
#[derive(Debug)]
pub struct Validation {
    source: Source,
    classes: nn::Linear,
}

impl Validation {
    /// Mean intersection over union of the cells of the windows, the same windows each time.
    ///
    /// # Errors
    /// A picture that cannot be read, or a label outside the classes.
    pub fn mean_iou(&self, model: &Model) -> Result<f64> {
        let mut confusion = Confusion::new(self.source.num_classes);
        for step in 0..self.source.streets.len() as u64 {
            let (images, labels) = self.source.batch(step)?.tensors(model.device());
            let logits = read_off(&model.backbone.forward(&images), &self.classes, CELLS);
            let bytes = |classes: &Tensor| {
                let plane = classes.to_kind(Kind::Uint8).flatten(0, -1).to_device(Device::Cpu);
                Vec::try_from(plane).map_err(super::torch)
            };
            let predicted: Vec<u8> = bytes(&logits.argmax(1, false))?;
            let wrong = |label: u8| Error::setting("label", &label, "a train id or 255");
            confusion.add(&predicted, &bytes(&cells(&labels, &logits))?).map_err(wrong)?;
        }
        Ok(confusion.miou())
    }
}

/// `side x side` values of a layer's outputs for every patch: `(b, outputs / side^2, side h, side w)`.
fn read_off(features: &Features, layer: &nn::Linear, side: i64) -> Tensor {
    to_map(&layer.forward(&features.tokens), features.grid).pixel_shuffle(side)
}

/// Labels `(b, h, w)` at the cells of `logits`: that of the nearest pixel.
fn cells(labels: &Tensor, logits: &Tensor) -> Tensor {
    let size = &logits.size()[2..];
    let map = labels.unsqueeze(1).to_kind(Kind::Float).upsample_nearest2d(size, None, None);
    map.squeeze_dim(1).to_kind(Kind::Int64)
}

/// What is read off the tokens while the backbone learns.
#[derive(Debug)]
struct Probe {
    store: nn::VarStore,
    classes: nn::Linear,
    pixels: nn::Linear,
    patch_size: i64,
}

impl Probe {
    fn new(model: &Model) -> Self {
        let (k, backbone) = (model.config().head.num_classes(), &model.config().backbone);
        let (d, p) = (backbone.embed_dim, backbone.patch_size);
        let store = nn::VarStore::new(model.device());
        let root = store.root() / "probe";
        let classes = nn::linear(&root / "classes", d, k * CELLS * CELLS, Default::default());
        let pixels = nn::linear(&root / "pixels", d, 3 * p * p, Default::default());
        Self { store, classes, pixels, patch_size: p }
    }

    /// The class layer; it learns on with the probe.
    fn classes(&self) -> nn::Linear {
        let bias = self.classes.bs.as_ref().map(Tensor::shallow_clone);
        nn::Linear { ws: self.classes.ws.shallow_clone(), bs: bias }
    }
}

/// A backbone in training.
#[derive(Debug)]
pub struct BackboneStage {
    /// A segmentor of which only the backbone learns.
    pub model: Model,
    probe: Probe,
    optimizer: AdamW,
    reconstruction: f64,
}

impl BackboneStage {
    /// A stage that starts from nothing: libtorch's generator draws the weights, as DINOv2's are drawn.
    ///
    /// `reconstruction` is the weight of the squared error of the pixels.
    pub fn new(model: Model, reconstruction: f64, optimizer: AdamWConfig) -> Self {
        let probe = Probe::new(&model);
        let variables = trained(&model, &probe);
        for (name, tensor) in &variables {
            let mut tensor = tensor.shallow_clone();
            tch::no_grad(|| match name.rsplit('.').next() {
                Some("weight") if tensor.dim() > 1 => drop(tensor.normal_(0.0, 0.02)),
                Some("bias") => drop(tensor.zero_()),
                _ => (),
            });
        }
        Self { probe, optimizer: AdamW::new(variables, optimizer), reconstruction, model }
    }
}

/// The backbone and the probe.
fn trained(model: &Model, probe: &Probe) -> BTreeMap<String, Tensor> {
    let mut variables = model.variables();
    variables.retain(|name, _| name.contains(".dinov2."));
    variables.extend(probe.store.variables());
    variables
}

impl Stage for BackboneStage {
    fn model(&self) -> &Model {
        &self.model
    }

    fn step(&mut self, images: &Tensor, labels: &Tensor, lr: f64) -> Result<f64> {
        // A validation without gradients keeps a position embedding that this step must not see.
        self.model.weights_changed();
        let features = self.model.backbone.forward(images);
        let logits = read_off(&features, &self.probe.classes, CELLS);
        let pixels = read_off(&features, &self.probe.pixels, self.probe.patch_size);
        let loss = cross_entropy(&logits, &cells(labels, &logits))
            + pixels.mse_loss(images, Reduction::Mean) * self.reconstruction;
        learn(&loss, &mut self.optimizer, None, lr)
    }

    fn optimizer(&mut self) -> &mut AdamW {
        &mut self.optimizer
    }

    fn em(&mut self) -> Option<&mut EmState> {
        None
    }

    fn trained(&self) -> BTreeMap<String, Tensor> {
        trained(&self.model, &self.probe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClassTable;
    use crate::model::ModelConfig;

    #[test]
    fn the_loss_falls_on_one_batch_and_only_the_backbone_of_the_network_moves() {
        tch::manual_seed(2);
        let config = ModelConfig::named("tiny", "d", ClassTable::cityscapes()).unwrap();
        let options = AdamWConfig { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.05 };
        let mut stage = BackboneStage::new(Model::new(&config, Device::Cpu).unwrap(), 0.5, options);
        let copies = |model: &Model| {
            let all = model.variables().into_iter();
            all.map(|(name, tensor)| (name, tensor.copy())).collect::<BTreeMap<_, _>>()
        };
        let before = copies(&stage.model);
        // Left half dark and of class 3, right half bright and of class 11; the last row is ignored.
        let labels = Tensor::full([2, 28, 42], 3, (Kind::Int64, Device::Cpu));
        drop(labels.narrow(2, 21, 21).fill_(11));
        let images = (labels.unsqueeze(1).to_kind(Kind::Float) / 4.0 - 1.5).repeat([1, 3, 1, 1]);
        drop(labels.narrow(1, 27, 1).fill_(255));
        let losses: Vec<f64> =
            (0..30).map(|_| stage.step(&images, &labels, 1e-3).unwrap()).collect();
        assert!(losses[29] < 0.3 * losses[0], "{losses:?}");
        for (name, tensor) in copies(&stage.model) {
            let moved = !tensor.equal(&before[&name]);
            assert_eq!(moved, name.contains(".dinov2."), "{name}");
        }
    }

    #[test]
    fn a_cell_has_the_label_of_the_pixel_at_its_corner_and_outputs_fill_a_patch_row_by_row() {
        let labels = Tensor::arange(8, (Kind::Int64, Device::Cpu)).view([1, 2, 4]);
        let logits = Tensor::zeros([1, 19, 1, 2], (Kind::Float, Device::Cpu));
        assert_eq!(cells(&labels, &logits), Tensor::from_slice(&[0i64, 2]).view([1, 1, 2]));
        // Two patches side by side of one value each, four outputs: the value times 1, 2, 3, 4.
        let tokens = Tensor::from_slice(&[1f32, 10.0]).view([1, 2, 1]);
        let features = Features { tokens, taps: Vec::new(), grid: (1, 2) };
        let ws = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([4, 1]);
        let map = read_off(&features, &nn::Linear { ws, bs: None }, 2);
        let expected = [1f32, 2.0, 10.0, 20.0, 3.0, 4.0, 30.0, 40.0];
        assert_eq!(map, Tensor::from_slice(&expected).view([1, 1, 2, 4]));
    }
}
