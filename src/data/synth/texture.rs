//! Patterns that cover the paste pool's cut-outs; none of them is a held-back obstacle's.

use super::canvas::{Rgb, mix, scale};
use super::noise::{cell, floor, nearest, ramp, sin, tile, within};

/// A family of patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texture {
    /// One colour, hardly uneven.
    Plain,
    /// Fine grain, as of stone or felt.
    Speckle,
    /// Dots on a ground.
    Dots,
    /// Rings around the middle.
    Rings,
    /// A run from one colour to another.
    Gradient,
    /// Veins of marble.
    Marble,
    /// A mosaic of random shards.
    Mosaic,
    /// Padded rhombs.
    Quilt,
    /// Marks of two colours scattered over a ground, as print.
    Print,
    /// A chessboard.
    Checks,
    /// Zigzags.
    Zigzag,
    /// Clouds of three colours.
    Clouds,
    /// Rows of scales.
    Scales,
}

impl Texture {
    /// Families that stage 2 trains on.
    pub const TRAINING: [Self; 9] = [
        Self::Plain,
        Self::Speckle,
        Self::Dots,
        Self::Rings,
        Self::Gradient,
        Self::Marble,
        Self::Mosaic,
        Self::Quilt,
        Self::Print,
    ];
    /// Families that stage 2 is judged on.
    pub const VALIDATION: [Self; 4] = [Self::Checks, Self::Zigzag, Self::Clouds, Self::Scales];

    /// Colour at `[a, b]`, where the object's radius is 1 and one motif measures `1 / density`.
    pub(crate) fn at(self, [a, b]: [f32; 2], density: f32, ink: &[Rgb; 3], seed: u64) -> Rgb {
        let noise = tile();
        let (x, y) = (a * density, b * density);
        let own = |x: f32| x - floor(x) as f32 - 0.5;
        match self {
            Self::Plain => scale(ink[0], 1.0 + 0.06 * noise.at(4.0 * x, 4.0 * y)),
            Self::Speckle => {
                let n = noise.at(19.0 * x, 19.0 * y);
                mix(scale(ink[0], 1.0 + 0.25 * n), ink[1], ramp(0.35, 0.5, n))
            }
            Self::Dots => {
                let (dx, dy) = (own(x), own(y));
                mix(ink[1], ink[0], ramp(0.08, 0.12, dx * dx + dy * dy))
            }
            Self::Rings => ink[(floor((x * x + y * y).sqrt() * 1.5) & 1) as usize],
            Self::Gradient => mix(ink[0], ink[1], (0.5 + 0.4 * a + 0.3 * b).clamp(0.0, 1.0)),
            Self::Marble => {
                mix(ink[0], ink[1], 0.5 + 0.5 * sin(0.5 * x + 0.8 * noise.at(2.0 * x, 2.0 * y)))
            }
            Self::Mosaic => {
                let warp = 0.7 * noise.at(3.0 * x, 3.0 * y);
                let shard = cell(floor(x + warp), floor(y - warp), seed);
                scale(ink[floor(2.99 * shard) as usize], 0.75 + 0.5 * shard)
            }
            Self::Quilt => {
                let (p, q) = (own(x + y).abs(), own(x - y).abs());
                scale(ink[0], 1.1 - 1.6 * (p * p + q * q))
            }
            Self::Print => {
                let mark = cell(floor(2.0 * x), floor(3.0 * y), seed);
                let inside = within(own(2.0 * x), 0.36, 0.1) * within(own(3.0 * y), 0.22, 0.1);
                let colour = ink[if mark < 0.3 { 1 } else { 2 }];
                mix(ink[0], colour, if mark < 0.55 { inside } else { 0.0 })
            }
            Self::Checks => ink[((floor(x) + floor(y)) & 1) as usize],
            Self::Zigzag => ink[(floor(y + 2.0 * own(x).abs()) & 1) as usize],
            Self::Clouds => {
                let n = noise.at(3.0 * x, 3.0 * y);
                mix(mix(ink[0], ink[1], ramp(-0.4, 0.2, n)), ink[2], ramp(0.1, 0.5, n))
            }
            Self::Scales => {
                let row = floor(y);
                let dx = nearest(x + 0.5 * (row & 1) as f32, 1.0);
                let dy = y - row as f32;
                mix(scale(ink[0], 0.7 + 0.4 * dy), ink[1], ramp(0.2, 0.3, dx * dx + dy * dy - 0.3))
            }
        }
    }
}
