//! The network: frozen DINOv2 backbone, FPN decoder, classifier, Unknown Estimation Module, scores.
//!
//! ```text
//! picture (b, 3, h, w), normalised
//!   -> DinoV2  final tokens, four taps (b, n, d)      stride 14
//!        -> Fpn -> Head  logits (b, k, ..)            stride 3.5, raised to (h, w)
//!        -> Uem          inlier, outlier (b, 2, ..)   stride 14, raised to (h, w)
//! ```
//!
//! The reference runs the backbone twice per call; once gives the same numbers.
#![allow(clippy::unwrap_used, reason = "shapes are fixed by ModelConfig; a wrong one is a bug")]

pub mod answer;
pub mod config;
pub mod cuda;
pub mod device;
pub mod dinov2;
pub mod familiar;
pub mod fpn;
pub mod fused;
pub mod head;
pub mod score;
pub mod uem;

use std::fmt;
use std::str::FromStr;

use tch::{Device, Kind, Tensor, nn};

pub use config::ModelConfig;
use dinov2::{DinoV2, Features};
use fpn::Fpn;
pub use fused::Fused;
use head::Head;
pub use score::{Score, classes};
use uem::Uem;

use crate::{Error, Result};

/// PyTorch's initial values of linear layers and convolutions (`kaiming_uniform_` with `a = sqrt(5)`):
/// uniform within `1 / sqrt(fan_in)`. tch's own are 2.4 times wider.
const WEIGHT: nn::Init = nn::Init::Kaiming {
    dist: nn::init::NormalOrUniform::Uniform,
    fan: nn::init::FanInOut::FanIn,
    non_linearity: nn::init::NonLinearity::ExplicitGain(0.577_350_269_189_625_8),
};

/// PyTorch's initial values of a bias, from the number of inputs of one output.
fn bias(fan_in: i64) -> nn::Init {
    let bound = 1.0 / (fan_in as f64).sqrt();
    nn::Init::Uniform { lo: -bound, up: bound }
}

fn linear(vs: nn::Path<'_>, from: i64, to: i64) -> nn::Linear {
    nn::linear(vs, from, to, nn::LinearConfig { ws_init: WEIGHT, ..Default::default() })
}

/// Arithmetic of the network; the G heads' densities and the scores are float32 in all three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// float32, the precision of every parity statement.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half; only where bf16 is not to be had.
    F16,
}

impl Precision {
    /// The element type of weights and activations.
    pub fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
            Self::F16 => Kind::Half,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = [Self::F32, Self::Bf16, Self::F16];
        let found = all.into_iter().find(|precision| precision.to_string() == name);
        found.ok_or_else(|| Error::setting("precision", name, "f32, bf16, f16"))
    }
}

/// What the network says about a picture, float32, at the picture's size.
#[derive(Debug)]
pub struct Outputs {
    /// Raw inlier logits `(b, k, h, w)`; never softmaxed.
    pub logits: Tensor,
    /// `(b, 2, h, w)`, channel 0 the generic inlier, 1 the outlier; `None` from a segmentor alone.
    pub uem: Option<Tensor>,
    /// [`Features::descriptor`] of the picture as a whole, `(b, c)`.
    pub descriptor: Tensor,
}

/// A network that runs: the plain modules, or what [`Fused`] made of them.
pub trait Network {
    /// The shape of the network and where it came from.
    fn config(&self) -> &ModelConfig;

    /// Logits and UEM of normalised pictures `(b, 3, h, w)`, both raised to `(h, w)` (bilinear,
    /// `align_corners = false`) before anything is compared: a maximum does not commute with it.
    ///
    /// `h` and `w` are multiples of the patch size.
    fn forward(&self, x: &Tensor) -> Outputs;
}

/// The segmentor and the UEM, each with its own variables so that one can be frozen by construction.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    precision: Precision,
    segmentor: nn::VarStore,
    uem_store: nn::VarStore,
    /// The backbone.
    pub backbone: DinoV2,
    /// The decoder.
    pub decoder: Fpn,
    /// The inlier classifier.
    pub head: Head,
    /// The Unknown Estimation Module.
    pub uem: Option<Uem>,
}

impl Model {
    /// A network of this shape with random weights (libtorch's generator), float32.
    ///
    /// # Errors
    /// [`Error::Setting`] for a configuration that contradicts itself.
    pub fn new(config: &ModelConfig, device: Device) -> Result<Self> {
        config.validate()?;
        let segmentor = nn::VarStore::new(device);
        let uem_store = nn::VarStore::new(device);
        let root = segmentor.root() / "segmentor";
        let backbone = DinoV2::new(&(&root / "backbone" / "dinov2"), &config.backbone);
        let layers = &root / "backbone" / "learnable_layers";
        let decoder = Fpn::new(&layers, &config.backbone, &config.decoder);
        let head = Head::new(&(&root / "segmentation_head"), config.decoder.channels, config.head);
        let dim = config.backbone.embed_dim;
        let uem = config.uem.as_ref().map(|cfg| Uem::new(&uem_store.root(), dim, cfg));
        Ok(Self {
            config: config.clone(),
            precision: Precision::F32,
            segmentor,
            uem_store,
            backbone,
            decoder,
            head,
            uem,
        })
    }

    /// The shape of the network and where it came from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// No variable is to be trained any more.
    fn freeze(&mut self) {
        self.segmentor.freeze();
        self.uem_store.freeze();
        self.weights_changed();
    }

    /// Says where the weights came from, in the sidecar that is written beside them.
    pub fn set_source(&mut self, source: config::Source) {
        self.config.source = source;
    }

    /// Where it runs.
    pub fn device(&self) -> Device {
        self.segmentor.device()
    }

    /// Variables of the segmentor (backbone, decoder, head), names starting `segmentor.`.
    pub fn segmentor(&self) -> &nn::VarStore {
        &self.segmentor
    }

    /// Variables of the UEM, names starting `ood_`; the only ones that stage 2 may touch.
    pub fn uem_store(&self) -> &nn::VarStore {
        &self.uem_store
    }

    /// Every variable by its checkpoint key.
    pub fn variables(&self) -> std::collections::BTreeMap<String, Tensor> {
        let both = [&self.segmentor, &self.uem_store];
        both.into_iter().flat_map(|store| store.variables()).collect()
    }

    /// To be called after variables were overwritten: nothing derived from the old ones survives.
    pub fn weights_changed(&mut self) {
        self.backbone.weights_changed();
    }

    /// Casts the weights, the heads' excepted: their densities stay float32.
    pub fn set_precision(&mut self, precision: Precision) {
        let kind = precision.kind();
        (self.segmentor.root() / "segmentor" / "backbone").set_kind(kind);
        if self.uem.is_some() {
            (self.uem_store.root() / "ood_projector").set_kind(kind);
        }
        self.precision = precision;
        self.weights_changed();
    }

    /// Inlier logits `(b, k, 4h, 4w)` on the decoder's map of a patch grid of `h x w`.
    pub fn logits(&self, features: &Features) -> Tensor {
        self.head.forward(&self.decoder.forward(features, false))
    }

    /// As [`Network::forward`].
    pub fn forward(&self, x: &Tensor) -> Outputs {
        let size = [x.size()[2], x.size()[3]];
        let raise = |y: Tensor| y.upsample_bilinear2d(size, false, None, None);
        let features = self.backbone.forward(&x.to_kind(self.precision.kind()));
        Outputs {
            uem: self.uem.as_ref().map(|uem| raise(uem.forward(&features))),
            logits: raise(self.logits(&features)),
            descriptor: features.descriptor(),
        }
    }
}

impl Network for Model {
    fn config(&self) -> &ModelConfig {
        self.config()
    }

    fn forward(&self, x: &Tensor) -> Outputs {
        self.forward(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClassTable;

    fn count(store: &nn::VarStore) -> usize {
        store.trainable_variables().iter().map(Tensor::numel).sum()
    }

    #[test]
    fn parameter_counts_are_those_of_the_paper_and_the_hub() {
        let counts = [
            ("vits14", "d", 22_056_576),
            ("vitb14_reg", "d", 86_583_552),
            ("vitl14_reg", "d", 304_372_736),
        ];
        for (arch, variant, backbone) in counts {
            let config = ModelConfig::named(arch, variant, ClassTable::cityscapes()).unwrap();
            let model = Model::new(&config, Device::Cpu).unwrap();
            let variables = model.variables().into_iter();
            let ours = variables.filter(|(key, _)| key.contains("dinov2"));
            let ours: usize = ours.map(|(_, tensor)| tensor.numel()).sum();
            // The published count has the mask token, of embed_dim entries, which inference has no use for.
            assert_eq!(
                ours + usize::try_from(config.backbone.embed_dim).unwrap(),
                backbone,
                "{arch}"
            );
        }
        for (variant, uem) in [("d-d", 788_226), ("g-g", 788_228)] {
            let config =
                ModelConfig::named("vitb14_reg", variant, ClassTable::cityscapes()).unwrap();
            assert_eq!(
                count(Model::new(&config, Device::Cpu).unwrap().uem_store()),
                uem,
                "{variant}"
            );
        }
    }

    #[test]
    fn half_precisions_stay_near_float32_and_leave_the_heads_in_it() {
        for variant in ["d-d", "g-g"] {
            let config = ModelConfig::named("tiny", variant, ClassTable::cityscapes()).unwrap();
            tch::manual_seed(3);
            let mut model = Model::new(&config, Device::Cpu).unwrap();
            let _no_grad = tch::no_grad_guard();
            let x = Tensor::randn([1, 3, 56, 84], (Kind::Float, Device::Cpu));
            let exact = model.forward(&x).logits;
            model.set_precision(Precision::Bf16);
            let close = model.forward(&x).logits;
            assert_eq!(close.kind(), Kind::Float);
            let error = (close - exact).abs().max().double_value(&[]);
            assert!(error > 0.0 && error < 0.2, "{variant}: {error}");
            for (key, tensor) in model.variables() {
                let is_head = key.contains("_head.");
                assert_eq!(tensor.kind() == Kind::Float, is_head, "{key}");
            }
        }
    }
}
