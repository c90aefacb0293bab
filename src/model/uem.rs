//! The Unknown Estimation Module: three linear layers per final token and a two-class head
//! (arXiv:2409.06424, section 3.4). Channel 0 is the generic inlier, channel 1 the outlier.

use tch::Tensor;
use tch::nn;

use super::config::UemConfig;
use super::dinov2::Features;
use super::fpn::to_map;
use super::head::Head;

/// Projector and head.
#[derive(Debug)]
pub struct Uem {
    pub(super) layers: [nn::Linear; 3],
    /// The two-class head.
    pub head: Head,
}

impl Uem {
    pub(super) fn new(vs: &nn::Path<'_>, embed_dim: i64, cfg: &UemConfig) -> Self {
        let linear =
            |at: i64, from, to| super::linear(vs / "ood_projector" / "_layers" / at, from, to);
        Self {
            layers: [
                linear(0, embed_dim, cfg.hidden),
                linear(2, cfg.hidden, cfg.hidden),
                linear(4, cfg.hidden, cfg.channels),
            ],
            head: Head::new(&(vs / "ood_head"), cfg.channels, cfg.head),
        }
    }

    /// Projected tokens `(b, n, channels)`.
    pub fn project(&self, tokens: &Tensor) -> Tensor {
        let [first, second, third] = &self.layers;
        tokens.apply(first).relu().apply(second).relu().apply(third)
    }

    /// Logits `(b, 2, h, w)` on the patch grid, float32.
    pub fn forward(&self, features: &Features) -> Tensor {
        self.head.forward(&to_map(&self.project(&features.tokens), features.grid))
    }
}
