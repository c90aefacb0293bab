//! The paste pool: cut-outs that stage 2 pastes anywhere into training pictures, in COCO's role.
//!
//! A cut-out is one to three abstract outlines ([`Shape`]) filled with abstract patterns ([`Texture`]),
//! without perspective or ground, but in a light, a haze and through a camera of its own: objects
//! without blur and noise would be told from the street by just that, and obstacles on the road have
//! both. The held-back pool ([`super::unknown`]) is made of things, and shares no family of shapes or
//! textures with it.

use super::canvas::{Canvas, Rgb, mix, scale};
use super::light::{Facing, Light};
use super::noise::{Rng, cell, cos, floor, ramp, sin, tile};
use super::weather::{self, Optics};
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
        let count = floor(rng.range(4.0, 10.0));
        let (points, deep) = (count as f32, rng.range(0.3, 0.6));
        let phases = [rng.unit(), rng.unit()];
        match self {
            Self::Star => polar(2 * count, |k, _| if k % 2 == 0 { 1.0 } else { deep }),
            Self::Cog => polar(8 * count, |k, _| if k % 8 < 4 { 1.0 } else { 0.5 + 0.5 * deep }),
            Self::Flower => polar(72, |_, turn| 1.0 - deep * (0.5 + 0.5 * sin(points * turn))),
            Self::Puddle => polar(60, |_, turn| {
                let lobes = 0.18 * sin(points * turn + phases[1]);
                0.62 + 0.2 * sin(2.0 * turn + phases[0]) + lobes
            }),
            Self::Splinter => polar(3 + count / 3, |_, _| rng.range(0.35, 1.0)),
            Self::Crescent => crescent(deep),
            Self::Heart => heart(),
            Self::Arrow => {
                let shaft = 0.5 * deep;
                let upper = [[-1.0, -shaft], [0.1, -shaft], [0.1, -0.8], [1.0, 0.0]];
                let lower = [[0.1, 0.8], [0.1, shaft], [-1.0, shaft]];
                upper.into_iter().chain(lower).collect()
            }
            Self::Cross => {
                let (a, b) = (0.5 * deep, 0.6 * deep);
                let quarter = [[a, -1.0], [a, -b], [0.9, -b]];
                let right =
                    quarter.into_iter().chain(quarter.map(|[x, y]| [x, -y]).into_iter().rev());
                let half: Vec<_> = right.collect();
                half.iter().copied().chain(half.iter().rev().map(|&[x, y]| [-x, y])).collect()
            }
            Self::Bolt => {
                let left = [[0.2, -1.0], [-0.6, 0.15], [-0.08, 0.15], [-0.3, 1.0]];
                let right = [[0.6, -0.2], [0.1, -0.2], [0.5, -1.0]];
                left.into_iter().chain(right).collect()
            }
        }
    }
}

/// `count` corners around the middle, each at the radius of its number and angle in turns.
fn polar(count: i32, mut radius: impl FnMut(i32, f32) -> f32) -> Vec<[f32; 2]> {
    let corner = |k: i32| {
        let turn = k as f32 / count as f32;
        let r = radius(k, turn);
        [r * cos(turn), r * sin(turn)]
    };
    (0..count).map(corner).collect()
}

/// Three quarters of a circle with a smaller, shifted one cut out.
fn crescent(deep: f32) -> Vec<[f32; 2]> {
    let turn = |k: i32| k as f32 / 40.0 + 0.125;
    let outer = (0..=30).map(|k| [cos(turn(k)), sin(turn(k))]);
    let inner = (0..=30).rev().map(|k| [deep * 0.6 + 0.8 * cos(turn(k)), 0.72 * sin(turn(k))]);
    outer.chain(inner).collect()
}

/// The well-known curve, scaled by 1 / 17.
fn heart() -> Vec<[f32; 2]> {
    let corner = |k: i32| {
        let t = k as f32 / 48.0;
        let s = sin(t);
        let y = 13.0 * cos(t) - 5.0 * cos(2.0 * t) - 2.0 * cos(3.0 * t) - cos(4.0 * t);
        [16.0 * s * s * s / 17.0, -y / 17.0]
    };
    (0..48).map(corner).collect()
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
    let light = Light::new(&mut rng);
    let optics = Optics::new(&mut rng, light.dusk);
    let sight =
        Sight { light: light.on(rng.pick(&FACINGS)), haze: (light.haze, rng.range(0.0, 0.3)) };
    let parts = rng.pick(&[1, 1, 2, 3]);
    for part in 0..parts {
        let share = if part == 0 { 1.0 } else { rng.range(0.35, 0.6) };
        let shift = [rng.range(-1.0, 1.0) * (1.0 - share), rng.range(-1.0, 1.0) * (1.0 - share)];
        figure(&mut canvas, &mut rng, &sight, (share, shift));
    }
    weather::develop(&mut canvas, &optics, &mut rng);
    let pixels = canvas.rgb.chunks_exact(3).zip(&canvas.labels);
    let rgba = pixels
        .flat_map(|(c, &label)| [c[0], c[1], c[2], if label == OOD { 255 } else { 0 }])
        .collect();
    Cutout { width, height, rgba }
}

/// The sides that are seen of things on a road.
const FACINGS: [Facing; 4] = [Facing::Near, Facing::Left, Facing::Right, Facing::Up];

/// How a cut-out is lit and how much haze lies before it.
struct Sight {
    light: Rgb,
    haze: (Rgb, f32),
}

/// A picture of plain grey with one to `MOST` cut-outs of a seed scattered over it: labels are [`OOD`]
/// on objects, 0 elsewhere. An object measures a fortieth to half of the shorter side, small ones more
/// often. Stage 2 pastes the objects of a picture as one group.
pub fn paste_picture(seed: u64, width: u32, height: u32) -> Rendered {
    let mut rng = Rng::new(seed, 91);
    let mut picture = Rendered {
        width,
        height,
        rgb: vec![128; 3 * width as usize * height as usize],
        labels: vec![0; width as usize * height as usize],
        stamp_ns: 0,
    };
    for _ in 0..=floor(MOST * rng.unit()) {
        let small = rng.unit();
        let share = 0.025 + 0.475 * small * small;
        let cutout = paste_object(rng.bits(), floor(share * width.min(height) as f32) as u32);
        put(&mut picture, &cutout, &mut rng);
    }
    picture
}

/// Cut-outs of a [`paste_picture`] at most.
const MOST: f32 = 6.0;

/// Lays a cut-out anywhere on a picture.
fn put(picture: &mut Rendered, cutout: &Cutout, rng: &mut Rng) {
    let mut within = |room: u32| floor(rng.unit() * (room + 1) as f32) as u32;
    let left = within(picture.width.saturating_sub(cutout.width));
    let top = within(picture.height.saturating_sub(cutout.height));
    for v in 0..cutout.height.min(picture.height) {
        for u in 0..cutout.width.min(picture.width) {
            let from = 4 * (v as usize * cutout.width as usize + u as usize);
            let to = (top + v) as usize * picture.width as usize + (left + u) as usize;
            if cutout.rgba[from + 3] != 0 {
                picture.rgb[3 * to..3 * to + 3].copy_from_slice(&cutout.rgba[from..from + 3]);
                picture.labels[to] = OOD;
            }
        }
    }
}

/// One outline with its pattern, turned at random, over a share of the canvas away from its middle.
///
/// The first one's pattern lies under all of the canvas, so that blur brings nothing else into its edge.
fn figure(canvas: &mut Canvas, rng: &mut Rng, sight: &Sight, (share, shift): (f32, [f32; 2])) {
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
        let own = scale(texture.at(at, density, &ink, seed), 1.0 - soft * at[1]);
        let lit = std::array::from_fn(|c| own[c] * sight.light[c]);
        (mix(lit, sight.haze.0, sight.haze.1), 1.0)
    };
    if share == 1.0 {
        let [right, bottom] = [2.0 * half[0], 2.0 * half[1]];
        canvas.shade([0.0, 0.0, right, bottom], None, paint);
    }
    canvas.polygon(&outline, Some(OOD), paint);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::Kind;
    use super::*;

    #[test]
    fn the_two_pools_share_no_family_and_the_paste_pool_is_large() {
        let held: BTreeSet<String> =
            Kind::BIG.iter().chain(&Kind::SMALL).map(|kind| format!("{kind:?}")).collect();
        let pasted: BTreeSet<String> =
            Shape::ALL.iter().map(|shape| format!("{shape:?}")).collect();
        assert_eq!((held.len(), pasted.len()), (12, 10));
        assert!(held.is_disjoint(&pasted));
        let held: BTreeSet<String> =
            Kind::BIG.iter().chain(&Kind::SMALL).map(|kind| kind.texture().to_owned()).collect();
        let pasted: BTreeSet<String> =
            Texture::ALL.iter().map(|texture| format!("{texture:?}").to_lowercase()).collect();
        assert!(held.is_disjoint(&pasted));
        let distinct: BTreeSet<Vec<u8>> =
            (0..250).map(|seed| paste_object(seed, 24).rgba).collect();
        assert_eq!(distinct.len(), 250);
    }

    #[test]
    fn a_paste_picture_has_objects_inside_and_grey_elsewhere() {
        for seed in 0..40 {
            let picture = paste_picture(seed, 120, 90);
            let marked = picture.labels.iter().filter(|&&label| label == OOD).count();
            assert!((6..8000).contains(&marked), "seed {seed}: {marked}");
            for (pixel, &label) in picture.rgb.chunks_exact(3).zip(&picture.labels) {
                assert!(label == OOD || (label == 0 && pixel == [128; 3]));
            }
        }
    }
}
