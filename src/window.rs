//! Windows over a frame: where they start, and the network's logits averaged over them.
//!
//! The published code forgets the last window where the remainder divides and fails on images
//! smaller than the window; this rule equals it wherever it covers the image.

use std::fmt;
use std::ops::AddAssign;
use std::str::FromStr;

use tch::{Kind, Tensor};

use crate::model::{Network, Outputs};
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

/// Averaged logits, UEM and descriptors of normalised pictures `(1, 3, h, w)`, each of its own size: at that size,
/// under [`Plan::Single`] at the window's; [`raise`] makes up for it.
///
/// `batch` windows of all pictures go through the network at a time. A picture smaller than the window
/// is padded with zeros, the mean colour, and cropped back.
pub fn segment(
    model: &impl Network,
    pictures: &[Tensor],
    plan: Plan,
    batch: usize,
) -> Vec<Outputs> {
    let [wh, ww] = model.config().window;
    let plan_one = |x: &Tensor| {
        if plan == Plan::Single {
            let window = x.internal_upsample_bilinear2d_aa([wh, ww], false, None, None);
            return (window, vec![(0, 0)]);
        }
        let (rows, cols) = (plan.starts(x.size()[2], wh), plan.starts(x.size()[3], ww));
        let at = rows.iter().flat_map(|&y| cols.iter().map(move |&x| (y, x)));
        (x.shallow_clone(), at.collect())
    };
    let planned: Vec<_> = pictures.iter().map(plan_one).collect();
    segment_at(model, &planned, batch)
}

/// As [`segment`] with each picture's windows at the given `(row, column)` starts, which cover the
/// (padded) picture.
pub fn segment_at(
    model: &impl Network,
    pictures: &[(Tensor, Vec<(i64, i64)>)],
    batch: usize,
) -> Vec<Outputs> {
    let size = model.config().window;
    let mut sums: Vec<_> = pictures.iter().map(|(x, _)| Sum::new(model, x)).collect();
    let mut windows = Vec::new();
    for (i, (_, at)) in pictures.iter().enumerate() {
        windows.extend(at.iter().map(|&at| (i, at)));
    }
    for chunk in windows.chunks(batch.max(1)) {
        let x: Vec<_> = chunk.iter().map(|&(i, at)| cut(&sums[i].picture, at, size)).collect();
        let outputs = model.forward(&Tensor::cat(&x, 0));
        for (row, &(i, at)) in (0..).zip(chunk) {
            sums[i].add(&outputs, row, at, size);
        }
    }
    sums.iter_mut().map(Sum::mean).collect()
}

/// Outputs resized to `(h, w)`, as the network resizes its own (bilinear, `align_corners = false`).
pub fn raise(outputs: &Outputs, size: [i64; 2]) -> Outputs {
    let raise = |y: &Tensor| y.upsample_bilinear2d(size, false, None, None);
    Outputs {
        logits: raise(&outputs.logits),
        uem: outputs.uem.as_ref().map(raise),
        descriptor: outputs.descriptor.shallow_clone(),
    }
}

/// The window of a picture or sum that starts at `(row, column)`: a view.
fn cut(y: &Tensor, (row, column): (i64, i64), [wh, ww]: [i64; 2]) -> Tensor {
    y.narrow(-2, row, wh).narrow(-1, column, ww)
}

/// A picture, and what its windows so far have said about it.
struct Sum {
    /// `(1, 3, h, w)`, padded to a window at least.
    picture: Tensor,
    /// `(h, w)` before padding.
    size: [i64; 2],
    /// Windows per pixel.
    visits: Tensor,
    /// `(k, h, w)`, padded.
    logits: Tensor,
    /// `(2, h, w)`, padded.
    uem: Option<Tensor>,
    /// Those of its windows, `(c)` each.
    descriptors: Vec<Tensor>,
}

impl Sum {
    fn new(model: &impl Network, x: &Tensor) -> Self {
        let size = [x.size()[2], x.size()[3]];
        let window = model.config().window;
        let [h, w] = [size[0].max(window[0]), size[1].max(window[1])];
        let zeros = |channels: i64| Tensor::zeros([channels, h, w], (Kind::Float, x.device()));
        Self {
            picture: x.constant_pad_nd([0, w - size[1], 0, h - size[0]]),
            size,
            visits: zeros(1),
            logits: zeros(model.config().head.num_classes()),
            uem: model.config().uem.is_some().then(|| zeros(2)),
            descriptors: Vec::new(),
        }
    }

    /// Adds, in place, what the batch says in `row` about the window at `at`.
    fn add(&mut self, outputs: &Outputs, row: i64, at: (i64, i64), size: [i64; 2]) {
        cut(&self.visits, at, size).add_assign(1.0);
        cut(&self.logits, at, size).add_assign(outputs.logits.get(row));
        self.descriptors.push(outputs.descriptor.get(row));
        if let (Some(sum), Some(seen)) = (&self.uem, &outputs.uem) {
            cut(sum, at, size).add_assign(seen.get(row));
        }
    }

    fn mean(&mut self) -> Outputs {
        let ([h, w], visits) = (self.size, &self.visits);
        let mean =
            |sum: &mut Tensor| sum.g_div_(visits).narrow(-2, 0, h).narrow(-1, 0, w).unsqueeze(0);
        Outputs {
            logits: mean(&mut self.logits),
            uem: self.uem.as_mut().map(mean),
            descriptor: Tensor::stack(&self.descriptors, 0).mean_dim(0, true, Kind::Float),
        }
    }
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
