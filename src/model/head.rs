//! The two classifiers on a map of features: linear ("D") and GMMSeg's Gaussian mixtures ("G").
//!
//! NazirNayal8/UEM-likelihood-ratio at 1d76b9d, `gmm_seg.py`. The G head is float32 throughout, whatever the rest of the network runs in:
//! a two-class `mask_norm` is nearly a sign function of the log-density gap.

use std::f64::consts::PI;

use tch::nn::{self, Module};
use tch::{Kind, Tensor};

use super::config::HeadConfig;

/// A classifier on a map.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are two per process")]
pub enum Head {
    /// Raw linear logits.
    Linear(nn::Linear),
    /// Layer-normed maximum log-densities.
    Gmm(Gmm),
}

impl Head {
    /// A head with random weights on maps of `channels` channels.
    pub fn new(vs: &nn::Path<'_>, channels: i64, cfg: HeadConfig) -> Self {
        match cfg {
            HeadConfig::Linear { num_classes } => {
                Self::Linear(super::linear(vs / "_head", channels, num_classes))
            }
            HeadConfig::Gmm { num_classes, num_components } => {
                Self::Gmm(Gmm::new(vs, channels, num_classes, num_components))
            }
        }
    }

    /// Logits `(b, k, h, w)`, float32, of a map `(b, channels, h, w)` of any precision.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let (b, _, h, w) = x.size4().unwrap();
        let rows = x.to_kind(Kind::Float).permute([0, 2, 3, 1]); // (b, h, w, channels)
        let logits = match self {
            Self::Linear(head) => rows.apply(head),
            Self::Gmm(head) => head.forward(&rows.flatten(0, 2)).view([b, h, w, -1]),
        };
        logits.permute([0, 3, 1, 2]).contiguous()
    }
}

/// GMMSeg's head: `num_components` diagonal Gaussians per class on unit-length features.
#[derive(Debug)]
pub struct Gmm {
    feat_norm: nn::LayerNorm,
    mask_norm: nn::LayerNorm,
    /// `(k, m, channels)`; as upstream stores them, not of unit length.
    pub means: Tensor,
    /// `(k, m, channels)`; standard deviations, not variances.
    pub diagonal: Tensor,
}

impl Gmm {
    /// Its tensors, by their names under `name`.
    pub(super) fn weights(&self, name: &str) -> Vec<(String, &Tensor)> {
        let norms = [("feat_norm", &self.feat_norm), ("mask_norm", &self.mask_norm)];
        let norms = norms.into_iter().flat_map(|(norm, layer)| {
            let own = [("weight", &layer.ws), ("bias", &layer.bs)];
            own.map(|(own, x)| x.as_ref().map(|x| (format!("{name}.{norm}.{own}"), x)))
        });
        let own = [("means", &self.means), ("diagonal", &self.diagonal)];
        let own = own.map(|(own, x)| Some((format!("{name}.{own}"), x)));
        norms.chain(own).flatten().collect()
    }

    fn new(vs: &nn::Path<'_>, channels: i64, classes: i64, components: i64) -> Self {
        let shape = [classes, components, channels];
        let norm =
            |name: &str, dim| nn::layer_norm(vs / name, vec![dim], nn::LayerNormConfig::default());
        let mut means = vs.zeros_no_train("means", &shape);
        tch::no_grad(|| means.copy_(&(Tensor::randn_like(&means) * 0.02)));
        Self {
            feat_norm: norm("feat_norm", channels),
            mask_norm: norm("mask_norm", classes),
            means,
            diagonal: vs.ones_no_train("diagonal", &shape),
        }
    }

    /// Unit-length features `(n, channels)` of decoder features `(n, channels)`.
    pub fn features(&self, rows: &Tensor) -> Tensor {
        unit(&self.feat_norm.forward(rows))
    }

    /// Log-densities `(n, k, m)` of unit-length features `(n, channels)`.
    ///
    /// As two matrix products of `(n, channels)` with `(channels, k * m)`: expanding the square keeps
    /// the difference of pixels, components and channels, 4.3 GB per window, from ever existing.
    /// Computed in the type of `z`: training asks for float64, in which the expansion loses nothing.
    pub fn log_density(&self, z: &Tensor) -> Tensor {
        let (k, m, e) = self.means.size3().unwrap();
        let mu = unit(&self.means).to_kind(z.kind()).view([k * m, e]);
        let sigma = self.diagonal.to_kind(z.kind()).view([k * m, e]);
        let inv = sigma.pow_tensor_scalar(-2);
        let sum = |x: Tensor| x.sum_dim_intlist([-1].as_slice(), false, None);
        let constant =
            sum(sigma.log()) + sum(mu.square() * &inv) * 0.5 + 0.5 * e as f64 * (2.0 * PI).ln();
        let density = z.matmul(&(&mu * &inv).tr()) - z.square().matmul(&inv.tr()) * 0.5 - constant;
        density.view([-1, k, m])
    }

    /// Logits `(n, k)` of log-densities `(n, k, m)`: the best component of each class, normed over classes.
    pub fn logits(&self, log_density: &Tensor) -> Tensor {
        self.mask_norm.forward(&log_density.amax([-1], false))
    }

    /// Logits `(n, k)` of decoder features `(n, channels)`.
    pub(super) fn forward(&self, rows: &Tensor) -> Tensor {
        self.logits(&self.log_density(&self.features(rows)))
    }
}

/// Rows brought to unit length, `x / max(|x|, 1e-12)`.
pub(crate) fn unit(x: &Tensor) -> Tensor {
    x / x.norm_scalaropt_dim(2.0, [-1], true).clamp_min(1e-12)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn log_density_equals_the_sum_over_channels_written_out() {
        tch::manual_seed(2);
        let vs = nn::VarStore::new(Device::Cpu);
        let mut head = Gmm::new(&vs.root(), 6, 3, 2);
        head.diagonal = Tensor::rand([3, 2, 6], (Kind::Float, Device::Cpu)) * 0.3 + 0.1;
        let z = head.features(&Tensor::randn([5, 6], (Kind::Float, Device::Cpu)));
        let got = head.log_density(&z);
        let mu = unit(&head.means);
        for (n, k, m) in (0..5).flat_map(|n| (0..6).map(move |i| (n, i / 2, i % 2))) {
            let mut lp = -3.0 * (2.0 * PI).ln();
            for d in 0..6 {
                let sigma = head.diagonal.double_value(&[k, m, d]);
                let distance = (z.double_value(&[n, d]) - mu.double_value(&[k, m, d])) / sigma;
                lp -= sigma.ln() + 0.5 * distance * distance;
            }
            assert!((got.double_value(&[n, k, m]) - lp).abs() < 2e-4, "{n} {k} {m}");
        }
    }
}
