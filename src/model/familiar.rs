//! How far a picture is from those a network was calibrated on, by its backbone's features.
//!
//! A picture's descriptor ([`super::dinov2::Features::descriptor`], the mean over its windows) is compared
//! with a Gaussian of the calibration's descriptors, whose covariance is its strongest axes and one spread
//! for the rest (Tipping and Bishop 1999), by the Mahalanobis distance (Lee et al. 2018). The bound is the
//! conformal quantile of cross-validated distances: of new frames exchangeable with the calibration's at
//! most the share asked for lies above it, on average (Vovk et al. 2005).

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::answer::hexadecimal;
use crate::{Error, Result};

/// Fewer frames say nothing.
pub const FEWEST: usize = 10;
/// Axes kept, at most.
const AXES: usize = 8;
/// Parts of the cross-validation, at most.
const FOLDS: usize = 60;
/// Least spread of a channel, as a share of all channels' mean spread: what never varied says little.
const LEAST: f64 = 1e-3;

/// What the frames of a calibration look like to the backbone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Familiarity {
    /// Share of frames like these above the bound, on average and at most.
    pub false_alarms: f64,
    /// The distance from which on a picture is unlike them.
    pub bound: f32,
    /// Mean of every channel of the descriptor, `c`.
    mean: Digits,
    /// Its standard deviation, `c`.
    deviation: Digits,
    /// Directions `(r, c)` of the strongest common variations, in standard deviations.
    axes: Digits,
    /// Variance along each, `r`, then that along any other direction.
    variances: Digits,
}

/// Numbers, as hexadecimal digits of their bits in a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Digits(Vec<f32>);

impl Familiarity {
    /// What descriptors of one length look like, for a share of false alarms; `None` of too few.
    pub fn of(descriptors: &[Vec<f32>], false_alarms: f64) -> Option<Self> {
        let n = descriptors.len();
        if n < FEWEST {
            return None;
        }
        let folds = n.min(FOLDS);
        let mut distances = Vec::with_capacity(n);
        for fold in 0..folds {
            let part = |held: bool| {
                let these = descriptors.iter().enumerate();
                these.filter(move |(i, _)| (i % folds == fold) == held).map(|(_, x)| x)
            };
            let others: Vec<_> = part(false).collect();
            let fitted = Self::fit(&others);
            distances.extend(part(true).map(|x| fitted.distance(x)));
        }
        distances.sort_unstable_by(f32::total_cmp);
        let (bound, false_alarms) = conformal(&distances, false_alarms);
        let all: Vec<_> = descriptors.iter().collect();
        Some(Self { false_alarms, bound, ..Self::fit(&all) })
    }

    /// The Gaussian alone.
    fn fit(descriptors: &[&Vec<f32>]) -> Self {
        let rows: Vec<_> = descriptors.iter().map(|row| Tensor::from_slice(row)).collect();
        let x = Tensor::stack(&rows, 0).to_kind(Kind::Double); // (n, c)
        let (n, c) = (x.size()[0], x.size()[1]);
        let mean = x.mean_dim(0, false, Kind::Double);
        let deviation = x.std_dim(0, true, false);
        let least = (deviation.mean(Kind::Double) * LEAST).clamp_min(f64::MIN_POSITIVE);
        let deviation = deviation.maximum(&least);
        let z = (&x - &mean) / &deviation;
        let (_, singular, axes) = z.svd(true, true); // axes (c, min(n, c))
        let variances = singular.square() / (n - 1).max(1) as f64;
        // Half of the directions that the frames span: the weaker ones are their noise.
        let kept = i64::try_from(AXES).unwrap_or(0).min((n - 1) / 2).min(c / 2);
        let left = variances.sum(Kind::Double) - variances.narrow(0, 0, kept).sum(Kind::Double);
        let rest = (left / (c - kept).max(1) as f64).clamp_min(LEAST);
        let variances = Tensor::cat(&[variances.narrow(0, 0, kept), rest.view([1])], 0);
        let digits = |x: &Tensor| {
            let x = x.to_kind(Kind::Float).contiguous().view(-1);
            let mut numbers = vec![0.0; x.numel()];
            x.copy_data(&mut numbers, x.numel());
            Digits(numbers)
        };
        Self {
            false_alarms: 0.0,
            bound: 0.0,
            mean: digits(&mean),
            deviation: digits(&deviation),
            axes: digits(&axes.narrow(1, 0, kept).transpose(0, 1)),
            variances: digits(&variances),
        }
    }

    /// Mahalanobis distance of a descriptor, by the root of its length: about 1 for a frame of the fit.
    fn distance(&self, descriptor: &[f32]) -> f32 {
        let channels = descriptor.iter().zip(&self.mean.0).zip(&self.deviation.0);
        let z: Vec<f64> =
            channels.map(|((x, mean), deviation)| f64::from((x - mean) / deviation)).collect();
        let mut rest: f64 = z.iter().map(|z| z * z).sum();
        let mut square = 0.0;
        let mut variances = self.variances.0.iter().map(|variance| f64::from(*variance));
        for (axis, variance) in self.axes.0.chunks(z.len()).zip(variances.clone()) {
            let along: f64 = axis.iter().zip(&z).map(|(a, z)| f64::from(*a) * z).sum();
            square += along * along / variance;
            rest -= along * along;
        }
        square += rest.max(0.0) / variances.next_back().unwrap_or(1.0);
        #[expect(clippy::cast_possible_truncation, reason = "a distance needs no more digits")]
        let distance = (square / z.len().max(1) as f64).sqrt() as f32;
        distance
    }

    /// The distance of a picture's descriptor by the bound; above 1 the picture is unlike these frames.
    pub fn ratio(&self, descriptor: &[f32]) -> f32 {
        self.distance(descriptor) / self.bound
    }

    /// Checks that the numbers fit each other and descriptors of `channels` numbers.
    pub(super) fn validate(&self, channels: usize) -> Result<()> {
        let Self { mean, deviation, axes, variances, .. } = self;
        let lengths = [&mean.0, &deviation.0, &axes.0].map(Vec::len);
        let expected = [channels, channels, channels * variances.0.len().saturating_sub(1)];
        let refuse = |value: String, allowed: &str| {
            Err(Error::setting("calibration.familiarity", &value, allowed))
        };
        if lengths != expected || variances.0.is_empty() {
            let allowed = format!("{expected:?} numbers of mean, deviation and axes");
            return refuse(format!("{lengths:?}"), &allowed);
        }
        let positive = [&deviation.0, &variances.0].into_iter().flatten().all(|x| *x > 0.0);
        let all = [&mean.0, &deviation.0, &axes.0, &variances.0].into_iter().flatten();
        let finite = all.chain([&self.bound]).all(|x| x.is_finite());
        if !(positive && finite && self.bound > 0.0) {
            return refuse(
                format!("bound {}", self.bound),
                "finite numbers, positive spreads and bound",
            );
        }
        Ok(())
    }
}

/// The smallest of `n` ascending distances that at most `false_alarms` of new ones exceed, and that share;
/// the largest distance and `1 / (n + 1)` where `n` is too small for it.
fn conformal(ascending: &[f32], false_alarms: f64) -> (f32, f64) {
    let n = ascending.len();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to n + 1")]
    let above = ((n + 1) as f64 * false_alarms).floor() as usize; // that may lie above
    let rank = (n + 1 - above.max(1)).clamp(1, n);
    (ascending[rank - 1], (n + 1 - rank) as f64 / (n + 1) as f64)
}

impl From<Digits> for String {
    fn from(numbers: Digits) -> Self {
        numbers.0.iter().map(|number| format!("{:08x}", number.to_bits())).collect()
    }
}

impl TryFrom<String> for Digits {
    type Error = Error;

    fn try_from(digits: String) -> Result<Self> {
        let number =
            |digits: &[u8]| (digits.len() == 8).then(|| hexadecimal(digits).map(f32::from_bits))?;
        let numbers: Option<_> = digits.as_bytes().chunks(8).map(number).collect();
        let allowed = "8 hexadecimal digits a number; `ood_seg calibrate` makes them";
        numbers.map(Self).ok_or_else(|| Error::setting("calibration.familiarity", &digits, allowed))
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn the_distance_by_hand() {
        let known = Familiarity {
            false_alarms: 0.1,
            bound: 2.0,
            mean: Digits(vec![1.0, -1.0]),
            deviation: Digits(vec![2.0, 0.5]),
            axes: Digits(vec![0.6, 0.8]),
            variances: Digits(vec![4.0, 0.25]),
        };
        known.validate(2).unwrap();
        // z = (1, 2): along the axis 2.2, of 5 in all; (4.84 / 4 + 0.16 / 0.25) / 2 = 0.925.
        let found = known.ratio(&[3.0, 0.0]);
        assert!((found - 0.925f32.sqrt() / 2.0).abs() < 1e-6, "{found}");
        assert_eq!(known.ratio(&[1.0, -1.0]), 0.0);
        assert!(known.ratio(&[f32::NAN, 0.0]).is_nan());
    }

    #[test]
    fn the_bound_is_the_conformal_quantile_as_far_as_the_frames_reach() {
        let distances: Vec<f32> = (1..=19).map(|i| i as f32).collect();
        // Of 20 places for a new one, one lies above 19, two above 18.
        assert_eq!(conformal(&distances, 0.05), (19.0, 0.05));
        assert_eq!(conformal(&distances, 0.1), (18.0, 0.1));
        assert_eq!(conformal(&distances, 0.14), (18.0, 0.1));
        assert_eq!(conformal(&distances, 0.001), (19.0, 0.05));
        assert_eq!(conformal(&distances, 0.999), (1.0, 0.95));
    }

    /// Descriptors of 6 numbers that vary along one common direction, and a little in each.
    fn frames(count: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut frame = || {
            let common = random.gen_range(-1.0..1.0);
            let own = |c: usize| c as f32 + common + random.gen_range(-0.1..0.1);
            (0..6).map(own).collect()
        };
        (0..count).map(|_| frame()).collect()
    }

    #[test]
    fn what_breaks_the_frames_common_variation_is_unlike_them_however_small() {
        let known = Familiarity::of(&frames(40, 1), 0.05).unwrap();
        assert_eq!(known.false_alarms, 2.0 / 41.0);
        // The promise is about the mean over calibrations, of which each has its luck.
        let alarms = |seed| {
            let known = Familiarity::of(&frames(40, seed), 0.05).unwrap();
            frames(100, 1000 + seed).iter().filter(|x| known.ratio(x) > 1.0).count()
        };
        let alarms: usize = (0..30).map(alarms).sum();
        assert!((60..=195).contains(&alarms), "{alarms} of 3000, 146 at most on average");
        let mut odd = vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        assert!(known.ratio(&odd) < 1.0);
        odd[2] += 0.9; // within what each channel varies by
        assert!(known.ratio(&odd) > 1.5, "{}", known.ratio(&odd));
        assert_eq!(Familiarity::of(&frames(FEWEST - 1, 1), 0.05), None);
    }

    #[test]
    fn a_channel_that_never_varies_breaks_nothing_and_numbers_survive_the_file() {
        let mut still = frames(20, 3);
        still.iter_mut().for_each(|frame| frame[1] = 7.0);
        let known = Familiarity::of(&still, 0.05).unwrap();
        known.validate(6).unwrap();
        assert!(known.ratio(&still[0]).is_finite());
        let text = String::from(known.axes.clone());
        assert_eq!(Digits::try_from(text.clone()).unwrap(), known.axes);
        assert!(Digits::try_from(text[1..].to_owned()).is_err());
        assert!(Digits::try_from(format!("+{}", &text[1..])).is_err());
        assert!(Digits::try_from("é".repeat(4)).is_err());
        assert!(known.validate(5).is_err());
        let nan = Familiarity { bound: f32::NAN, ..known };
        assert!(nan.validate(6).is_err());
    }
}
