//! The paste pool: cut-outs that stage 2 pastes anywhere into training pictures, in COCO's role.
//!
//! A cut-out is one to three abstract outlines ([`Shape`]) filled with abstract patterns ([`Texture`]),
//! drawn flat, without perspective, light or ground. The held-back pool ([`super::unknown`]) is made of
//! things, and shares no family of shapes or textures with it.

use super::canvas::{Canvas, Rgb, mix, scale};
use super::noise::{Rng, cell, cos, floor, ramp, sin, tile};
use super::{OOD, Rendered};

/// A family of outlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A star of 4 to 9 points.
    Star,
    /// A cog wheel.
    Cog,
    /// A sickle of the moon.
    Crescent,
    /// Petals around a centre.
    Flower,
    /// A heart.
    Heart,
    /// An arrow.
    Arrow,
    /// A cross with arms of unequal width.
    Cross,
    /// A puddle with lobes.
    Puddle,
    /// A bolt of lightning.
    Bolt,
    /// Splinters: a polygon of 3 to 6 random corners.
    Splinter,
}

impl Shape {
    /// All families.
    pub const ALL: [Self; 10] = [
        Self::Star,
        Self::Cog,
        Self::Crescent,
        Self::Flower,
        Self::Heart,
        Self::Arrow,
        Self::Cross,
        Self::Puddle,
        Self::Bolt,
        Self::Splinter,
    ];

    /// Corners of one outline within the unit circle.
    fn outline(self, rng: &mut Rng) -> Vec<[f32; 2]> {
        let points = floor(rng.range(4.0, 10.0)) as f32;
        let deep = rng.range(0.3, 0.6);
        let phases = [rng.unit(), rng.unit()];
        let polar = |count: i32, radius: &dyn Fn(f32) -> f32| -> Vec<[f32; 2]> {
            let at = |k: i32| k as f32 / count as f32;
            (0..count).map(|k| [radius(at(k)) * cos(at(k)), radius(at(k)) * sin(at(k))]).collect()
        };
        match self {
            Self::Star => polar(2 * points as i32, &|t| {
                if floor(t * 2.0 * points + 0.5) & 1 == 0 { 1.0 } else { deep }
            }),
            Self::Cog => polar(16 * points as i32, &|t| {
                if floor(2.0 * t * points) & 1 == 0 { 1.0 } else { 0.5 + 0.5 * deep }
            }),
            Self::Flower => polar(72, &|t| 1.0 - deep * (0.5 + 0.5 * sin(points * t))),
            Self::Puddle => polar(60, &|t| {
                0.62 + 0.2 * sin(2.0 * t + phases[0]) + 0.18 * sin(points * t + phases[1])
            }),
            Self::Splinter => {
                let corners = 3 + floor(points / 3.0);
                let radii: Vec<f32> = (0..corners).map(|_| rng.range(0.35, 1.0)).collect();
                polar(corners, &|t| radii[floor(t * corners as f32 + 0.5) as usize % radii.len()])
            }
            Self::Crescent => {
                let outer =
                    (0..=30).map(|k| [cos(k as f32 / 40.0 + 0.125), sin(k as f32 / 40.0 + 0.125)]);
                let inner = (0..=30).rev().map(|k| {
                    let t = k as f32 / 40.0 + 0.125;
                    [deep * 0.6 + 0.8 * cos(t), 0.72 * sin(t)]
                });
                outer.chain(inner).collect()
            }
            Self::Heart => (0..48)
                .map(|k| {
                    let s = sin(k as f32 / 48.0);
                    let t = k as f32 / 48.0;
                    let y = 13.0 * cos(t) - 5.0 * cos(2.0 * t) - 2.0 * cos(3.0 * t) - cos(4.0 * t);
                    [16.0 * s * s * s / 17.0, -y / 17.0]
                })
                .collect(),
            Self::Arrow => vec![
                [-1.0, -0.5 * deep],
                [0.1, -0.5 * deep],
                [0.1, -0.8],
                [1.0, 0.0],
                [0.1, 0.8],
                [0.1, 0.5 * deep],
                [-1.0, 0.5 * deep],
            ],
            Self::Cross => {
                let (a, b) = (0.5 * deep, 0.6 * deep);
                vec![
                    [-a, -1.0],
                    [a, -1.0],
                    [a, -b],
                    [0.9, -b],
                    [0.9, b],
                    [a, b],
                    [a, 1.0],
                    [-a, 1.0],
                    [-a, b],
                    [-0.9, b],
                    [-0.9, -b],
                    [-a, -b],
                ]
            }
            Self::Bolt => vec![
                [0.2, -1.0],
                [-0.6, 0.15],
                [-0.08, 0.15],
                [-0.3, 1.0],
                [0.6, -0.2],
                [0.1, -0.2],
                [0.5, -1.0],
            ],
        }
    }
}

/// A family of patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texture {
    /// A chessboard.
    Checks,
    /// Dots on a ground.
    Dots,
    /// Rings around the middle.
    Rings,
    /// A run from one colour to another.
    Gradient,
    /// Veins of marble.
    Marble,
    /// Zigzags.
    Zigzag,
    /// A mosaic of random shards.
    Mosaic,
    /// Clouds of three colours.
    Clouds,
}

impl Texture {
    /// All families.
    pub const ALL: [Self; 8] = [
        Self::Checks,
        Self::Dots,
        Self::Rings,
        Self::Gradient,
        Self::Marble,
        Self::Zigzag,
        Self::Mosaic,
        Self::Clouds,
    ];

    /// Colour at `[a, b]`, where the outline's radius is 1 and one motif measures `1 / density`.
    fn at(self, [a, b]: [f32; 2], density: f32, ink: &[Rgb; 3], seed: u64) -> Rgb {
        let noise = tile();
        let (x, y) = (a * density, b * density);
        match self {
            Self::Checks => ink[((floor(x) + floor(y)) & 1) as usize],
            Self::Dots => {
                let (dx, dy) = (x - floor(x) as f32 - 0.5, y - floor(y) as f32 - 0.5);
                mix(ink[1], ink[0], ramp(0.08, 0.12, dx * dx + dy * dy))
            }
            Self::Rings => ink[(floor((x * x + y * y).sqrt() * 1.5) & 1) as usize],
            Self::Gradient => mix(ink[0], ink[1], (0.5 + 0.4 * a + 0.3 * b).clamp(0.0, 1.0)),
            Self::Marble => {
                mix(ink[0], ink[1], 0.5 + 0.5 * sin(0.5 * x + 0.8 * noise.at(2.0 * x, 2.0 * y)))
            }
            Self::Zigzag => ink[(floor(y + 2.0 * (x - floor(x) as f32 - 0.5).abs()) & 1) as usize],
            Self::Mosaic => {
                let warp = 0.7 * noise.at(3.0 * x, 3.0 * y);
                let shard = cell(floor(x + warp), floor(y - warp), seed);
                scale(ink[floor(2.99 * shard) as usize], 0.75 + 0.5 * shard)
            }
            Self::Clouds => {
                let n = noise.at(3.0 * x, 3.0 * y);
                mix(mix(ink[0], ink[1], ramp(-0.4, 0.2, n)), ink[2], ramp(0.1, 0.5, n))
            }
        }
    }
}

/// A cut-out object: its picture and which pixels belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cutout {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `(h, w, 4)`: red, green, blue, and 255 on the object, 0 elsewhere.
    pub rgba: Vec<u8>,
}

/// The cut-out of a seed, about `size` pixels (at least 8) in its longer direction.
pub fn paste_object(seed: u64, size: u32) -> Cutout {
    let mut rng = Rng::new(seed, 90);
    let size = size.clamp(8, 4096);
    let stretch = rng.range(0.5, 1.0);
    let short = floor(size as f32 * stretch).max(8) as u32;
    let (width, height) = if rng.chance(0.5) { (size, short) } else { (short, size) };
    let mut canvas = Canvas::new(width, height, 0);
    let parts = rng.pick(&[1, 1, 2, 3]);
    for part in 0..parts {
        let share = if part == 0 { 1.0 } else { rng.range(0.35, 0.6) };
        let shift = [rng.range(-1.0, 1.0) * (1.0 - share), rng.range(-1.0, 1.0) * (1.0 - share)];
        figure(&mut canvas, &mut rng, share, shift);
    }
    let pixels = canvas.rgb.chunks_exact(3).zip(&canvas.labels);
    let rgba = pixels
        .flat_map(|(c, &label)| [c[0], c[1], c[2], if label == OOD { 255 } else { 0 }])
        .collect();
    Cutout { width, height, rgba }
}

/// A picture of plain grey with the cut-out of a seed somewhere on it: labels are [`OOD`] on the
/// object, 0 elsewhere. The object measures a twentieth to half of the shorter side, small ones more
/// often.
pub fn paste_picture(seed: u64, width: u32, height: u32) -> Rendered {
    let mut rng = Rng::new(seed, 91);
    let small = rng.unit();
    let share = 0.05 + 0.45 * small * small;
    let cutout = paste_object(seed, floor(share * width.min(height) as f32) as u32);
    let mut within = |room: u32| floor(rng.unit() * (room + 1) as f32) as u32;
    let left = within(width.saturating_sub(cutout.width));
    let top = within(height.saturating_sub(cutout.height));
    let mut rgb = vec![128; 3 * width as usize * height as usize];
    let mut labels = vec![0; width as usize * height as usize];
    for v in 0..cutout.height.min(height) {
        for u in 0..cutout.width.min(width) {
            let from = 4 * (v as usize * cutout.width as usize + u as usize);
            let to = (top + v) as usize * width as usize + (left + u) as usize;
            if cutout.rgba[from + 3] != 0 {
                rgb[3 * to..3 * to + 3].copy_from_slice(&cutout.rgba[from..from + 3]);
                labels[to] = OOD;
            }
        }
    }
    Rendered { width, height, rgb, labels, stamp_ns: 0 }
}

/// One outline with its pattern, turned at random, over `share` of the canvas.
fn figure(canvas: &mut Canvas, rng: &mut Rng, share: f32, shift: [f32; 2]) {
    let shape = rng.pick(&Shape::ALL);
    let texture = rng.pick(&Texture::ALL);
    // From grey to garish: real objects are mostly muted.
    let vivid = rng.unit();
    let ink: [Rgb; 3] = std::array::from_fn(|_| {
        let colour: Rgb = std::array::from_fn(|_| rng.range(8.0, 248.0));
        mix([rng.range(16.0, 232.0); 3], colour, vivid)
    });
    let (density, seed, turn) = (rng.range(1.5, 6.0), rng.bits(), rng.unit());
    let (c, s) = (cos(turn), sin(turn));
    let half = [canvas.width as f32 / 2.0, canvas.height as f32 / 2.0];
    let outline: Vec<[f32; 2]> = shape
        .outline(rng)
        .into_iter()
        .map(|[x, y]| {
            let (a, b) = (c * x - s * y, s * x + c * y);
            [half[0] * (1.0 + shift[0] + share * a), half[1] * (1.0 + shift[1] + share * b)]
        })
        .collect();
    let soft = rng.range(0.0, 0.3);
    let paint = |u: f32, v: f32| {
        let at = [(u / half[0] - 1.0 - shift[0]) / share, (v / half[1] - 1.0 - shift[1]) / share];
        (scale(texture.at(at, density, &ink, seed), 1.0 - soft * at[1]), 1.0)
    };
    // Any pixel that the outline touches takes the object's colour in full, so that no black of the
    // empty canvas shines through at the edge; the label follows from half coverage on.
    for _ in 0..4 {
        canvas.polygon(&outline, None, paint);
    }
    canvas.polygon(&outline, Some(OOD), paint);
}
