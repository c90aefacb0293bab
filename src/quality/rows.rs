//! Do the rows of a picture belong together.

use super::Grey;

/// Pairs of rows compared for a skew, points in each, and shifts tried to either side, px.
const PAIRS: usize = 16;
const POINTS: usize = 48;
const REACH: usize = 64;
/// Grey levels by which a step stands out without anything being wrong.
const NOISE: i16 = 3;
/// Mean difference of two rows, grey levels, below which there is nothing to explain.
const EVEN: f32 = 2.0;

/// The share of columns whose step between two rows stands out from the steps above and below it, up and
/// down: the geometric mean of both shares, where it is largest.
///
/// Two pictures in one, or a part of another, meet in a sharp step that goes up here and down there. An
/// edge of the world that lies along a row goes one way over its length.
pub(super) fn torn(grey: &Grey<'_>) -> f32 {
    let columns = || (0..grey.width).step_by(2 * grey.grid).map(|x| x * grey.pitch);
    let mut before: Vec<[i16; 3]> = columns().map(|_| [0; 3]).collect();
    let mut most = 0;
    for y in 0..grey.height {
        let row = &grey.data[y * grey.step..];
        let [mut up, mut down] = [0u32; 2];
        for ([last, above, middle], x) in before.iter_mut().zip(columns()) {
            let here = i16::from(row[x]);
            let below = here - *last;
            let beside = 2 * above.abs().max(below.abs()) + NOISE;
            up += u32::from(*middle > beside);
            down += u32::from(-*middle > beside);
            (*last, *above, *middle) = (here, *middle, below);
        }
        if y >= 3 {
            most = most.max(up * down);
        }
    }
    (most as f32).sqrt() / before.len() as f32
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
    if still < EVEN * (PAIRS * POINTS) as f32 { 0.0 } else { (1.0 - best / still).max(0.0) }
}
