//! Windows over a frame: where they start, and the network's logits averaged over them.
//!
//! The published code forgets the last window where the remainder divides and fails on images
//! smaller than the window; this rule equals it wherever it covers the image.

use std::fmt;
use std::ops::AddAssign;
use std::str::FromStr;

use tch::{Kind, Tensor};

use crate::model::{Model, Outputs};
use crate::{Error, Result};

/// How windows are laid over a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plan {
    /// As published: a window every 140 px in both directions.
    Paper,
    /// The fewest windows that cover the frame with at least an eighth of a window in common.
    #[default]
    Tiles,
    /// The whole frame resized to one window; outputs come back at the frame's size.
    Single,
}

impl Plan {
    /// Every plan.
    pub const ALL: [Self; 3] = [Self::Paper, Self::Tiles, Self::Single];

    /// Stride of the published windows, px.
    const PAPER_STRIDE: i64 = 140;

    /// Window starts along an axis of `len` px; the last window ends at the frame's end.
    pub fn starts(self, len: i64, window: i64) -> Vec<i64> {
        match self {
            Self::Single => vec![0],
            Self::Paper => starts(len, window, Self::PAPER_STRIDE),
            Self::Tiles => {
                let most = window - (window + 7) / 8; // px that one more window may add
                let steps = (len - window).max(0).div_euclid(most)
                    + i64::from((len - window).max(0) % most > 0);
                (0..=steps).map(|i| (len - window).max(0) * i / steps.max(1)).collect()
            }
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paper => "paper",
            Self::Tiles => "tiles",
            Self::Single => "single",
        })
    }
}

impl FromStr for Plan {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|plan| plan.to_string() == name);
        found.ok_or_else(|| Error::setting("plan", name, "paper, tiles, single"))
    }
}

/// Window starts `0, stride, 2 stride, ..` below the last start, then the last one itself, which is
/// flush with the end; `[0]` where `len` is at most one window.
pub fn starts(len: i64, window: i64, stride: i64) -> Vec<i64> {
    let last = (len - window).max(0);
    let step = usize::try_from(stride).unwrap_or(1).max(1);
    (0..last).step_by(step).chain([last]).collect()
}

/// Averaged logits and UEM of one normalised picture `(1, 3, h, w)`, at its size.
///
/// `batch` windows go through the network at a time. A picture smaller than the window is padded
/// with zeros, the mean colour, and cropped back.
pub fn segment(model: &Model, x: &Tensor, plan: Plan, batch: usize) -> Outputs {
    let size = (x.size()[2], x.size()[3]);
    let [wh, ww] = model.config().window;
    if plan == Plan::Single {
        let window = x.internal_upsample_bilinear2d_aa([wh, ww], false, None, None);
        let raise = |y: Tensor| y.upsample_bilinear2d([size.0, size.1], false, None, None);
        let Outputs { logits, uem } = model.forward(&window);
        return Outputs { logits: raise(logits), uem: uem.map(raise) };
    }
    let (rows, cols) = (plan.starts(size.0, wh), plan.starts(size.1, ww));
    let at: Vec<_> = rows.iter().flat_map(|&y| cols.iter().map(move |&x| (y, x))).collect();
    segment_at(model, x, &at, batch)
}

/// As [`segment`] with windows at the given `(row, column)` starts, which cover the (padded) picture.
pub fn segment_at(model: &Model, x: &Tensor, at: &[(i64, i64)], batch: usize) -> Outputs {
    let (_, _, h, w) = x.size4().unwrap_or_default();
    let [wh, ww] = model.config().window;
    let x = x.constant_pad_nd([0, (ww - w).max(0), 0, (wh - h).max(0)]);
    let frame = [h.max(wh), w.max(ww)];
    let options = (Kind::Float, x.device());
    let visits = Tensor::zeros(frame, options);
    let mut logits =
        Tensor::zeros([model.config().head.num_classes(), frame[0], frame[1]], options);
    let mut uem = model.uem.is_some().then(|| Tensor::zeros([2, frame[0], frame[1]], options));
    let window = |y: &Tensor, (row, col)| y.narrow(-2, row, wh).narrow(-1, col, ww);
    for chunk in at.chunks(batch.max(1)) {
        let windows: Vec<_> = chunk.iter().map(|&start| window(&x, start)).collect();
        let outputs = model.forward(&Tensor::cat(&windows, 0));
        for (i, &start) in (0..).zip(chunk) {
            // In place, on views of the sums.
            window(&visits, start).add_assign(1.0);
            window(&logits, start).add_assign(outputs.logits.get(i));
            if let (Some(sum), Some(seen)) = (&uem, &outputs.uem) {
                window(sum, start).add_assign(seen.get(i));
            }
        }
    }
    let mean = |sum: &mut Tensor| {
        let mean = sum.g_div_(&visits);
        mean.narrow(-2, 0, h).narrow(-1, 0, w).unsqueeze(0)
    };
    Outputs { logits: mean(&mut logits), uem: uem.as_mut().map(mean) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_every_pixel_and_nothing_beyond() {
        for plan in [Plan::Paper, Plan::Tiles] {
            for (len, window) in [
                (100, 518),
                (518, 518),
                (519, 518),
                (798, 518),
                (1024, 518),
                (2048, 1036),
                (3840, 1036),
            ] {
                let starts = plan.starts(len, window);
                let mut covered = vec![false; usize::try_from(len.max(window)).unwrap()];
                for &start in &starts {
                    let (from, to) =
                        (usize::try_from(start).unwrap(), usize::try_from(start + window).unwrap());
                    covered[from..to].fill(true);
                }
                assert!(covered.iter().all(|&seen| seen), "{plan} {len} {window}: {starts:?}");
                assert!(starts.is_sorted_by(|a, b| a < b), "{plan} {len}: {starts:?}");
            }
        }
    }

    #[test]
    fn tiles_are_the_fewest_with_an_eighth_in_common() {
        assert_eq!(Plan::Tiles.starts(1080, 518), [0, 281, 562]);
        assert_eq!(Plan::Tiles.starts(1920, 1036), [0, 884]);
        assert_eq!(Plan::Tiles.starts(971, 518), [0, 453]); // 518 + 453: exactly 65 px in common
        assert_eq!(Plan::Tiles.starts(972, 518), [0, 227, 454]);
    }

    #[test]
    fn exact_multiples_keep_their_last_window() {
        assert_eq!(starts(518, 518, 140), [0]);
        assert_eq!(starts(798, 518, 140), [0, 140, 280]);
        assert_eq!(starts(1024, 518, 140), [0, 140, 280, 420, 506]);
    }
}
