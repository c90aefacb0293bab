//! Sinkhorn-EM of the GMMSeg head: what labels do to its Gaussians, kept out of inference.
//!
//! GMMSeg (arXiv:2210.02025) as UEM-likelihood-ratio runs it, `gmm_seg.py` at 1d76b9d. The order in
//! a step is forward, backward, EM, optimiser: EM reads only what the forward computed, so doing it
//! after the backward pass changes no number, and no tensor that autograd kept is written to.

use tch::{Kind, Tensor};

use super::loss::cross_entropy;
use crate::config::EmConfig;
use crate::model::head::{Gmm, unit};

/// Temperature of the Sinkhorn kernel.
const EPSILON: f64 = 0.05;
/// Alternations of the Sinkhorn normalisation.
const ITERATIONS: usize = 3;
/// Added to every variance, so that no standard deviation is below 0.1.
const VARIANCE_FLOOR: f64 = 0.01;

/// Soft assignment `(n, m)` of `n` pixels of one class to its `m` components, from their
/// log-densities `(n, m)`: rows sum to 1, columns nearly to `n / m`.
pub fn sinkhorn(log_density: &Tensor) -> Tensor {
    let size = log_density.size();
    let (n, m) = (size[0] as f64, size[1] as f64);
    let total = |q: &Tensor, dim: i64| q.sum_dim_intlist([dim].as_slice(), true, None);
    let scaled = log_density / log_density.abs().max();
    let mut q = (scaled / EPSILON).exp();
    q = &q / q.sum(None);
    for _ in 0..ITERATIONS {
        q = &q / total(&q, 0) / m;
        q = &q / total(&q, 1) / n;
    }
    q * n
}

/// Train ids below `k` that occur among `labels`, ascending.
fn present(labels: &Tensor, k: i64) -> Vec<i64> {
    let (values, _) = labels.internal_unique(true, false);
    let values: Vec<i64> = values.try_into().unwrap_or_default();
    values.into_iter().filter(|class| (0..k).contains(class)).collect()
}

/// One labelled forward of a G head: what the losses and the EM step need of it, `n` pixels of the map.
#[derive(Debug)]
pub struct Labelled {
    /// Unit-length features `(n, channels)`.
    pub features: Tensor,
    /// Log-densities `(n, k, m)`.
    pub log_density: Tensor,
    /// Labels `(n)` at the map's size, int64.
    pub labels: Tensor,
    /// `(n)`: slot `class * m + component` by Sinkhorn for every labelled pixel, else 255.
    pub targets: Tensor,
    /// `(n)`: whether the pixel's class is the one the head predicts.
    pub correct: Tensor,
}

impl Labelled {
    /// Logits `(b, k, h, w)` of a map `(b, channels, h, w)`, and the rest of the labelled forward.
    ///
    /// `labels` is `(b, height, width)` int64 at the picture's size; nearest pixels are taken.
    pub fn forward(gmm: &Gmm, map: &Tensor, labels: &Tensor) -> (Tensor, Self) {
        let size = map.size();
        let (b, h, w) = (size[0], size[2], size[3]);
        let small = labels.unsqueeze(1).to_kind(Kind::Float).upsample_nearest2d([h, w], None, None);
        let labels = small.to_kind(Kind::Int64).flatten(0, -1);
        let features = gmm.features(&map.permute([0, 2, 3, 1]).flatten(0, 2));
        // Two classes nearly tied turn a density's last digits into the sign of a gradient.
        let log_density = gmm.log_density(&features.to_kind(Kind::Double)).to_kind(Kind::Float);
        let logits = gmm.logits(&log_density);
        let (targets, correct) = tch::no_grad(|| assign(&log_density, &logits, &labels));
        let logits = logits.view([b, h, w, -1]).permute([0, 3, 1, 2]).contiguous();
        (logits, Self { features, log_density, labels, targets, correct })
    }

    /// Cross-entropy of the log-densities of all components against the Sinkhorn targets.
    pub fn contrast_loss(&self) -> Tensor {
        cross_entropy(&self.log_density.flatten(1, 2), &self.targets)
    }
}

/// Sinkhorn targets and correctness; see [`Labelled`].
fn assign(log_density: &Tensor, logits: &Tensor, labels: &Tensor) -> (Tensor, Tensor) {
    let (k, m) = (log_density.size()[1], log_density.size()[2]);
    let mut targets = labels.copy();
    for class in present(labels, k) {
        let rows = labels.eq(class).nonzero().squeeze_dim(1);
        let density = log_density.select(1, class).index_select(0, &rows);
        let component = sinkhorn(&density).argmax(1, false);
        targets = targets.index_copy(0, &rows, &(component + class * m));
    }
    (targets, logits.argmax(1, false).eq_tensor(labels))
}

/// The memory behind the Gaussians; slot `class * m + component`. Training only.
#[derive(Debug)]
pub struct EmState {
    /// `(k * m, channels, memory_size)`: unit-length features, a ring per slot.
    pub queue: Tensor,
    /// Per slot, the column that is written next.
    pub ptr: Vec<i64>,
    /// Labelled forwards so far.
    pub counter: i64,
    cfg: EmConfig,
}

impl EmState {
    /// A memory of random unit-length features (libtorch's generator).
    pub fn new(gmm: &Gmm, cfg: EmConfig) -> Self {
        let size = gmm.means.size();
        let slots = size[0] * size[1];
        let shape = [slots, size[2], cfg.memory_size];
        let random = Tensor::randn(shape, (Kind::Float, gmm.means.device()));
        let queue = &random / random.norm_scalaropt_dim(2.0, [1], true);
        Self { queue, ptr: vec![0; usize::try_from(slots).unwrap_or(0)], counter: 0, cfg }
    }

    /// Takes the correctly classified pixels into memory and, every `update_interval` calls, moves
    /// the Gaussians of the classes that are present. Means are brought to unit length first.
    pub fn update(&mut self, gmm: &Gmm, step: &Labelled) {
        tch::no_grad(|| {
            let (k, m) = (gmm.means.size()[0], gmm.means.size()[1]);
            let (mut means, mut diagonal) =
                (gmm.means.shallow_clone(), gmm.diagonal.shallow_clone());
            means.copy_(&unit(&gmm.means));
            let classes = present(&step.labels, k);
            for slot in classes.iter().flat_map(|class| class * m..(class + 1) * m) {
                let members = step.targets.eq(slot).logical_and(&step.correct);
                self.remember(slot, &step.features, &members.nonzero().squeeze_dim(1));
            }
            if self.counter % self.cfg.update_interval == 0 {
                for &class in &classes {
                    self.estimate(&mut means, &mut diagonal, class);
                }
            }
            self.counter += 1;
        });
    }

    /// Writes the features of `rows`, evenly thinned to `max_sample_size`, into a slot's ring.
    fn remember(&mut self, slot: i64, features: &Tensor, rows: &Tensor) {
        let (found, most) = (rows.size()[0], self.cfg.max_sample_size);
        let kept: Vec<i64> = if found > most {
            (0..most).map(|i| i * (found - 1) / (most - 1)).collect()
        } else {
            (0..found).collect()
        };
        let Some(ptr) = usize::try_from(slot).ok().and_then(|slot| self.ptr.get_mut(slot)) else {
            return;
        };
        let len = self.cfg.memory_size;
        let columns: Vec<i64> = (0..).take(kept.len()).map(|i| (*ptr + i) % len).collect();
        *ptr = (*ptr + columns.len() as i64) % len;
        let device = features.device();
        let rows = rows.index_select(0, &Tensor::from_slice(&kept).to_device(device));
        let columns = Tensor::from_slice(&columns).to_device(device);
        let ring =
            self.queue.get(slot).index_copy(1, &columns, &features.index_select(0, &rows).tr());
        self.queue.get(slot).copy_(&ring);
    }

    /// Moves one class's means towards the direction of its memory and replaces its deviations.
    fn estimate(&self, means: &mut Tensor, diagonal: &mut Tensor, class: i64) {
        let m = means.size()[1];
        let memory = self.queue.narrow(0, class * m, m); // (m, channels, memory_size)
        let centre = unit(&memory.sum_dim_intlist([-1].as_slice(), false, None)); // (m, channels)
        let spread = (memory - centre.unsqueeze(-1)).square();
        let variance = spread.mean_dim([-1].as_slice(), false, None);
        let momentum = self.cfg.gamma_mean;
        let moved = means.get(class) * momentum + centre * (1.0 - momentum);
        means.get(class).copy_(&moved);
        diagonal.get(class).copy_(&(variance + VARIANCE_FLOOR).sqrt());
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn sinkhorn_spreads_pixels_over_components_that_one_would_take_alone() {
        // Component 0 is the likelier for every pixel, by less and less; balance sends the last away.
        let lp = Tensor::from_slice(&[4f32, 1.0, 4.0, 2.0, 4.0, 3.0, 4.0, 3.5]).view([4, 2]);
        let q = sinkhorn(&lp);
        let picks: Vec<i64> = q.argmax(1, false).try_into().unwrap();
        assert_eq!(picks, [0, 0, 1, 1]);
        let rows = q.sum_dim_intlist([1].as_slice(), false, None);
        assert!((rows - 1.0).abs().max().double_value(&[]) < 1e-6);
    }

    #[test]
    fn the_ring_wraps_and_thins_evenly() {
        let gmm_means = Tensor::ones([1, 1, 2], (Kind::Float, Device::Cpu));
        let cfg = EmConfig {
            memory_size: 4,
            max_sample_size: 3,
            update_interval: 1,
            gamma_mean: 0.9,
            contrast_weight: 0.0,
        };
        let queue = Tensor::zeros([1, 2, 4], (Kind::Float, Device::Cpu));
        let mut em = EmState { queue, ptr: vec![2], counter: 0, cfg };
        let features = Tensor::arange(14, (Kind::Float, Device::Cpu)).view([7, 2]);
        let rows = Tensor::from_slice(&[0i64, 1, 2, 4, 6]);
        em.remember(0, &features, &rows);
        // Of five rows the indices 0, 2, 4 are kept: pixels 0, 2, 6, in columns 2, 3, 0.
        let first: Vec<f32> = em.queue.get(0).get(0).try_into().unwrap();
        assert_eq!(first, [12.0, 0.0, 0.0, 4.0]);
        assert_eq!(em.ptr, [1]);
        let (mut means, mut diagonal) = (gmm_means.copy(), gmm_means.copy());
        em.estimate(&mut means, &mut diagonal, 0);
        // Channel 0 holds 12, 0, 0, 4 and channel 1 13, 0, 1, 5: sums 16 and 19.
        let centre = 16.0 / 16f64.hypot(19.0);
        assert!((means.double_value(&[0, 0, 0]) - 0.9 - 0.1 * centre).abs() < 1e-6);
        let variance = [12.0, 0.0, 0.0, 4.0].map(|x: f64| (x - centre).powi(2)).iter().sum::<f64>();
        let deviation = (variance / 4.0 + 0.01).sqrt();
        assert!((diagonal.double_value(&[0, 0, 0]) - deviation).abs() < 1e-5);
    }
}
