//! Do the rows of a picture belong together.

use super::Grey;

/// Pairs of rows compared for a skew, points in each, and shifts tried to either side, px.
const PAIRS: usize = 16;
const POINTS: usize = 48;
const REACH: usize = 64;
/// Grey levels by which rows differ without anything being wrong.
const NOISE: f32 = 2.0;

/// How far the strongest step between two rows stands out from the steps above and below it; a step is
/// the difference that three columns in ten exceed.
///
/// Two pictures in one, or a part of another, meet in a single sharp step over much of the width; things
/// in the world have edges that lens and sensor spread over rows, or that are narrower.
pub(super) fn torn(grey: &Grey<'_>) -> f32 {
    let columns: Vec<usize> = (0..grey.width).step_by(2 * grey.grid).collect();
    let mut differences = vec![0; columns.len()];
    let mut step = |y: usize| {
        for (difference, &x) in differences.iter_mut().zip(&columns) {
            *difference = grey.at(y, x).abs_diff(grey.at(y + 1, x));
        }
        let rank = (differences.len() - 1) * 7 / 10;
        f32::from(*differences.select_nth_unstable(rank).1)
    };
    let steps: Vec<f32> = (0..grey.height.saturating_sub(1)).map(&mut step).collect();
    let stands_out = |near: &[f32]| (near[1] + NOISE) / (near[0].max(near[2]) + NOISE);
    steps.windows(3).map(stands_out).fold(1.0, f32::max)
}

/// The share of the rows' differences that one and the same shift of two pixels or more explains: what a
/// wrong step does, which moves every row by as much against the one above.
pub(super) fn skewed(grey: &Grey<'_>) -> f32 {
    let reach = REACH.min(grey.width / 4);
    if grey.height < 2 * PAIRS || reach < 2 {
        return 0.0;
    }
    let inner = grey.width - 2 * reach;
    let mut sums = vec![0u32; 2 * reach + 1];
    for pair in 0..PAIRS {
        let y = pair * (grey.height - 1) / PAIRS;
        for point in 0..POINTS {
            let x = reach + point * inner / POINTS;
            let here = grey.at(y, x);
            for (shift, sum) in sums.iter_mut().enumerate() {
                *sum += u32::from(here.abs_diff(grey.at(y + 1, x + shift - reach)));
            }
        }
    }
    let still = sums[reach] as f32;
    let far = (0..sums.len()).filter(|shift| shift.abs_diff(reach) >= 2);
    let best = far.map(|shift| sums[shift]).min().unwrap_or(0) as f32;
    if still < NOISE * (PAIRS * POINTS) as f32 { 0.0 } else { (1.0 - best / still).max(0.0) }
}
