//! The losses of both stages; plain functions on tensors.

use tch::{Kind, Reduction, Tensor};

use crate::data::{IGNORE, OOD};
use crate::model::score::llr;

/// Cross-entropy of `logits` `(n, k, ..)` against int64 `targets` `(n, ..)`, mean over the pixels
/// that are not [`IGNORE`].
///
/// With no such pixel it is 0, where PyTorch's mean is NaN and would end the run.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Tensor {
    let ignore = i64::from(IGNORE);
    let sum = logits.cross_entropy_loss::<Tensor>(targets, None, Reduction::Sum, ignore, 0.0);
    sum / counted(targets)
}

/// UEM targets of labels: 1 where something was pasted, [`IGNORE`] kept, else 0 (int64, any shape).
pub fn uem_targets(labels: &Tensor) -> Tensor {
    let (ignore, ood) = (i64::from(IGNORE), i64::from(OOD));
    let outlier = labels.eq(ood).to_kind(Kind::Int64);
    outlier.where_scalarother(&labels.ne(ignore), ignore)
}

/// Loss of stage 2 on full-resolution outputs: binary cross-entropy of the LLR plus `alpha` times the
/// two-class cross-entropy of the UEM alone, both over the pixels that count.
///
/// `uem` is `(b, 2, h, w)`, `logits` `(b, k, h, w)`, `targets` `(b, h, w)` of [`uem_targets`].
/// Eq. (12) of arXiv:2409.06424, the contrastive term apart.
pub fn llr_loss(uem: &Tensor, logits: &Tensor, targets: &Tensor, alpha: f64) -> Tensor {
    let weight = targets.ne(i64::from(IGNORE)).to_kind(Kind::Float);
    let positive = targets.eq(1).to_kind(Kind::Float);
    let score = llr(uem, logits);
    let sum = score.binary_cross_entropy_with_logits(
        &positive,
        Some(&weight),
        None::<&Tensor>,
        Reduction::Sum,
    );
    let ratio = sum / counted(targets);
    if alpha == 0.0 { ratio } else { ratio + cross_entropy(uem, targets) * alpha }
}

/// Number of pixels that count, at least 1.
fn counted(targets: &Tensor) -> Tensor {
    targets.ne(i64::from(IGNORE)).sum(Kind::Float).clamp_min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_by_hand_on_three_pixels_of_which_one_is_ignored() {
        // Pixels: inlier, outlier, ignored; one row of three columns.
        let labels = Tensor::from_slice(&[3i64, 254, 255]).view([1, 1, 3]);
        let targets = uem_targets(&labels);
        assert_eq!(Vec::<i64>::try_from(targets.flatten(0, -1)).unwrap(), [0, 1, 255]);
        let uem = Tensor::from_slice(&[1f32, 0.0, 7.0, 0.5, 2.0, -7.0]).view([1, 2, 1, 3]);
        let logits = Tensor::from_slice(&[0.25f32, -1.0, 9.0, -3.0, 1.0, 9.0]).view([1, 2, 1, 3]);
        // LLR: 0.5 - 1 - 0.25 = -0.75 for the inlier, 2 - 0 - 1 = 1 for the outlier.
        let softplus = |x: f64| x.exp().ln_1p();
        let ratio = (softplus(-0.75) + softplus(-1.0)) / 2.0;
        let two_class = (softplus(-0.5) + softplus(-2.0)) / 2.0;
        for alpha in [0.0, 0.5] {
            let got = llr_loss(&uem, &logits, &targets, alpha).double_value(&[]);
            assert!((got - ratio - alpha * two_class).abs() < 1e-6, "alpha {alpha}: {got}");
        }
    }

    #[test]
    fn a_batch_without_any_counted_pixel_costs_nothing() {
        let targets = Tensor::full([1, 2, 3], 255, (Kind::Int64, tch::Device::Cpu));
        let logits = Tensor::ones([1, 2, 2, 3], (Kind::Float, tch::Device::Cpu));
        assert_eq!(cross_entropy(&logits, &targets).double_value(&[]), 0.0);
        assert_eq!(llr_loss(&logits, &logits, &targets, 0.5).double_value(&[]), 0.0);
    }
}
