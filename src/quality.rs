//! Is a picture worth segmenting: dark, overexposed, blurred, frozen, partly covered, torn, unfamiliar.
//!
//! Looks at one channel on a coarse grid, about 240 points along the longer side (every eighth pixel of
//! 1920x1080), so that one threshold serves every size; whether rows belong together is seen on all of
//! them. What is wrong is said, in bits; the masks are published all the same. How familiar the picture is
//! to the network is added once it has run ([`Quality::with_unfamiliarity`]).

mod rows;

use std::time::{Duration, Instant};

use crate::config::QualityParameters;
use crate::image::{Encoding, Image, Limits};
use crate::msg::Stamp;

/// What is wrong with a picture; `msg/FrameStatus.msg` documents each.
pub mod bit {
    /// The mean is below `quality.dark`.
    pub const DARK: u16 = 1;
    /// The mean is above `quality.bright`.
    pub const BRIGHT: u16 = 2;
    /// A share above `quality.saturated` of the points is at 254 or 255.
    pub const SATURATED: u16 = 4;
    /// Edges are softer than `quality.sharpness`.
    pub const BLURRED: u16 = 8;
    /// The same bytes with new stamps for `quality.frozen_ms`.
    pub const FROZEN: u16 = 16;
    /// `quality.covered` or more of the 4x4 blocks show nothing.
    pub const COVERED: u16 = 32;
    /// Rows that do not belong together.
    pub const TORN: u16 = 64;
    /// Farther from the calibration's pictures than `quality.unfamiliar` times their bound.
    pub const UNFAMILIAR: u16 = 128;
    /// Each with its name.
    pub const NAMES: [(u16, &str); 8] = [
        (DARK, "dark"),
        (BRIGHT, "bright"),
        (SATURATED, "saturated"),
        (BLURRED, "blurred"),
        (FROZEN, "frozen"),
        (COVERED, "covered"),
        (TORN, "torn"),
        (UNFAMILIAR, "unfamiliar"),
    ];
}

/// What was measured of one picture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quality {
    /// Of [`bit`], what is beyond its threshold.
    pub bits: u16,
    /// 0 fine; 1 the masks may be worse for it; 2 they are not to be trusted: nothing to see, or the
    /// same picture for three times `quality.frozen_ms`.
    pub level: u8,
    /// Mean of the channel looked at, 0 to 255.
    pub mean: f32,
    /// Share of the points at 254 or 255.
    pub saturated: f32,
    /// Steepness of the steepest edges, 0 to about 1: their change over a 240th of the longer side by that
    /// over six times as much, of the softer direction.
    pub sharpness: f32,
    /// Of the 16 blocks, those that show nothing.
    pub covered: u32,
    /// Share of the columns that step up, and that step down, more between two rows than beside them: the
    /// geometric mean of both, of the two rows that fit worst.
    pub torn: f32,
    /// Share of the difference between neighbouring rows that one sideways shift for all explains.
    pub skewed: f32,
    /// How long the same picture has come.
    pub frozen: Duration,
    /// Distance from the calibration's pictures by their bound, once it is known.
    pub unfamiliarity: Option<f32>,
}

impl Quality {
    /// With what the network says of the picture.
    #[must_use]
    pub fn with_unfamiliarity(self, ratio: Option<f32>, thresholds: &QualityParameters) -> Self {
        thresholds.judged(Self { unfamiliarity: ratio, ..self })
    }
}

/// Watches one camera's pictures.
#[derive(Debug, Default)]
pub struct Monitor {
    /// Hash of the last picture, its stamp, and when this hash came first.
    last: Option<(u64, Stamp, Instant)>,
}

/// A skew explains this share of the rows' differences, or there is none.
const SKEWED: f32 = 0.3;
/// Points along the longer side.
const POINTS: usize = 240;
/// Points to the far end of an edge.
const FAR: usize = 6;
/// Blocks along each side.
const BLOCKS: usize = 4;

impl Monitor {
    /// Measures a picture that came at `now`; `None` for one that [`Image::validate`] refuses.
    pub fn look(
        &mut self,
        image: &Image,
        limits: &Limits,
        thresholds: &QualityParameters,
        now: Instant,
    ) -> Option<Quality> {
        let encoding = image.validate(limits).ok()?;
        let grey = Grey::new(image, encoding);
        let mut quality = grey.measure();
        quality.frozen = self.unchanged(grey.hash(), image.header.stamp, now);
        Some(thresholds.judged(quality))
    }

    /// How long pictures of this hash have come. One with an old stamp is a repetition by the transport
    /// and says nothing about the camera.
    fn unchanged(&mut self, hash: u64, stamp: Stamp, now: Instant) -> Duration {
        let since = match self.last {
            Some((last, _, since)) if last == hash => since,
            _ => now,
        };
        let repeated = self.last.is_some_and(|(_, last, _)| last == stamp);
        self.last = Some((hash, stamp, since));
        if repeated { Duration::ZERO } else { now.duration_since(since) }
    }
}

impl QualityParameters {
    fn judged(&self, mut quality: Quality) -> Quality {
        quality.bits = self.bits(&quality);
        quality.level = self.level(&quality);
        quality
    }

    /// What is beyond its threshold.
    fn bits(&self, q: &Quality) -> u16 {
        let frozen = Duration::from_millis(self.frozen_ms.into());
        let unfamiliar = |ratio| self.unfamiliar > 0.0 && f64::from(ratio) > self.unfamiliar;
        [
            (f64::from(q.mean) < self.dark, bit::DARK),
            (f64::from(q.mean) > self.bright, bit::BRIGHT),
            (f64::from(q.saturated) > self.saturated, bit::SATURATED),
            (f64::from(q.sharpness) < self.sharpness, bit::BLURRED),
            (!q.frozen.is_zero() && q.frozen >= frozen, bit::FROZEN),
            (q.covered >= self.covered, bit::COVERED),
            (f64::from(q.torn) > self.torn || q.skewed > SKEWED, bit::TORN),
            (q.unfamiliarity.is_some_and(unfamiliar), bit::UNFAMILIAR),
        ]
        .into_iter()
        .fold(0, |bits, (wrong, bit)| if wrong { bits | bit } else { bits })
    }

    /// How bad that is.
    fn level(&self, q: &Quality) -> u8 {
        let long = 3 * Duration::from_millis(self.frozen_ms.into());
        let blind = q.bits & (bit::DARK | bit::BRIGHT) != 0;
        let stuck = q.bits & bit::FROZEN != 0 && q.frozen >= long;
        if blind || stuck { 2 } else { u8::from(q.bits != 0) }
    }
}

/// The names of the bits that are set, `ok` when none is.
pub fn names(bits: u16) -> String {
    let set: Vec<_> = bit::NAMES.iter().filter(|(bit, _)| bits & bit != 0).collect();
    if set.is_empty() {
        return "ok".into();
    }
    set.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

/// One channel of a picture: green, luma, or the grey value; of Bayer's pixels every second green one.
struct Grey<'a> {
    data: &'a [u8],
    height: usize,
    width: usize,
    /// Bytes from row to row and from column to column.
    step: usize,
    pitch: usize,
    /// Bytes of a row that hold pixels.
    row: usize,
    /// Distance of the grid's points.
    grid: usize,
}

impl<'a> Grey<'a> {
    /// The channel of a picture that is valid.
    fn new(image: &'a Image, encoding: Encoding) -> Self {
        let (mut height, mut width) = (image.height as usize, image.width as usize);
        let (mut step, row) = (image.step as usize, encoding.row_bytes(image.width));
        let (offset, pitch) = match encoding {
            Encoding::Rgb8 | Encoding::Bgr8 => (1, 3),
            Encoding::Rgba8 | Encoding::Bgra8 => (1, 4),
            Encoding::Mono8 | Encoding::Nv12 => (0, 1),
            Encoding::Uyvy => (1, 2),
            Encoding::Yuyv => (0, 2),
            Encoding::Bayer(colours) => {
                (height, width, step) = (height / 2, width / 2, 2 * step);
                (usize::from(colours[0] != 1), 2)
            }
        };
        let data = &image.data[offset..];
        let row = usize::try_from(row).unwrap_or(usize::MAX) - offset;
        let grid = height.max(width).div_ceil(POINTS);
        Self { data, height, width, step, pitch, row, grid }
    }

    fn at(&self, y: usize, x: usize) -> u8 {
        self.data[y * self.step + x * self.pitch]
    }

    /// The grid's rows.
    fn points(&self) -> Vec<Vec<u8>> {
        let row = |y| (0..self.width).step_by(self.grid).map(|x| self.at(y, x)).collect();
        (0..self.height).step_by(self.grid).map(row).collect()
    }

    fn measure(&self) -> Quality {
        let points = self.points();
        let mut blocks = [[Block::default(); BLOCKS]; BLOCKS];
        let mut edges = [Edges::default(); 2];
        let mut saturated = 0;
        for (v, row) in points.iter().enumerate() {
            for (u, &here) in row.iter().enumerate() {
                saturated += u32::from(here >= 254);
                blocks[v * BLOCKS / points.len()][u * BLOCKS / row.len()].add(here);
                if let Some(&beyond) = row.get(u + FAR) {
                    edges[0].add(here, row[u + 1], beyond);
                }
                if let Some(beyond) = points.get(v + FAR) {
                    edges[1].add(here, points[v + 1][u], beyond[u]);
                }
            }
        }
        let all = blocks.as_flattened();
        let count: f32 = all.iter().map(|block| block.count).sum();
        let (torn, skewed) = (rows::torn(self), rows::skewed(self));
        Quality {
            mean: all.iter().map(|block| block.sum).sum::<f32>() / count,
            saturated: saturated as f32 / count,
            sharpness: edges[0].sharpness().min(edges[1].sharpness()),
            covered: all.iter().map(|block| u32::from(block.shows_nothing())).sum(),
            torn,
            skewed,
            ..Quality::default()
        }
    }

    /// Of the pixels in the grid's rows.
    fn hash(&self) -> u64 {
        let mut hash = 0;
        let mut add = |word: u64| hash = (hash ^ word).wrapping_mul(K).rotate_left(29);
        const K: u64 = 0x9e37_79b9_7f4a_7c15;
        for y in (0..self.height).step_by(self.grid) {
            let row = &self.data[y * self.step..][..self.row.min(self.data.len() - y * self.step)];
            let (words, rest) = row.as_chunks::<8>();
            words.iter().for_each(|word| add(u64::from_le_bytes(*word)));
            rest.iter().for_each(|byte| add(u64::from(*byte)));
        }
        hash
    }
}

/// Sums over the points of a block.
#[derive(Clone, Copy, Default)]
struct Block {
    count: f32,
    sum: f32,
    squares: f32,
}

impl Block {
    fn add(&mut self, value: u8) {
        let value = f32::from(value);
        self.count += 1.0;
        self.sum += value;
        self.squares += value * value;
    }

    /// Dark and even, as behind a finger or tape, or without any noise; an overexposed sky is not that.
    fn shows_nothing(&self) -> bool {
        let mean = self.sum / self.count.max(1.0);
        let variance = self.squares / self.count.max(1.0) - mean * mean;
        mean < 250.0 && (variance < 0.25 || (mean < 24.0 && variance < 36.0))
    }
}

/// Counts of differences to the next point and to a far one, in one direction.
#[derive(Clone, Copy)]
struct Edges([[u32; 256]; 2]);

impl Default for Edges {
    fn default() -> Self {
        Self([[0; 256]; 2])
    }
}

impl Edges {
    fn add(&mut self, here: u8, beside: u8, beyond: u8) {
        for (counts, other) in self.0.iter_mut().zip([beside, beyond]) {
            counts[usize::from(here.abs_diff(other))] += 1;
        }
    }

    /// How much of the change of the steepest edges, to the far point, is there at the next one already;
    /// 1 where there is no edge at all, since nothing is known then.
    ///
    /// A blur that hides a share of the picture hides it at every size, so the distance is a share of the
    /// picture too; over one pixel of a large picture the sensor's noise is all that is left of its edges.
    fn sharpness(&self) -> f32 {
        let [near, far] = &self.0;
        // A sharp edge lies between a point and its next once, and between it and the far one so often.
        let [near, far] = [steepest(near, 1), steepest(far, FAR)];
        if far < 8 { 1.0 } else { near as f32 / far as f32 }
    }
}

/// The difference that so many in 400 exceed.
fn steepest(counts: &[u32; 256], share: usize) -> usize {
    let all: usize = counts.iter().map(|&count| count as usize).sum();
    let mut above = 0;
    let found = (0..256).rev().find(|&difference| {
        above += counts[difference] as usize;
        400 * above > share * all
    });
    found.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{NodeConfig, Override};

    fn thresholds() -> QualityParameters {
        let weights = Override::Value { key: "model.weights".into(), yaml: "a".into() };
        NodeConfig::load("/seg", &[weights]).unwrap().quality
    }

    /// A street of boxes, `(96, 160)` grey, sharp, with a little noise.
    fn boxes() -> Vec<u8> {
        let noise = |i: usize| (i.wrapping_mul(2_654_435_761) >> 13) % 5;
        let pixel = |i: usize| {
            let (y, x) = (i / 160, i % 160);
            let tall = 20 + (x / 16 * 37) % 50;
            let level = if y > tall { 60 + (x / 16 * 71) % 130 } else { 190 };
            u8::try_from(level + y / 6 + noise(i)).unwrap()
        };
        (0..96 * 160).map(pixel).collect()
    }

    fn image(data: Vec<u8>, sec: i32) -> Image {
        let mut image = Image::packed(Default::default(), (96, 160), "mono8", data);
        image.header.stamp.sec = sec;
        image
    }

    fn look(data: Vec<u8>) -> Quality {
        let (limits, now) = (Limits::default(), Instant::now());
        Monitor::default().look(&image(data, 1), &limits, &thresholds(), now).unwrap()
    }

    fn each(change: impl Fn(usize, usize, u8) -> u8) -> Vec<u8> {
        let changed = |(i, value)| change(i / 160, i % 160, value);
        boxes().into_iter().enumerate().map(changed).collect()
    }

    #[test]
    fn a_good_picture_is_fine_and_each_fault_has_its_bit() {
        let good = look(boxes());
        assert_eq!((good.bits, good.level), (0, 0), "{good:?}");
        #[expect(clippy::cast_possible_truncation, reason = "means of bytes")]
        let blurred = {
            let mut picture: Vec<f32> = boxes().into_iter().map(f32::from).collect();
            for _ in 0..40 {
                let before = picture.clone();
                for i in 161..picture.len() - 161 {
                    let sum: f32 =
                        [i, i - 1, i + 1, i - 160, i + 160].map(|i| before[i]).iter().sum();
                    picture[i] = sum / 5.0;
                }
            }
            picture.into_iter().map(|value| value as u8).collect()
        };
        let street = boxes();
        let rolled = |by: usize| each(|y, x, _| street[y * 160 + (x + y * by) % 160]);
        let cases = [
            (each(|_, _, v| v / 32), bit::DARK, 2),
            (each(|_, _, v| v / 64 + 250), bit::BRIGHT, 2),
            (each(|y, _, v| if y < 48 { 255 } else { v }), bit::SATURATED, 1),
            (blurred, bit::BLURRED, 1),
            (each(|_, x, v| if x < 80 { 4 } else { v }), bit::COVERED, 1),
            (
                each(|y, x, v| if y < 70 { v } else { street[y * 160 + (x + 60) % 160] }),
                bit::TORN,
                1,
            ),
            (rolled(3), bit::TORN, 1),
        ];
        for (i, (picture, bit, level)) in cases.into_iter().enumerate() {
            let found = look(picture);
            assert!(found.bits & bit != 0 && found.level == level, "{i}: {found:?}");
        }
    }

    /// Measures a grey picture of `(h, w)`.
    fn measured([h, w]: [usize; 2], pixel: impl Fn(usize, usize) -> usize) -> Quality {
        let data: Vec<_> = (0..h * w).map(|i| u8::try_from(pixel(i / w, i % w)).unwrap()).collect();
        let size = (h, w);
        let image = Image::packed(Default::default(), size, "mono8", data);
        Grey::new(&image, Encoding::Mono8).measure()
    }

    /// Heights, widths and distances of the grid's points.
    const SIZES: [([usize; 2], usize); 3] = [([360, 640], 3), ([720, 1280], 6), ([800, 500], 4)];

    #[test]
    fn an_edge_over_so_many_points_is_as_steep_at_every_size_and_in_both_directions() {
        for (size, grid) in SIZES {
            for (points, expected) in [(1, 1.0), (2, 0.5), (5, 0.2)] {
                let rise = points * grid;
                // Flat for 12 points, then up by 100, flat again, and down.
                let level = |at: usize| {
                    let at = at % (24 * grid + 2 * rise);
                    let up = at.saturating_sub(12 * grid).min(rise);
                    let down = at.saturating_sub(24 * grid + rise).min(rise);
                    50 + 100 * (up - down) / rise
                };
                let found = [measured(size, |_, x| level(x)), measured(size, |y, _| level(y))];
                for sharpness in found.map(|quality| quality.sharpness) {
                    assert!((sharpness - expected).abs() < 0.011, "{size:?} {points}: {sharpness}");
                }
            }
        }
    }

    #[test]
    fn a_tear_steps_up_and_down_and_an_edge_along_a_row_only_one_way() {
        for (size, grid) in SIZES {
            // Of every four columns looked at two rise by 40, one falls by 40, one stays.
            let torn = measured(size, |y, x| match x / grid / 2 % 4 {
                _ if y < size[0] / 3 => 100,
                0 | 1 => 140,
                2 => 60,
                _ => 100,
            });
            assert!((torn.torn - 0.125f32.sqrt()).abs() < 0.01, "{size:?}: {torn:?}");
            let edge = measured(size, |y, _| if y < size[0] / 3 { 100 } else { 140 });
            assert_eq!(edge.torn, 0.0, "{size:?}");
            // The same steps spread over three rows.
            let soft = measured(size, |y, x| {
                let spread = 14 * (y + 1).saturating_sub(size[0] / 3).min(3);
                if x / grid / 2 % 2 == 0 { 100 + spread } else { 100 - spread }
            });
            assert_eq!(soft.torn, 0.0, "{size:?}");
        }
    }

    #[test]
    fn the_same_bytes_with_new_stamps_are_frozen_and_with_old_ones_repeated() {
        let (start, limits) = (Instant::now(), Limits::default());
        let mut monitor = Monitor::default();
        let mut at = |ms: u64, sec: i32, data: Vec<u8>| {
            let now = start + Duration::from_millis(ms);
            let quality = monitor.look(&image(data, sec), &limits, &thresholds(), now).unwrap();
            (quality.bits, quality.level)
        };
        assert_eq!(at(0, 1, boxes()), (0, 0));
        assert_eq!(at(900, 2, boxes()), (0, 0));
        assert_eq!(at(1000, 3, boxes()), (bit::FROZEN, 1));
        assert_eq!(at(1900, 3, boxes()), (0, 0));
        assert_eq!(at(3000, 4, boxes()), (bit::FROZEN, 2));
        let other = each(|y, x, v| if (y, x) == (60, 90) { 0 } else { v });
        assert_eq!(at(3100, 5, other), (0, 0));
        assert_eq!(at(4000, 6, boxes()), (0, 0));
    }

    #[test]
    fn every_encoding_is_looked_at_and_a_lying_image_is_not() {
        for (name, encoding) in Encoding::NAMES {
            for (height, width) in [(2, 2), (6, 4), (96, 160)] {
                let step = usize::try_from(encoding.row_bytes(width)).unwrap() + 3;
                let rows = usize::try_from(encoding.rows(height)).unwrap();
                let (encoding, step) = (name.into(), u32::try_from(step).unwrap());
                let data = vec![90; rows * step as usize];
                let mut image =
                    Image { height, width, encoding, step, data: data.into(), ..Image::default() };
                let (limits, now) = (Limits::default(), Instant::now());
                let look =
                    |image: &Image| Monitor::default().look(image, &limits, &thresholds(), now);
                assert!((look(&image).unwrap().mean - 90.0).abs() < 1e-3, "{name}");
                image.data.truncate(image.data.len() - 1);
                assert_eq!(look(&image), None, "{name}");
            }
        }
    }

    #[test]
    fn names_are_those_of_the_bits() {
        assert_eq!(names(0), "ok");
        assert_eq!(names(bit::DARK | bit::FROZEN), "dark, frozen");
    }
}
