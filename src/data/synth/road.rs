//! The ground, row by row: road, pavements, soil; lane marks, patches and tracks on it.

use super::camera::View;
use super::canvas::{Rgb, mix, scale};
use super::id;
use super::light::Facing;
use super::noise::{Rng, narrow, nearest, ramp, tile, within};
use super::painter::{Painter, Spot};
use super::street::Street;

/// The noise repeats after this many metres, so the ground may scroll for ever.
const LAP: f64 = 4096.0;

/// How a band of the ground is laid.
#[derive(Clone, Copy, PartialEq)]
enum Laid {
    Asphalt,
    /// Slabs of this size, metres.
    Slabs(f32),
    Soil,
}

/// A strip of ground up to `right` metres.
struct Band {
    right: f32,
    colour: Rgb,
    laid: Laid,
    label: u8,
}

/// Paints the ground from the horizon down.
pub(crate) fn ground(p: &mut Painter<'_>) {
    let bands = bands(p.street);
    let first = super::noise::floor(p.view.horizon + 1.0).max(0);
    for v in first..p.canvas.height {
        row(p, &bands, v);
    }
}

/// The bands of a street, from left to right; the last one has no end.
fn bands(street: &Street) -> Vec<Band> {
    let slabs = Laid::Slabs(0.5 + 0.1 * street.lane);
    let kerb = scale(street.paving, 1.18);
    let road = if street.cobbled { Laid::Slabs(0.22) } else { Laid::Asphalt };
    let soil = |right| Band { right, colour: street.soil, laid: Laid::Soil, label: id::TERRAIN };
    let paved = |right, colour| Band { right, colour, laid: slabs, label: id::SIDEWALK };
    let (left, right) = (-street.edge(-1.0), street.edge(1.0));
    let mut bands = vec![soil(left - street.walk[0])];
    if street.walk[0] > 0.0 {
        bands.extend([paved(left - 0.16, street.paving), paved(left, kerb)]);
    }
    bands.push(Band { right, colour: street.asphalt, laid: road, label: id::ROAD });
    if street.walk[1] > 0.0 {
        let outer = right + street.walk[1];
        bands.extend([paved(right + 0.16, kerb), paved(outer, street.paving)]);
    }
    bands.push(soil(f32::INFINITY));
    bands
}

/// Paints one row of the ground.
fn row(p: &mut Painter<'_>, bands: &[Band], v: i32) {
    let (view, noise) = (p.view, tile());
    let z = view.ground(v as f32 + 0.5);
    let metres = z / view.focal; // per column
    let depth = z * metres / view.eye; // per row
    let s = along(view) + z;
    let centre = view.project([0.0, 0.0, z.min(400.0)])[0];
    let fine = (0.05 / depth).min(1.0);
    let coarse = (1.2 / depth).min(1.0);
    let gloss = 0.34 * p.light.rain;
    let mut u = 0;
    for (index, band) in bands.iter().enumerate() {
        let end = centre + band.right / metres;
        let stop = super::noise::floor(end).clamp(0, p.canvas.width);
        let lit = p.light.seen(band.colour, Facing::Up, z);
        let base = if band.laid == Laid::Soil { lit } else { mix(lit, p.light.haze, gloss) };
        let (grain, patch) = if band.laid == Laid::Soil { (0.5, 0.24) } else { (0.24, 0.13) };
        let clear = 1.0 - p.light.haze_at(z);
        let texture = |x: f32| {
            let grain = grain * fine * noise.at(18.0 * x, 18.0 * s);
            let patch = patch * coarse * noise.at(1.7 * x + 40.0, 0.9 * s);
            1.0 + clear * (grain + patch + laid(band.laid, p.street, [x, s], [metres, depth]))
        };
        while u < stop {
            let x = (u as f32 + 0.5 - centre) * metres;
            p.canvas.blend(u, v, (scale(base, texture(x)), 1.0), Some(band.label));
            u += 1;
        }
        // The pixel that the band shares with its right neighbour.
        if u < p.canvas.width
            && end > u as f32
            && let Some(next) = bands.get(index + 1)
        {
            let share = end - u as f32;
            let colour = mix(p.light.seen(next.colour, Facing::Up, z), base, share);
            let label = if share >= 0.5 { band.label } else { next.label };
            p.canvas.blend(u, v, (colour, 1.0), Some(label));
            u += 1;
        }
    }
}

/// Metres travelled, within one lap of the noise.
fn along(view: &View) -> f32 {
    narrow(view.travelled - (view.travelled / LAP).floor() * LAP)
}

/// Brightness that the laying adds at `[x, s]`, for a pixel of size `[across, along]`.
fn laid(laid: Laid, street: &Street, [x, s]: [f32; 2], [across, depth]: [f32; 2]) -> f32 {
    match laid {
        Laid::Asphalt => {
            // Two lanes of wheels per lane have polished the road.
            let wheel = (nearest(x - street.lane / 2.0, street.lane).abs() - 0.8).abs();
            -0.07 * ramp(0.55, 0.0, wheel)
        }
        Laid::Slabs(size) => {
            let shift = if super::noise::floor(s / size) & 1 == 0 { 0.0 } else { size / 2.0 };
            let joint = within(nearest(x + shift, size), 0.02, across.max(0.001)).max(within(
                nearest(s, size),
                0.02,
                depth.max(0.001),
            ));
            -0.3 * joint
        }
        Laid::Soil => 0.0,
    }
}

/// Paints lane marks, tram tracks and edge lines.
pub(crate) fn marks(p: &mut Painter<'_>) {
    let street = p.street;
    let lanes = street.lanes.map(|n| n * street.lane);
    let white = [226.0, 226.0, 222.0];
    let centre = if street.yellow { [226.0, 178.0, 52.0] } else { white };
    if street.lanes[1] > 1.0 {
        line(p, -0.12, None, centre);
        line(p, 0.12, None, centre);
        line(p, street.lane, Some(3.0), white);
        line(p, -street.lane, Some(3.0), white);
    } else {
        line(p, 0.0, Some(4.0), centre);
    }
    if street.parking > 0.0 || street.walk[1] == 0.0 {
        line(p, lanes[1] - 0.15, None, white);
        line(p, 0.15 - lanes[0], None, white);
    }
    if street.tram {
        for rail in [-0.72, 0.72] {
            strip(p, rail - street.lane / 2.0, 0.035, [NEAREST, 90.0], [96.0, 92.0, 92.0]);
        }
    }
}

/// Where marks begin, metres ahead.
const NEAREST: f32 = 1.5;

/// A line along the road, dashed when `dash` gives the length of a dash.
fn line(p: &mut Painter<'_>, x: f32, dash: Option<f32>, colour: Rgb) {
    let Some(dash) = dash else {
        strip(p, x, 0.07, [NEAREST, 110.0], colour);
        return;
    };
    let period = f64::from(3.0 * dash);
    let start = narrow((p.view.travelled / period).floor() * period - p.view.travelled);
    let mut z = start;
    while z < 100.0 {
        if z + dash > NEAREST {
            strip(p, x, 0.07, [z.max(NEAREST), z + dash], colour);
        }
        z += 3.0 * dash;
    }
}

/// A painted strip along the road, half as wide as `half`, worn by traffic.
fn strip(p: &mut Painter<'_>, x: f32, half: f32, [from, to]: [f32; 2], colour: Rgb) {
    // Knots in equal steps of 1 / z follow a bend on the picture.
    let knots = if to - from > 8.0 { 16 } else { 1 };
    let depth = |k: i32| {
        let t = k as f32 / knots as f32;
        1.0 / ((1.0 - t) / from + t / to)
    };
    let left = (0..=knots).map(|k| [x - half, 0.0, depth(k)]);
    let right = (0..=knots).rev().map(|k| [x + half, 0.0, depth(k)]);
    let points: Vec<_> = left.chain(right).collect();
    let noise = tile();
    let worn = |a: f32, y: f32| scale(colour, 1.0 - 0.14 * noise.at(5.0 * a, 5.0 * y).abs());
    p.surface(&points, Facing::Up, id::ROAD, worn);
}

/// A patch of newer asphalt, or a manhole cover.
pub(crate) fn patch(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(spot.seed, 1);
    let (x, z) = (spot.x, spot.z);
    let dark = scale(p.street.asphalt, rng.range(0.8, 0.92));
    let points: Vec<_> = if rng.chance(0.4) {
        let round = super::painter::ellipse([x, z, 0.0], [0.35, 0.35]);
        round.iter().map(|&[x, z, _]| [x, 0.0, z]).collect()
    } else {
        let (w, l) = (rng.range(0.3, 1.2), rng.range(1.0, 5.0));
        vec![[x - w, 0.0, z], [x + w, 0.0, z], [x + w, 0.0, z + l], [x - w, 0.0, z + l]]
    };
    p.face(&points, Facing::Up, id::ROAD, dark);
}

/// A zebra crossing with a stop line.
pub(crate) fn crossing(p: &mut Painter<'_>, spot: &Spot) {
    let (left, right) = (-p.street.edge(-1.0), p.street.edge(1.0));
    let bar = |a: f32, b: f32, z: f32, l: f32| {
        [[a, 0.0, z], [b, 0.0, z], [b, 0.0, z + l], [a, 0.0, z + l]]
    };
    let white = [222.0, 222.0, 218.0];
    p.face(&bar(0.0, right, spot.z - 2.0, 0.4), Facing::Up, id::ROAD, white);
    let mut x = left + 0.4;
    while x + 0.5 < right {
        p.face(&bar(x, x + 0.5, spot.z, 3.0), Facing::Up, id::ROAD, white);
        x += 1.0;
    }
}
