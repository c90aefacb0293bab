//! Pixel metrics as pure functions on slices: one sweep over a curve, two ways to come by the curve.
//!
//! * `exact`: every distinct score is a threshold (scikit-learn's rule); see [`super::tally`] for sets
//!   larger than memory.
//! * `smiyc`: the quantile-binned rule of the SegmentMeIfYouCan benchmark server
//!   (SegmentMeIfYouCan/road-anomaly-benchmark, `metrics/pixel_classification.py`), which defines the
//!   published AP and FPR95.
//!
//! A number means something only with the name of its family. Labels: 0 is negative, [`IGNORE`] is
//! dropped, everything else is positive. All counts are integers, so parts add up exactly.

use half::f16;
use serde::{Deserialize, Serialize};

use crate::data::IGNORE;

/// An element type of a score map. The `smiyc` rules depend on it: NumPy subtracts in the array's type.
pub trait Element: Copy + Into<f64> {
    /// `x` rounded to this type.
    fn round(x: f64) -> f64;
}

impl Element for f16 {
    fn round(x: f64) -> f64 {
        Self::from_f64(x).into()
    }
}

impl Element for f32 {
    #[expect(clippy::cast_possible_truncation, reason = "rounding is what is asked for")]
    fn round(x: f64) -> f64 {
        (x as Self).into()
    }
}

impl Element for f64 {
    fn round(x: f64) -> f64 {
        x
    }
}

/// How many pixels share one threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Lower edge: the pixels score this or more, and less than the bin above.
    #[serde(with = "bits")]
    pub threshold: f64,
    /// Anomalous pixels.
    pub pos: u64,
    /// Normal pixels.
    pub neg: u64,
}

/// A float in a file as its bits: decimal digits would come back one unit off.
mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(x: &f64, to: S) -> Result<S::Ok, S::Error> {
        x.to_bits().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        u64::deserialize(from).map(f64::from_bits)
    }
}

/// What a curve is worth. NaN where a ratio has no meaning: everything without positives, the rates of
/// false alarms without negatives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PixelMetrics {
    /// Average precision: the sum of `(recall - previous recall) * precision`, no interpolation.
    pub ap: f64,
    /// Area under the ROC curve, trapezoids.
    pub auroc: f64,
    /// False positive rate at the highest threshold whose recall is at least 0.95.
    pub fpr95: f64,
    /// That threshold.
    pub tpr95_threshold: f64,
    /// The largest `2 TP / (2 TP + FP + FN)`.
    pub best_f1: f64,
    /// The highest threshold that reaches it.
    pub best_f1_threshold: f64,
    /// Anomalous pixels.
    pub positives: u64,
    /// Normal pixels.
    pub negatives: u64,
}

/// One point of the drawn curves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Everything scored this or more is called anomalous.
    pub threshold: f64,
    /// Share of the anomalous pixels found.
    pub recall: f64,
    /// Share of the pixels found that are anomalous; 1 where nothing is found.
    pub precision: f64,
    /// Share of the normal pixels called anomalous.
    pub fpr: f64,
}

/// Walks down the thresholds and gathers [`PixelMetrics`] in constant memory.
#[derive(Debug)]
pub struct Sweep {
    positives: u64,
    negatives: u64,
    tp: u64,
    fp: u64,
    ap: f64,
    /// Twice the area under TP over FP: an integer, so that no rounding depends on the order of frames.
    doubled_area: u128,
    at_95: Option<CurvePoint>,
    best_f1: (f64, f64),
}

#[expect(clippy::cast_precision_loss, reason = "pixel counts stay below 2^53")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { f64::NAN } else { part as f64 / whole as f64 }
}

impl Sweep {
    /// A sweep over a set with these totals.
    pub fn new(positives: u64, negatives: u64) -> Self {
        let (at_95, best_f1) = (None, (f64::NAN, f64::NAN));
        Self { positives, negatives, tp: 0, fp: 0, ap: 0.0, doubled_area: 0, at_95, best_f1 }
    }

    /// Takes the next bin below; returns the curve's point there.
    pub fn push(&mut self, bin: Bin) -> CurvePoint {
        let tp_above = self.tp;
        self.tp += bin.pos;
        self.fp += bin.neg;
        let found = self.tp + self.fp;
        let point = CurvePoint {
            threshold: bin.threshold,
            recall: ratio(self.tp, self.positives),
            precision: if found == 0 { 1.0 } else { ratio(self.tp, found) },
            fpr: ratio(self.fp, self.negatives),
        };
        self.ap += (point.recall - ratio(tp_above, self.positives)) * point.precision;
        self.doubled_area += u128::from(bin.neg) * u128::from(self.tp + tp_above);
        if self.at_95.is_none() && point.recall >= 0.95 {
            self.at_95 = Some(point);
        }
        // 2 TP + FP + FN = TP + FP + P
        let f1 = ratio(2 * self.tp, found + self.positives);
        if self.best_f1.0.is_nan() || f1 > self.best_f1.0 {
            self.best_f1 = (f1, bin.threshold);
        }
        point
    }

    /// The metrics once every bin is in.
    #[expect(clippy::cast_precision_loss, reason = "a relative error of 2^-53")]
    pub fn finish(self) -> PixelMetrics {
        let (positives, negatives) = (self.positives, self.negatives);
        let nan_without_positives = |x| if positives == 0 { f64::NAN } else { x };
        let pairs = 2.0 * positives as f64 * negatives as f64;
        PixelMetrics {
            ap: nan_without_positives(self.ap),
            auroc: if pairs == 0.0 { f64::NAN } else { self.doubled_area as f64 / pairs },
            fpr95: self.at_95.map_or(f64::NAN, |point| point.fpr),
            tpr95_threshold: self.at_95.map_or(f64::NAN, |point| point.threshold),
            best_f1: nan_without_positives(self.best_f1.0),
            best_f1_threshold: nan_without_positives(self.best_f1.1),
            positives,
            negatives,
        }
    }
}

/// The metrics of bins in descending order of their thresholds.
pub fn pixel_metrics(bins: &[Bin]) -> PixelMetrics {
    let (positives, negatives) = totals(bins);
    let mut sweep = Sweep::new(positives, negatives);
    for &bin in bins {
        sweep.push(bin);
    }
    sweep.finish()
}

/// Positives and negatives of all bins.
pub fn totals(bins: &[Bin]) -> (u64, u64) {
    bins.iter().fold((0, 0), |(pos, neg), bin| (pos + bin.pos, neg + bin.neg))
}

/// `exact` bins of pixels that fit into memory: one per distinct score, descending.
pub fn exact_bins<T: Element>(scores: &[T], labels: &[u8]) -> Vec<Bin> {
    let mut pixels: Vec<(f64, bool)> = roi(scores, labels).collect();
    pixels.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let same_score = |a: &(f64, bool), b: &(f64, bool)| a.0 == b.0;
    let groups = pixels.chunk_by(same_score).map(|group| {
        let pos = group.iter().filter(|pixel| pixel.1).count() as u64;
        Bin { threshold: group[0].0, pos, neg: group.len() as u64 - pos }
    });
    groups.collect()
}

/// Score and truth of every pixel that counts.
fn roi<T: Element>(scores: &[T], labels: &[u8]) -> impl Iterator<Item = (f64, bool)> {
    let pixels = scores.iter().zip(labels).filter(|(_, label)| **label != IGNORE);
    pixels.map(|(score, label)| ((*score).into(), *label != 0))
}

/// Quantiles per class and frame in the benchmark's configuration.
const QUANTILES: usize = 384;

/// `smiyc` bins of one frame, descending; `None` when every pixel is ignored (the official code raises).
///
/// Edges are up to 384 quantiles of the positive scores, as many of the negative ones, and both ends of
/// the range with a margin. Scores must be finite.
pub fn smiyc_frame<T: Element>(scores: &[T], labels: &[u8]) -> Option<Vec<Bin>> {
    let (pos, neg): (Vec<_>, Vec<_>) = roi(scores, labels).partition(|pixel| pixel.1);
    let sorted = |pixels: Vec<(f64, bool)>| {
        let mut scores: Vec<f64> = pixels.into_iter().map(|pixel| pixel.0).collect();
        scores.sort_unstable_by(f64::total_cmp);
        scores
    };
    let (pos, neg) = (sorted(pos), sorted(neg));
    let min = pos.first().into_iter().chain(neg.first()).copied().min_by(f64::total_cmp)?;
    let max = pos.last().into_iter().chain(neg.last()).copied().max_by(f64::total_cmp)?;
    let margin = (0.01 * T::round(max - min)).max(0.01);
    let mut edges = vec![min - margin, max + margin];
    quantiles::<T>(&pos, &mut edges);
    quantiles::<T>(&neg, &mut edges);
    edges.sort_unstable_by(f64::total_cmp);
    edges.dedup();
    // Nothing lies on or above the last edge, so each bin is [edge, next edge).
    let below = |scores: &[f64], edge: f64| scores.partition_point(|&score| score < edge);
    let bin = |pair: &[f64]| {
        let count = |scores| (below(scores, pair[1]) - below(scores, pair[0])) as u64;
        Bin { threshold: pair[0], pos: count(&pos), neg: count(&neg) }
    };
    Some(edges.windows(2).rev().map(bin).collect())
}

/// Adds NumPy's `quantile(sorted, linspace(0, 1, N))`, its linear rule to the last bit, to `edges`.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positions are below 2^53, and not negative"
)]
fn quantiles<T: Element>(sorted: &[f64], edges: &mut Vec<f64>) {
    let count = QUANTILES.min(sorted.len());
    for i in 0..count {
        let q = match i {
            0 => 0.0,
            i if i == count - 1 => 1.0,
            i => i as f64 * (1.0 / (count - 1) as f64),
        };
        let x = (sorted.len() - 1) as f64 * q;
        let (low, share) = (x.floor() as usize, x - x.floor());
        let high = (low + 1).min(sorted.len() - 1);
        // NumPy subtracts in the array's type and interpolates from the nearer end in float64.
        let step = T::round(sorted[high] - sorted[low]);
        let from_low = share < 0.5;
        edges.push(if from_low {
            sorted[low] + step * share
        } else {
            sorted[high] - step * (1.0 - share)
        });
    }
}

/// The set's `smiyc` bins, descending, from those of its frames in the set's order.
///
/// Bins of equal threshold are joined, except that the first one stays alone: the official code keeps
/// the first index of the sorted list whatever follows. Where frames share the same maximum, the order
/// of the frames decides which is first.
pub fn smiyc_set<'a>(frames: impl IntoIterator<Item = &'a [Bin]>) -> Vec<Bin> {
    let mut all: Vec<Bin> = frames.into_iter().flatten().copied().collect();
    all.sort_by(|a, b| b.threshold.total_cmp(&a.threshold));
    let mut joined: Vec<Bin> = Vec::with_capacity(all.len());
    for bin in all {
        let first = joined.len() == 1;
        match joined.last_mut() {
            Some(last) if !first && last.threshold == bin.threshold => {
                last.pos += bin.pos;
                last.neg += bin.neg;
            }
            _ => joined.push(bin),
        }
    }
    joined
}

/// The transform hidden in the paper's RoadAnomaly and Fishyscapes numbers: torchmetrics 1.6 puts a
/// frame through a float32 sigmoid when one of its counted scores lies outside [0, 1].
///
/// Ranks stay, but everything above about 16.6 becomes 1 and ties.
pub fn reference_sigmoid(scores: &mut [f32], labels: &[u8]) {
    let mut counted = scores.iter().zip(labels).filter(|(_, label)| **label != IGNORE);
    if counted.any(|(score, _)| !(0.0..=1.0).contains(score)) {
        for score in scores {
            *score = 1.0 / (1.0 + (-*score).exp());
        }
    }
}

/// Confusion of inlier classes, pooled over a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// Number of classes `k`.
    pub num_classes: usize,
    /// `(k, k)`: pixels of the row's label predicted as the column's class.
    pub counts: Vec<u64>,
}

impl Confusion {
    /// No pixel yet.
    pub fn new(num_classes: usize) -> Self {
        Self { num_classes, counts: vec![0; num_classes * num_classes] }
    }

    /// Adds the pixels of one frame; [`IGNORE`] labels are dropped.
    ///
    /// # Errors
    /// The first label or prediction outside the classes.
    pub fn add(&mut self, predicted: &[u8], labels: &[u8]) -> Result<(), u8> {
        let k = self.num_classes;
        for (&class, &label) in predicted.iter().zip(labels).filter(|(_, l)| **l != IGNORE) {
            if let Some(&outside) = [label, class].iter().find(|id| usize::from(**id) >= k) {
                return Err(outside);
            }
            self.counts[usize::from(label) * k + usize::from(class)] += 1;
        }
        Ok(())
    }

    /// Adds another part of the set, of the same number of classes.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// Intersection over union per class; NaN where a class occurs neither in labels nor predictions.
    pub fn iou(&self) -> Vec<f64> {
        let k = self.num_classes;
        let of_class = |class: usize| {
            let labelled: u64 = self.counts[class * k..][..k].iter().sum();
            let predicted: u64 = self.counts.iter().skip(class).step_by(k).sum();
            let both = self.counts[class * k + class];
            ratio(both, labelled + predicted - both)
        };
        (0..k).map(of_class).collect()
    }

    /// Mean of [`Confusion::iou`] over the classes that occur.
    pub fn miou(&self) -> f64 {
        mean(self.iou().into_iter().filter(|iou| !iou.is_nan()))
    }
}

/// Arithmetic mean; NaN of nothing.
pub(crate) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), x| (sum + x, count + 1.0));
    sum / count
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Six pixels, one ignored, with a tie across the classes:
    /// score  4   3   3   2   1   (9)
    /// label  1   1   0   0   1   255
    const SCORES: [f32; 6] = [2.0, 9.0, 3.0, 1.0, 3.0, 4.0];
    const LABELS: [u8; 6] = [0, IGNORE, 1, 1, 0, 1];

    #[test]
    fn exact_metrics_by_hand_with_a_tie_and_an_ignored_pixel() {
        let bins = exact_bins(&SCORES, &LABELS);
        let counts: Vec<_> = bins.iter().map(|b| (b.threshold, b.pos, b.neg)).collect();
        assert_eq!(counts, [(4.0, 1, 0), (3.0, 1, 1), (2.0, 0, 1), (1.0, 1, 0)]);
        let metrics = pixel_metrics(&bins);
        // Recall 1/3, 2/3, 2/3, 1 at precision 1, 2/3, 1/2, 3/5.
        assert!((metrics.ap - (1.0 + 2.0 / 3.0 + 3.0 / 5.0) / 3.0).abs() < 1e-15);
        // Pairs won by the positive: 4 wins 2, 3 wins 1.5, 1 wins 0, of 6.
        assert!((metrics.auroc - 3.5 / 6.0).abs() < 1e-15);
        assert_eq!((metrics.fpr95, metrics.tpr95_threshold), (1.0, 1.0));
        // F1: 2/4, 4/6, 4/7, 6/8.
        assert_eq!((metrics.best_f1, metrics.best_f1_threshold), (0.75, 1.0));
        assert_eq!((metrics.positives, metrics.negatives), (3, 2));
    }

    #[test]
    fn without_positives_everything_is_nan_and_without_negatives_the_false_alarms() {
        let none = pixel_metrics(&exact_bins(&SCORES, &[0; 6]));
        assert!([none.ap, none.auroc, none.fpr95, none.best_f1].iter().all(|x| x.is_nan()));
        let all = pixel_metrics(&exact_bins(&SCORES, &[1; 6]));
        assert!((all.ap - 1.0).abs() < 1e-15 && all.fpr95.is_nan() && all.auroc.is_nan());
        assert_eq!(all.best_f1, 1.0);
    }

    #[test]
    fn smiyc_bins_of_two_and_three_pixels_by_hand() {
        // Quantiles of {1, 3} with N = 2 are 1 and 3; of {0, 1, 2} with N = 3 they are 0, 1, 2.
        let bins = smiyc_frame(&[1.0f32, 3.0, 0.0, 1.0, 2.0], &[1, 1, 0, 0, 0]).unwrap();
        let counts: Vec<_> = bins.iter().map(|b| (b.threshold, b.pos, b.neg)).collect();
        assert_eq!(counts[..3], [(3.0, 1, 0), (2.0, 0, 1), (1.0, 1, 1)]);
        assert_eq!(counts[3..], [(0.0, 0, 1), (-0.03, 0, 0)]);
        assert!(smiyc_frame(&[1.0f32, 2.0], &[IGNORE; 2]).is_none());
    }

    #[test]
    fn frames_join_at_equal_thresholds_except_the_first() {
        let bin = |threshold, pos| Bin { threshold, pos, neg: 1 };
        let (a, b) = ([bin(2.0, 1), bin(1.0, 2)], [bin(2.0, 4), bin(1.0, 8)]);
        let set = smiyc_set([&a[..], &b[..]]);
        let counts: Vec<_> = set.iter().map(|b| (b.threshold, b.pos, b.neg)).collect();
        assert_eq!(counts, [(2.0, 1, 1), (2.0, 4, 1), (1.0, 10, 2)]);
    }

    #[test]
    fn the_reference_sigmoid_ties_what_float32_cannot_tell_apart() {
        let mut scores = [17.0, 20.0, 0.5];
        reference_sigmoid(&mut scores, &[1, 0, 0]);
        assert_eq!(scores[..2], [1.0, 1.0]);
        let mut inside = [0.25, 7.0];
        reference_sigmoid(&mut inside, &[1, IGNORE]);
        assert_eq!(inside, [0.25, 7.0], "an ignored pixel does not trigger it");
    }

    #[test]
    fn iou_by_hand_leaves_out_classes_that_never_occur() {
        let mut confusion = Confusion::new(4);
        confusion.add(&[0, 0, 1, 1, 2], &[0, 1, 1, IGNORE, 0]).unwrap();
        let iou = confusion.iou();
        assert_eq!(iou[..3], [1.0 / 3.0, 0.5, 0.0]);
        assert!(iou[3].is_nan());
        assert!((confusion.miou() - (1.0 / 3.0 + 0.5) / 3.0).abs() < 1e-15);
        assert_eq!(confusion.add(&[0], &[7]), Err(7));
    }
}
