//! Numbers that look random: a seeded generator, one tile of fractal noise, and the curves that the
//! painters use.
//!
//! Everything here and in the painters is made of `+ - * /`, `sqrt` and `floor`, which IEEE 754
//! rounds exactly, and of no libm function: the same seed gives the same bytes on every machine.

use std::sync::LazyLock;

/// SplitMix64 (Steele et al., 2014): one stream of numbers per seed and purpose.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The numbers of `seed` for one purpose; other `stream`s of the same seed are independent.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self(hash(seed, stream))
    }

    /// The next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scramble(self.0)
    }

    /// Uniform in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Uniform in `[low, high)`.
    pub(crate) fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// True with probability `p`.
    pub(crate) fn chance(&mut self, p: f32) -> bool {
        self.unit() < p
    }

    /// One of `choices`, which must not be empty.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[floor(self.unit() * choices.len() as f32) as usize]
    }

    /// A colour of `choices`, each channel moved by up to `spread`.
    pub(crate) fn colour(&mut self, choices: &[[f32; 3]], spread: f32) -> [f32; 3] {
        let base = self.pick(choices);
        base.map(|channel| (channel + self.range(-spread, spread)).clamp(4.0, 250.0))
    }
}

/// A seed of its own for each `(seed, key)`.
pub(crate) fn hash(seed: u64, key: u64) -> u64 {
    scramble(seed.wrapping_add(scramble(key.wrapping_add(0x9e37_79b9_7f4a_7c15))))
}

fn scramble(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Uniform in `[0, 1)` from the cell `(i, j)` of a pattern.
pub(crate) fn cell(i: i32, j: i32, seed: u64) -> f32 {
    let key = (i as u32 as u64) << 32 | j as u32 as u64;
    (hash(seed, key) >> 40) as f32 / (1u32 << 24) as f32
}

/// Side of the noise tile; the noise repeats after this many units.
const SIZE: usize = 256;

static TILE: LazyLock<Tile> = LazyLock::new(Tile::new);

/// The noise tile that all painters share.
pub(crate) fn tile() -> &'static Tile {
    &TILE
}

/// Fractal value noise in `[-1, 1]`, periodic, features from 1 to 16 units.
pub(crate) struct Tile(Box<[f32; SIZE * SIZE]>);

impl Tile {
    fn new() -> Self {
        let mut values = Box::new([0.0f32; SIZE * SIZE]);
        for octave in 0..5 {
            let step = 16 >> octave; // units between them
            let weight = [0.8, 0.6, 0.5, 0.42, 0.38][octave as usize];
            let period = 16 << octave; // lattice points on a side
            let at = |i: i32, j: i32| {
                cell(i.rem_euclid(period), j.rem_euclid(period), 77 + octave as u64) - 0.5
            };
            for (index, value) in values.iter_mut().enumerate() {
                let (y, x) = ((index / SIZE) as f32, (index % SIZE) as f32);
                let (fx, fy) = (x / step as f32, y / step as f32);
                let (i, j) = (floor(fx), floor(fy));
                let (tx, ty) = (ramp(0.0, 1.0, fx - i as f32), ramp(0.0, 1.0, fy - j as f32));
                let top = at(i, j) + (at(i + 1, j) - at(i, j)) * tx;
                let low = at(i, j + 1) + (at(i + 1, j + 1) - at(i, j + 1)) * tx;
                *value += weight * (top + (low - top) * ty);
            }
        }
        for value in values.iter_mut() {
            *value = value.clamp(-1.0, 1.0);
        }
        Self(values)
    }

    /// The noise at `(x, y)`, bilinear between units.
    #[inline]
    pub(crate) fn at(&self, x: f32, y: f32) -> f32 {
        let (i, j) = (floor(x), floor(y));
        let (tx, ty) = (x - i as f32, y - j as f32);
        let value = |i: i32, j: i32| self.0[(((j & 255) << 8) | (i & 255)) as usize];
        let (i1, j1) = (i.wrapping_add(1), j.wrapping_add(1));
        let (a, b, c, d) = (value(i, j), value(i1, j), value(i, j1), value(i1, j1));
        let (top, low) = (a + (b - a) * tx, c + (d - c) * tx);
        top + (low - top) * ty
    }
}

/// The largest integer not above `x`; saturates.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and pictures are far smaller")]
pub(crate) fn floor(x: f32) -> i32 {
    let cut = x as i32;
    if x < cut as f32 { cut - 1 } else { cut }
}

/// The nearest 8-bit value.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "`as` saturates at 0 and 255")]
pub(crate) fn byte(x: f32) -> u8 {
    (x + 0.5) as u8
}

/// A distance near the camera in single precision.
#[expect(clippy::cast_possible_truncation, reason = "rounded on purpose: a few hundred metres")]
pub(crate) fn narrow(x: f64) -> f32 {
    x as f32
}

/// 0 at `from`, 1 at `to`, smooth in between.
#[inline]
pub(crate) fn ramp(from: f32, to: f32, x: f32) -> f32 {
    let t = ((x - from) / (to - from)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Sine of an angle in turns, to 0.001: two parabolas, no libm.
pub(crate) fn sin(turns: f32) -> f32 {
    let t = turns - floor(turns + 0.5) as f32;
    let y = 8.0 * t - 16.0 * t * t.abs();
    0.225 * (y * y.abs() - y) + y
}

/// Cosine of an angle in turns, to 0.001.
pub(crate) fn cos(turns: f32) -> f32 {
    sin(turns + 0.25)
}

/// Share of a pixel of size `footprint` at `x` that lies within `half` of a line at 0.
#[inline]
pub(crate) fn within(x: f32, half: f32, footprint: f32) -> f32 {
    ((half - x.abs()) / footprint + 0.5).clamp(0.0, 1.0).min(2.0 * half / footprint)
}

/// Signed distance of `x` to the nearest multiple of `period`.
#[inline]
pub(crate) fn nearest(x: f32, period: f32) -> f32 {
    x - period * floor(x / period + 0.5) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sine_and_cosine_stay_within_a_thousandth_of_the_true_ones() {
        for step in -300..300 {
            let turns = step as f32 / 100.0;
            let angle = f64::from(turns) * std::f64::consts::TAU;
            assert!((f64::from(sin(turns)) - angle.sin()).abs() < 1.2e-3, "{turns}");
            assert!((f64::from(cos(turns)) - angle.cos()).abs() < 1.2e-3, "{turns}");
        }
    }

    #[test]
    fn the_noise_tile_repeats_without_a_seam_and_fills_its_range() {
        let tile = tile();
        let size = SIZE as f32;
        assert!((tile.at(3.25, 7.5) - tile.at(3.25 + size, 7.5 - size)).abs() < 1e-4);
        assert!((tile.at(255.99, 9.0) - tile.at(256.01, 9.0)).abs() < 0.02);
        let (low, high) =
            tile.0.iter().fold((0f32, 0f32), |(low, high), &v| (low.min(v), high.max(v)));
        assert!(low < -0.7 && high > 0.7, "{low} {high}");
    }

    #[test]
    fn floor_goes_down_for_negative_numbers_too() {
        assert_eq!([floor(-1.0), floor(-0.5), floor(0.0), floor(1.9)], [-1, -1, 0, 1]);
    }
}
