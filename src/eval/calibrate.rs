//! From labelled frames to an operating threshold, a probability and a bound on missed obstacles.
//!
//! Frames, not pixels, are the independent observations: intervals resample frames, and the conformal
//! bound counts them.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::segments::components;
use super::tally::{key, score};
use crate::data::IGNORE;
use crate::{Error, Result};

/// Low bits of a score's key that share a bucket: 11 bits of mantissa stay, a step of 0.05 %.
const BUCKET_BITS: u32 = 12;

/// How many pixels of a frame lie above each of a fine grid of thresholds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameCounts {
    /// `(bucket, positives, negatives)` with all buckets above included; descending scores.
    cumulative: Vec<(u32, u64, u64)>,
}

impl FrameCounts {
    /// Counts the pixels whose label is not [`IGNORE`].
    pub fn new(scores: &[f32], labels: &[u8]) -> Self {
        let counted = scores.iter().zip(labels).filter(|(_, label)| **label != IGNORE);
        let mut pixels: Vec<(u32, bool)> =
            counted.map(|(value, label)| (key(*value) >> BUCKET_BITS, *label != 0)).collect();
        pixels.sort_unstable();
        let (mut pos, mut neg) = (0, 0);
        let groups = pixels.chunk_by(|a, b| a.0 == b.0).map(|group| {
            let positives = group.iter().filter(|pixel| pixel.1).count() as u64;
            pos += positives;
            neg += group.len() as u64 - positives;
            (group[0].0, pos, neg)
        });
        Self { cumulative: groups.collect() }
    }

    /// Positives and negatives in `bucket` and above.
    fn down_to(&self, bucket: u32) -> (u64, u64) {
        let end = self.cumulative.partition_point(|entry| entry.0 <= bucket);
        end.checked_sub(1).map_or((0, 0), |at| (self.cumulative[at].1, self.cumulative[at].2))
    }

    fn totals(&self) -> (u64, u64) {
        self.down_to(u32::MAX)
    }
}

/// The largest threshold that every score of the bucket is strictly above.
fn threshold_below(bucket: u32) -> f32 {
    let below = score((bucket + 1) << BUCKET_BITS);
    // The key after +0 is -0, which +0 is not above.
    if below == 0.0 { 0f32.next_down() } else { below }
}

/// What the operating threshold is to hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// At least this share of the anomalous pixels is found.
    Tpr(f64),
    /// At most this share of the normal pixels is called anomalous.
    Fpr(f64),
}

/// Frames to choose thresholds from.
#[derive(Debug)]
pub struct Pool<'a> {
    frames: &'a [FrameCounts],
    /// Every bucket that occurs, descending scores.
    buckets: Vec<u32>,
}

impl<'a> Pool<'a> {
    /// Gathers the frames' thresholds.
    pub fn new(frames: &'a [FrameCounts]) -> Self {
        let all = frames.iter().flat_map(|frame| frame.cumulative.iter().map(|entry| entry.0));
        let mut buckets: Vec<u32> = all.collect();
        buckets.sort_unstable();
        buckets.dedup();
        Self { frames, buckets }
    }

    /// The threshold for `target` over the frames `picked` (indices, repeats allowed): the highest that
    /// reaches the TPR, or the lowest within the FPR. A pixel is anomalous when its score is above it.
    ///
    /// `None` when the picked frames have no pixel of the class in question.
    pub fn threshold(&self, target: Target, picked: &[usize]) -> Option<f32> {
        let sum = |count: &dyn Fn(&FrameCounts) -> u64| -> u64 {
            picked.iter().map(|index| count(&self.frames[*index])).sum()
        };
        let first = *self.buckets.first()?;
        let bucket = match target {
            Target::Tpr(wanted) => {
                let total = sum(&|frame| frame.totals().0);
                let short = |b: &u32| share(sum(&|frame| frame.down_to(*b).0), total) < wanted;
                let at = self.buckets.partition_point(short);
                (total > 0).then(|| self.buckets.get(at).or(self.buckets.last())).flatten()
            }
            Target::Fpr(budget) => {
                let total = sum(&|frame| frame.totals().1);
                let within = |b: &u32| share(sum(&|frame| frame.down_to(*b).1), total) <= budget;
                let end = self.buckets.partition_point(within);
                if end == 0 && total > 0 {
                    return Some(score(first << BUCKET_BITS)); // nothing is above it
                }
                (total > 0).then(|| self.buckets.get(end - 1)).flatten()
            }
        };
        bucket.map(|bucket| threshold_below(*bucket))
    }

    /// TPR and FPR of `score > threshold` over all frames; NaN for an empty class.
    ///
    /// Exact for the thresholds that [`Pool::threshold`] returns, to a bucket otherwise.
    pub fn rates(&self, threshold: f32) -> (f64, f64) {
        let bucket = (key(threshold) >> BUCKET_BITS).checked_sub(1);
        let (mut found, mut all) = ((0, 0), (0, 0));
        for frame in self.frames {
            let (pos, neg) = bucket.map_or((0, 0), |bucket| frame.down_to(bucket));
            found = (found.0 + pos, found.1 + neg);
            all = (all.0 + frame.totals().0, all.1 + frame.totals().1);
        }
        (share(found.0, all.0), share(found.1, all.1))
    }

    /// `(score, positives, negatives)` of every bucket, for [`fit_sigmoid`].
    pub fn points(&self) -> Vec<(f64, u64, u64)> {
        let mut above = (0, 0);
        let points = self.buckets.iter().map(|bucket| {
            let sums = self.frames.iter().map(|frame| frame.down_to(*bucket));
            let now = sums.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
            let middle = score(bucket << BUCKET_BITS | 1 << (BUCKET_BITS - 1));
            let point = (f64::from(middle), now.0 - above.0, now.1 - above.1);
            above = now;
            point
        });
        points.collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "pixel counts stay below 2^53")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// The middle 95 % of a threshold over `rounds` resamples of `frames` frames with replacement.
///
/// Resamples without an answer are left out; `None` when none has one.
pub fn bootstrap(
    frames: usize,
    rounds: usize,
    seed: u64,
    threshold: impl Fn(&[usize]) -> Option<f32>,
) -> Option<[f32; 2]> {
    if frames == 0 {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut resample = || (0..frames).map(|_| rng.gen_range(0..frames)).collect::<Vec<_>>();
    let mut found: Vec<f32> = (0..rounds).filter_map(|_| threshold(&resample())).collect();
    found.sort_unstable_by(f32::total_cmp);
    let last = found.len().checked_sub(1)?;
    Some([found[last * 25 / 1000], found[last - last * 25 / 1000]])
}

/// Probability of a score: `1 / (1 + exp(-(score - offset) / temperature))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sigmoid {
    /// Score units per unit of log-odds.
    pub temperature: f64,
    /// Score of even odds.
    pub offset: f64,
}

/// Maximum-likelihood sigmoid of `(score, positives, negatives)` by Newton's method, with Platt's
/// smoothed targets (Platt 1999), which keep it finite where the scores separate the classes.
///
/// # Errors
/// A missing class, a single score, or a score that does not rise with the share of positives.
#[expect(clippy::cast_precision_loss, reason = "pixel counts stay below 2^53")]
pub fn fit_sigmoid(points: &[(f64, u64, u64)]) -> Result<Sigmoid> {
    let (pos, neg) = points.iter().fold((0, 0), |sum, p| (sum.0 + p.1, sum.1 + p.2));
    let total = (pos + neg) as f64;
    let refuse = |value: String, allowed: &str| Err(Error::setting("calibration", &value, allowed));
    if pos == 0 || neg == 0 {
        let value = format!("{pos} anomalous and {neg} normal pixels");
        return refuse(value, "both kinds: take a set that shows both");
    }
    let (high, low) = ((pos as f64 + 1.0) / (pos as f64 + 2.0), 1.0 / (neg as f64 + 2.0));
    let weighted: Vec<[f64; 3]> = points
        .iter()
        .map(|&(x, p, n)| {
            let target = p as f64 * high + n as f64 * low;
            [x, (p + n) as f64 / total, target / total]
        })
        .collect();
    let (mut a, mut b) = (0.0, ((pos as f64 + 1.0) / (neg as f64 + 1.0)).ln());
    let mut loss = negative_log_likelihood(&weighted, a, b);
    for _ in 0..200 {
        let ([da, db], decrement) = newton_step(&weighted, a, b);
        let mut step = 1.0;
        let mut next = negative_log_likelihood(&weighted, a + da, b + db);
        // Armijo's rule; a quarter of the promised fall keeps steps out of the flat ends.
        while !(next <= loss - 0.25 * step * decrement) && step > 1e-10 {
            step /= 2.0;
            next = negative_log_likelihood(&weighted, a + step * da, b + step * db);
        }
        (a, b, loss) = (a + step * da, b + step * db, next);
        if !decrement.is_finite() || decrement < 1e-20 {
            break;
        }
    }
    if !(a > 0.0 && a.is_finite() && b.is_finite()) {
        let value = format!("a slope of {a}");
        return refuse(value, "a score that is higher on anomalous pixels");
    }
    Ok(Sigmoid { temperature: 1.0 / a, offset: -b / a })
}

/// Mean cross-entropy of `sigmoid(a x + b)`; points are `[x, weight, weight * target]`.
fn negative_log_likelihood(points: &[[f64; 3]], a: f64, b: f64) -> f64 {
    let of = |[x, weight, target]: &[f64; 3]| {
        let z = a * x + b;
        weight * (z.max(0.0) + (-z.abs()).exp().ln_1p()) - target * z
    };
    points.iter().map(of).sum()
}

/// The Newton step for `(a, b)` and how fast the loss falls along it.
fn newton_step(points: &[[f64; 3]], a: f64, b: f64) -> ([f64; 2], f64) {
    let (mut ga, mut gb, mut haa, mut hab, mut hbb) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for [x, weight, target] in points {
        let p = 1.0 / (1.0 + (-(a * x + b)).exp());
        let q = 1.0 / (1.0 + (a * x + b).exp()); // 1 - p would round to 0
        let (error, curvature) = (weight * p - target, weight * p * q);
        ga += error * x;
        gb += error;
        haa += curvature * x * x;
        hab += curvature * x;
        hbb += curvature;
    }
    let determinant = haa * hbb - hab * hab;
    let step = [(hab * gb - hbb * ga) / determinant, (hab * ga - haa * gb) / determinant];
    (step, -(step[0] * ga + step[1] * gb))
}

/// Per labelled obstacle of a frame, the score that at least half of its pixels reach: it is found by
/// thresholds below that, and missed by the rest.
///
/// Obstacles are the 8-connected components of label 1 of at least `min_size` pixels.
pub fn obstacle_scores(scores: &[f32], labels: &[u8], width: usize, min_size: usize) -> Vec<f32> {
    let mask: Vec<bool> = labels.iter().map(|label| *label == 1).collect();
    let (ids, sizes) = components(&mask, width);
    let mut pixels: Vec<Vec<f32>> = vec![Vec::new(); sizes.len()];
    for (value, id) in scores.iter().zip(&ids).filter(|(_, id)| **id != 0) {
        pixels[*id as usize].push(*value);
    }
    let large = pixels.into_iter().filter(|pixels| pixels.len() >= min_size.max(1));
    let reached_by_half = large.map(|mut pixels| {
        pixels.sort_unstable_by(|a, b| b.total_cmp(a));
        pixels[pixels.len().div_ceil(2) - 1]
    });
    reached_by_half.collect()
}

/// Upper bound on the expected share of obstacles missed in a new frame with obstacles, at `threshold`:
/// `(sum of the frames' shares + 1) / (n + 1)` (conformal risk control, Angelopoulos et al. 2022).
///
/// `frames` are [`obstacle_scores`], frames without obstacles left out.
#[expect(clippy::cast_precision_loss, reason = "obstacle counts")]
pub fn missed_bound<'a>(frames: impl IntoIterator<Item = &'a [f32]>, threshold: f32) -> f64 {
    let (mut missed, mut count) = (0.0, 0.0);
    for scores in frames {
        let below = scores.iter().filter(|value| **value <= threshold).count();
        missed += below as f64 / scores.len() as f64;
        count += 1.0;
    }
    (missed + 1.0) / (count + 1.0)
}

/// The highest threshold whose [`missed_bound`] is within `alpha`, over the frames `picked`.
///
/// The bound then holds for a new frame if it is exchangeable with these. `None` when not even finding
/// every obstacle proves it: that takes `1 / alpha - 1` frames.
pub fn missed_threshold(frames: &[Vec<f32>], alpha: f64, picked: &[usize]) -> Option<f32> {
    let picked = || picked.iter().map(|index| &*frames[*index]);
    let mut scores: Vec<f32> = picked().flatten().copied().collect();
    scores.sort_unstable_by(f32::total_cmp);
    let within = |value: &f32| missed_bound(picked(), value.next_down()) <= alpha;
    let end = scores.partition_point(within);
    end.checked_sub(1).map(|at| scores[at].next_down())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<FrameCounts> {
        vec![
            FrameCounts::new(&[5.0, 3.0, 1.0, 0.0, 9.0], &[1, 0, 1, 0, IGNORE]),
            FrameCounts::new(&[4.0, -0.0, -2.0], &[1, 1, 0]),
        ]
    }

    #[test]
    fn thresholds_for_a_tpr_and_an_fpr_by_hand() {
        // Descending: 5+, 4+, 3-, 1+, 0+, 0-, -2-.
        let frames = frames();
        let pool = Pool::new(&frames);
        let of = |target| pool.threshold(target, &[0, 1]).unwrap();
        let just_below = |threshold: f32, value: f32| {
            assert!(threshold < value && threshold > value - 0.01 * value.abs().max(0.1));
        };
        just_below(of(Target::Tpr(0.5)), 4.0);
        just_below(of(Target::Tpr(0.51)), 1.0);
        just_below(of(Target::Tpr(1.0)), 0.0);
        just_below(of(Target::Fpr(0.34)), 1.0);
        just_below(of(Target::Fpr(0.1)), 4.0);
        assert_eq!(pool.rates(of(Target::Tpr(0.5))), (0.5, 0.0));
        assert_eq!(pool.rates(of(Target::Tpr(1.0))), (1.0, 2.0 / 3.0));
        // The second frame alone, twice: its positives are 4 and 0.
        just_below(pool.threshold(Target::Tpr(0.5), &[1, 1]).unwrap(), 4.0);
    }

    #[test]
    fn a_budget_that_nothing_meets_calls_nothing_and_an_empty_class_has_no_threshold() {
        let frames = [FrameCounts::new(&[2.0, 1.0], &[0, 1]), FrameCounts::new(&[1.0], &[1])];
        let pool = Pool::new(&frames);
        let threshold = pool.threshold(Target::Fpr(0.5), &[0, 1]).unwrap();
        assert!(threshold >= 2.0 && pool.rates(threshold) == (0.0, 0.0));
        assert_eq!(pool.threshold(Target::Fpr(0.5), &[1]), None);
    }

    #[test]
    fn the_bootstrap_of_equal_frames_is_a_point_and_of_two_spans_both() {
        let frames = frames();
        let pool = Pool::new(&frames);
        let interval = |frames| bootstrap(frames, 200, 1, |p| pool.threshold(Target::Tpr(0.5), p));
        let [low, high] = interval(1).unwrap();
        assert_eq!(low, high);
        let of_both = bootstrap(2, 200, 1, |picked| Some(f32::from(u8::from(picked == [1, 1]))));
        assert_eq!(of_both, Some([0.0, 1.0]));
        assert_eq!(interval(0), None);
    }

    #[test]
    fn two_scores_are_fitted_exactly() {
        // 1 of 4 positive at score 0, 3 of 4 at score 2: Platt's targets are 5/6 and 1/6.
        let fit = fit_sigmoid(&[(2.0, 3, 1), (0.0, 1, 3)]).unwrap();
        let p = (3.0 * 5.0 / 6.0 + 1.0 / 6.0) / 4.0;
        let slope = (p / (1.0f64 - p)).ln(); // over half of the distance
        assert!((fit.temperature - 1.0 / slope).abs() < 1e-9, "{fit:?}, by hand {}", 1.0 / slope);
        assert!((fit.offset - 1.0).abs() < 1e-9);
        // Separated classes: 4/5 at 2 and 1 / 900,002 at 0.
        let fit = fit_sigmoid(&[(2.0, 3, 0), (0.0, 0, 900_000)]).unwrap();
        let slope = (4f64.ln() + 900_001f64.ln()) / 2.0;
        assert!((fit.temperature - 1.0 / slope).abs() < 1e-9, "{fit:?}");
        assert!(
            fit_sigmoid(&[(0.0, 3, 1), (2.0, 1, 3)]).unwrap_err().to_string().contains("slope")
        );
        assert!(fit_sigmoid(&[(0.0, 3, 0)]).is_err());
    }

    #[test]
    fn an_obstacle_is_found_when_half_of_its_pixels_are() {
        let labels = [1, 1, 1, 0, 1, 1, 1, 1, IGNORE, 1];
        let scores = [1.0, 5.0, 3.0, 9.0, 4.0, 3.0, 2.0, 1.0, 9.0, 9.0];
        assert_eq!(obstacle_scores(&scores, &labels, 10, 2), [3.0, 3.0]);
    }

    #[test]
    fn the_conformal_threshold_by_hand() {
        // Four frames; their shares missed at a threshold just below 3: 0, 1/2, 0, 0.
        let frames = [vec![3.0, 4.0], vec![2.0, 5.0], vec![6.0], vec![7.0]];
        let all = [0, 1, 2, 3];
        let bound = missed_bound(frames.iter().map(Vec::as_slice), 3.0f32.next_down());
        assert!((bound - 1.5 / 5.0).abs() < 1e-15);
        assert_eq!(missed_threshold(&frames, 0.3, &all), Some(3.0f32.next_down()));
        // Just below 5: 1 + 1/2; just below 6: 1 + 1.
        assert_eq!(missed_threshold(&frames, 0.5, &all), Some(5.0f32.next_down()));
        assert_eq!(missed_threshold(&frames, 0.2, &all), Some(2.0f32.next_down()));
        assert_eq!(missed_threshold(&frames, 0.19, &all), None);
    }
}
