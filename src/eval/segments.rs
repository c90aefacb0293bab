//! Segment metrics of the SegmentMeIfYouCan benchmark: sIoU, PPV and F1 of connected components.
//!
//! Rules of road-anomaly-benchmark `metrics/instance_segmentation.py`. A map is cut at a threshold
//! (score strictly above it), the pieces are compared with the labelled obstacles.

use std::collections::BTreeMap;

use serde::Serialize;

use super::metrics::{Element, mean};
use crate::data::IGNORE;
use crate::obstacle::{self, Neighbours};

/// Smallest components that count, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeLimits {
    /// Smaller predictions are deleted.
    pub predicted: usize,
    /// Smaller labelled obstacles are ignored.
    pub labelled: usize,
}

impl SizeLimits {
    /// AnomalyTrack.
    pub const ANOMALY: Self = Self { predicted: 500, labelled: 100 };
    /// ObstacleTrack and LostAndFound-NoKnown.
    pub const OBSTACLE: Self = Self { predicted: 50, labelled: 10 };
}

/// The overlap thresholds of the F1 family, `linspace(0.25, 0.75, 11)` to the last bit.
pub fn siou_thresholds() -> [f64; 11] {
    std::array::from_fn(|i| 0.25 + f64::from(u8::try_from(i).unwrap_or(0)) * 0.05)
}

/// Per-component results of one frame, components in raster order of their first pixels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FrameSegments {
    /// Adjusted IoU of each labelled obstacle.
    pub siou_gt: Vec<f64>,
    /// Its pixels.
    pub size_gt: Vec<u64>,
    /// Adjusted IoU of each predicted component.
    pub siou_pred: Vec<f64>,
    /// Share of each predicted component's counted pixels that lie on any obstacle.
    pub ppv: Vec<f64>,
    /// Its counted pixels.
    pub size_pred: Vec<u64>,
}

/// Components of `scores > threshold` against components of `labels == 1` on a frame `width` wide.
///
/// Ignored pixels are never predicted. Obstacles below the size limit become ignored, with whatever is
/// predicted on them.
pub fn frame_segments<T: Element>(
    scores: &[T],
    labels: &[u8],
    width: usize,
    threshold: f64,
    limits: SizeLimits,
) -> FrameSegments {
    let threshold = T::round(threshold);
    let above = |(score, label): (&T, &u8)| *label != IGNORE && (*score).into() > threshold;
    let predicted: Vec<bool> = scores.iter().zip(labels).map(above).collect();
    let labelled: Vec<bool> = labels.iter().map(|label| *label == 1).collect();
    let (mut pred, pred_sizes) = components(&predicted, width);
    let (gt, gt_sizes) = components(&labelled, width);
    for id in &mut pred {
        if *id != 0 && pred_sizes[*id as usize] < limits.predicted {
            *id = 0;
        }
    }
    // (obstacle, prediction) -> pixels, 0 being the background; pixels on small obstacles do not count,
    // and neither does a background (ignored pixels included) below the limit.
    let mut overlap = BTreeMap::<(u32, u32), u64>::new();
    for ((&g, &p), &label) in gt.iter().zip(&pred).zip(labels) {
        if label != IGNORE && gt_sizes[g as usize] >= limits.labelled {
            *overlap.entry((g, p)).or_default() += 1;
        }
    }
    compare(&overlap)
}

/// The scores of each component from the pixels that each pair shares.
#[expect(clippy::cast_precision_loss, reason = "pixel counts")]
fn compare(overlap: &BTreeMap<(u32, u32), u64>) -> FrameSegments {
    let (mut sizes_gt, mut sizes_pred) = (BTreeMap::new(), BTreeMap::new());
    for (&(g, p), &pixels) in overlap {
        *sizes_gt.entry(g).or_insert(0u64) += pixels;
        *sizes_pred.entry(p).or_insert(0u64) += pixels;
    }
    let size = |sizes: &BTreeMap<u32, u64>, id| sizes.get(&id).copied().unwrap_or(0);
    let on = |g, p| overlap.get(&(g, p)).copied().unwrap_or(0);
    let pairs = || overlap.keys().filter(|(g, p)| *g != 0 && *p != 0);
    // Union of the component and all its partners; the partners' pixels on other components are not
    // held against it.
    let siou = |inter: u64, own: u64, partners: u64, adjusted: u64| {
        inter as f64 / (own + partners - inter - adjusted) as f64
    };
    let pred_on_gt = |p| size(&sizes_pred, p) - on(0, p);
    let gt_on_pred = |g| size(&sizes_gt, g) - on(g, 0);
    let mut frame = FrameSegments::default();
    for (&g, &own) in sizes_gt.iter().filter(|(g, _)| **g != 0) {
        let partners = || pairs().filter(|pair| pair.0 == g).map(|pair| pair.1);
        let total = partners().map(|p| size(&sizes_pred, p)).sum();
        let elsewhere = partners().map(|p| pred_on_gt(p) - on(g, p)).sum();
        frame.siou_gt.push(siou(gt_on_pred(g), own, total, elsewhere));
        frame.size_gt.push(own);
    }
    for (&p, &own) in sizes_pred.iter().filter(|(p, _)| **p != 0) {
        let partners = || pairs().filter(|pair| pair.1 == p).map(|pair| pair.0);
        let total = partners().map(|g| size(&sizes_gt, g)).sum();
        let elsewhere = partners().map(|g| gt_on_pred(g) - on(g, p)).sum();
        frame.siou_pred.push(siou(pred_on_gt(p), own, total, elsewhere));
        frame.ppv.push(pred_on_gt(p) as f64 / own as f64);
        frame.size_pred.push(own);
    }
    frame
}

/// 8-connected components of a mask `width` wide: an id per pixel (0 outside, then 1.. in raster order
/// of the first pixels) and the pixels of each id.
pub fn components(mask: &[bool], width: usize) -> (Vec<u32>, Vec<usize>) {
    let (runs, count) = obstacle::components(mask, width, Neighbours::Eight);
    let (mut ids, mut sizes) = (vec![0; mask.len()], vec![0; count + 1]);
    sizes[0] = mask.len();
    for run in runs {
        let (id, pixels) = (run.component + 1, run.pixels(width));
        sizes[id] += pixels.len();
        sizes[0] -= pixels.len();
        ids[pixels].fill(u32::try_from(id).unwrap_or(u32::MAX));
    }
    (ids, sizes)
}

/// What the components of a set scored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SegmentTotals {
    siou_gt: Vec<f64>,
    siou_pred: Vec<f64>,
    ppv: Vec<f64>,
}

/// Segment metrics of a set; NaN where there is no component to speak of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SegmentMetrics {
    /// Mean sIoU of the labelled obstacles.
    pub siou_gt: f64,
    /// Mean sIoU of the predicted components.
    pub siou_pred: f64,
    /// Mean PPV of the predicted components ("prec pred").
    pub ppv: f64,
    /// Mean of the F1 over the eleven thresholds; NaN without any component (the official code raises).
    pub mean_f1: f64,
}

impl SegmentTotals {
    /// Adds a frame.
    pub fn add(&mut self, frame: FrameSegments) {
        self.siou_gt.extend(frame.siou_gt);
        self.siou_pred.extend(frame.siou_pred);
        self.ppv.extend(frame.ppv);
    }

    /// True positives, false negatives and false positives at one overlap threshold.
    pub fn counts(&self, threshold: f64) -> (usize, usize, usize) {
        let found = self.siou_gt.iter().filter(|siou| **siou >= threshold).count();
        let wrong = self.ppv.iter().filter(|ppv| **ppv < threshold).count();
        (found, self.siou_gt.len() - found, wrong)
    }

    /// F1 at one overlap threshold.
    #[expect(clippy::cast_precision_loss, reason = "component counts")]
    pub fn f1(&self, threshold: f64) -> f64 {
        let (tp, fn_, fp) = self.counts(threshold);
        (2 * tp) as f64 / (2 * tp + fn_ + fp) as f64
    }

    /// The set's metrics: means over components, not over frames.
    pub fn metrics(&self) -> SegmentMetrics {
        SegmentMetrics {
            siou_gt: mean(self.siou_gt.iter().copied()),
            siou_pred: mean(self.siou_pred.iter().copied()),
            ppv: mean(self.ppv.iter().copied()),
            mean_f1: mean(siou_thresholds().into_iter().map(|t| self.f1(t))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rows: &[&str]) -> (Vec<bool>, usize) {
        (rows.concat().bytes().map(|b| b == b'#').collect(), rows[0].len())
    }

    #[test]
    fn components_join_over_corners_and_are_numbered_in_raster_order() {
        let (m, w) = mask(&["#..#.", ".#..#", "....#", "#.#.#", ".#..."]);
        let (ids, sizes) = components(&m, w);
        assert_eq!(ids[..5], [1, 0, 0, 2, 0]);
        assert_eq!(ids[15..], [3, 0, 3, 0, 2, 0, 3, 0, 0, 0]);
        assert_eq!(sizes, [16, 2, 4, 3], "both arms of the v are one; no wrap over the edge");
        assert_eq!(components(&mask(&["..", "..", ".."]).0, 2).1, [6]);
    }

    #[test]
    fn one_prediction_over_two_obstacles_is_not_held_against_either() {
        // Obstacles of 2 and 3 px, one prediction of 7 px over both and 2 px of road between them.
        let labels = [1, 1, 0, 0, 1, 1, 1, 0, 0, 0];
        let scores = [9.0f32, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 0.0, 0.0, 0.0];
        let limits = SizeLimits { predicted: 1, labelled: 1 };
        let frame = frame_segments(&scores, &labels, 10, 1.0, limits);
        // First: 2 / (7 + 2 - 2 - 3); second: 3 / (7 + 3 - 3 - 2); prediction: 5 / (5 + 7 - 5).
        assert_eq!(frame.siou_gt, [2.0 / 4.0, 3.0 / 5.0]);
        assert_eq!(frame.siou_pred, [5.0 / 7.0]);
        assert_eq!(frame.ppv, [5.0 / 7.0]);
        let mut totals = SegmentTotals::default();
        totals.add(frame);
        assert_eq!(totals.counts(0.55), (1, 1, 0));
        assert_eq!(totals.f1(0.75), 0.0);
    }

    #[test]
    fn small_components_and_ignored_pixels_do_not_count_and_the_threshold_is_strict() {
        let labels = [1, 0, 1, 1, 0, IGNORE, 0, 0, 0, 0];
        let scores = [5.0f32, 0.0, 5.0, 1.0, 0.0, 5.0, 0.0, 5.0, 5.0, 5.0];
        let limits = SizeLimits { predicted: 1, labelled: 2 };
        let frame = frame_segments(&scores, &labels, 10, 1.0, limits);
        assert_eq!((frame.size_gt, frame.siou_gt), (vec![2], vec![0.5]));
        assert_eq!((frame.size_pred, frame.ppv), (vec![1, 3], vec![1.0, 0.0]));
        let none = SegmentTotals::default().metrics();
        assert!(none.mean_f1.is_nan() && none.ppv.is_nan());
    }
}
