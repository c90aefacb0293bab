//! The decoder: a feature pyramid on four taps and the final tokens, fused to one map of stride 3.5.
//!
//! NazirNayal8/UEM-likelihood-ratio at 1d76b9d, the FPN over DINOv2; field names are the checkpoint's keys. The x2 upsamplings inside `heads` are bilinear
//! with `align_corners = false`, the fuse with **true**, the top-down path nearest. GroupNorm's
//! statistics are those of the whole window.

use tch::Tensor;
use tch::nn::{self, ModuleT};

use super::config::{BackboneConfig, DecoderConfig};
use super::dinov2::{Features, Grid};

/// Tokens `(b, n, d)` as a contiguous map `(b, d, h, w)`.
///
/// Contiguous because libtorch 2.11's `group_norm` backward crashes on a permuted one.
pub(crate) fn to_map(tokens: &Tensor, (h, w): Grid) -> Tensor {
    let (b, _, d) = tokens.size3().unwrap();
    tokens.transpose(1, 2).contiguous().view([b, d, h, w])
}

pub(super) fn resize(x: &Tensor, size: &[i64], align_corners: bool) -> Tensor {
    x.upsample_bilinear2d(size, align_corners, None, None)
}

/// With a scale of 1 at the start, as PyTorch; tch draws it from (0, 1).
fn batch_norm(vs: nn::Path<'_>, channels: i64) -> nn::BatchNorm {
    let config = nn::BatchNormConfig { ws_init: nn::Init::Const(1.0), ..Default::default() };
    nn::batch_norm2d(vs, channels, config)
}

/// 3x3 convolution without bias, BatchNorm, ReLU; the unit of `heads`.
#[derive(Debug)]
pub(super) struct ConvBn {
    pub(super) conv: nn::Conv2D,
    pub(super) bn: nn::BatchNorm,
}

impl ConvBn {
    /// `at` is the index of the convolution in upstream's sequence, its norm follows.
    fn new(vs: &nn::Path<'_>, at: i64, channels: i64) -> Self {
        let config = nn::ConvConfig {
            padding: 1,
            bias: false,
            ws_init: super::WEIGHT,
            ..Default::default()
        };
        Self {
            conv: nn::conv2d(vs / at, channels, channels, 3, config),
            bn: batch_norm(vs / (at + 1), channels),
        }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        self.bn.forward_t(&x.apply(&self.conv), train).relu()
    }
}

/// The feature pyramid.
#[derive(Debug)]
pub struct Fpn {
    pub(super) dino_mlp: [nn::Linear; 2],
    pub(super) fpn1: (nn::GroupNorm, nn::ConvTranspose2D, nn::BatchNorm, nn::ConvTranspose2D),
    pub(super) fpn2: (nn::GroupNorm, nn::ConvTranspose2D),
    pub(super) fpn3: nn::GroupNorm,
    pub(super) fpn4: nn::GroupNorm,
    pub(super) lateral_convs: Vec<nn::Conv2D>,
    pub(super) fpn_convs: Vec<nn::Conv2D>,
    pub(super) heads: Vec<Vec<ConvBn>>,
}

impl Fpn {
    pub(super) fn new(vs: &nn::Path<'_>, backbone: &BackboneConfig, cfg: &DecoderConfig) -> Self {
        let (d, e) = (backbone.embed_dim, cfg.channels);
        let linear = |at: i64, from, to| super::linear(vs / "dino_mlp" / "_layers" / at, from, to);
        let norm = |path| nn::group_norm(path, 1, d, nn::GroupNormConfig::default());
        let double = nn::ConvTransposeConfig {
            stride: 2,
            ws_init: super::WEIGHT,
            bs_init: super::bias(4 * d),
            ..Default::default()
        };
        let up = |path| nn::conv_transpose2d(path, d, d, 2, double);
        let conv = |name: &str, i: usize, from, k: i64| {
            let (ws_init, bs_init) = (super::WEIGHT, super::bias(from * k * k));
            let config = nn::ConvConfig { padding: k / 2, ws_init, bs_init, ..Default::default() };
            nn::conv2d(vs / name / i, from, e, k, config)
        };
        let fpn1 = vs / "fpn1";
        Self {
            dino_mlp: [linear(0, d, cfg.mlp_hidden), linear(2, cfg.mlp_hidden, e)],
            fpn1: (norm(&fpn1 / 0), up(&fpn1 / 1), batch_norm(&fpn1 / 2, d), up(&fpn1 / 4)),
            fpn2: (norm(vs / "fpn2" / 0), up(vs / "fpn2" / 1)),
            fpn3: norm(vs / "fpn3"),
            fpn4: norm(vs / "fpn4" / 0),
            lateral_convs: [d, d, d + e, d]
                .into_iter()
                .enumerate()
                .map(|(i, from)| conv("lateral_convs", i, from, 1))
                .collect(),
            fpn_convs: (0..4).map(|i| conv("fpn_convs", i, e, 3)).collect(),
            heads: (0..4)
                .map(|i| {
                    let steps = 0..i.max(1);
                    steps.map(|step| ConvBn::new(&(vs / "heads" / i), 4 * step, e)).collect()
                })
                .collect(),
        }
    }

    /// `dino_mlp` on the final tokens: `(b, n, channels)`.
    pub fn mlp(&self, tokens: &Tensor) -> Tensor {
        tokens.apply(&self.dino_mlp[0]).relu().apply(&self.dino_mlp[1])
    }

    /// The four taps at strides 3.5, 7, 14 and 28, `(b, d, .., ..)`.
    pub fn levels(&self, features: &Features, train: bool) -> [Tensor; 4] {
        let [t0, t1, t2, t3] = [0, 1, 2, 3].map(|i| to_map(&features.taps[i], features.grid));
        let (norm, up, bn, up_again) = &self.fpn1;
        let l0 = bn.forward_t(&t0.apply(norm).apply(up), train).gelu("none").apply(up_again);
        let l1 = t1.apply(&self.fpn2.0).apply(&self.fpn2.1);
        let l2 = t2.apply(&self.fpn3);
        let l3 = t3.apply(&self.fpn4).max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false);
        [l0, l1, l2, l3]
    }

    /// 1x1 convolutions to `channels`; level 2 is joined by the map of `dino_mlp` first.
    pub fn laterals(&self, levels: &[Tensor; 4], mlp: &Tensor, grid: Grid) -> Vec<Tensor> {
        let joined = Tensor::cat(&[&levels[2], &to_map(mlp, grid)], 1);
        let inputs = [&levels[0], &levels[1], &joined, &levels[3]];
        inputs.iter().zip(&self.lateral_convs).map(|(x, conv)| x.apply(conv)).collect()
    }

    /// Adds each summed level, nearest-resized, to the one of twice its resolution.
    pub fn top_down(mut laterals: Vec<Tensor>) -> Vec<Tensor> {
        for i in (1..laterals.len()).rev() {
            let size = laterals[i - 1].size();
            let coarse = laterals[i].upsample_nearest2d(&size[2..], None, None);
            laterals[i - 1] = &laterals[i - 1] + coarse;
        }
        laterals
    }

    /// 3x3 convolutions on the summed laterals.
    pub fn outs(&self, summed: &[Tensor]) -> Vec<Tensor> {
        summed.iter().zip(&self.fpn_convs).map(|(x, conv)| x.apply(conv)).collect()
    }

    /// Every level brought (nearly) to the finest: level `i` by `i` convolutions and x2 upsamplings.
    pub fn heads(&self, outs: &[Tensor], train: bool) -> Vec<Tensor> {
        let head = |(i, (x, steps)): (usize, (&Tensor, &Vec<ConvBn>))| {
            steps.iter().fold(x.shallow_clone(), |x, step| {
                let y = step.forward(&x, train);
                let size = y.size();
                if i == 0 { y } else { resize(&y, &[2 * size[2], 2 * size[3]], false) }
            })
        };
        outs.iter().zip(&self.heads).enumerate().map(head).collect()
    }

    /// Sum at the finest level's size; odd grids leave level 3 short, so it is resized.
    pub fn fuse(heads: &[Tensor]) -> Tensor {
        let size = &heads[0].size()[2..];
        let rest = heads[1..].iter();
        rest.fold(heads[0].shallow_clone(), |sum, x| sum + resize(x, size, true))
    }

    /// The decoder's map `(b, channels, 4h, 4w)` over a patch grid of `h x w`.
    pub fn forward(&self, features: &Features, train: bool) -> Tensor {
        let levels = self.levels(features, train);
        let laterals = self.laterals(&levels, &self.mlp(&features.tokens), features.grid);
        Self::fuse(&self.heads(&self.outs(&Self::top_down(laterals)), train))
    }
}
