//! Trees, bushes and hedges.

use super::canvas::{Rgb, scale};
use super::id;
use super::light::Facing;
use super::noise::{Rng, ramp, tile};
use super::painter::{Painter, Panel, Spot};

/// A plant's own green.
fn green(p: &Painter<'_>, rng: &mut Rng) -> Rgb {
    let k = rng.range(0.8, 1.2);
    let warm = rng.range(-10.0, 16.0);
    let [r, g, b] = scale(p.street.leaves, k);
    [r + warm, g, b]
}

/// A tree: round crown, poplar or conifer, with its trunk and dappled shadow.
pub(crate) fn tree(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(spot.seed, 1);
    let (x, z) = (spot.x, spot.z);
    let colour = green(p, &mut rng);
    let height = rng.range(4.5, 10.0);
    let kind = rng.unit();
    let girth = if kind < 0.65 { rng.range(0.3, 0.42) } else { rng.range(0.14, 0.2) } * height;
    let trunk = [92.0, 76.0, 60.0];
    let r = 0.022 * height;
    let stem = [
        [x - r, 0.0, z],
        [x + r, 0.0, z],
        [x + 0.7 * r, 0.6 * height, z],
        [x - 0.7 * r, 0.6 * height, z],
    ];
    p.face(&stem, Facing::Near, id::VEGETATION, trunk);
    if kind < 0.8 {
        let count = if kind < 0.65 { 5 } else { 4 };
        for k in 0..count {
            let up = (k as f32 + 0.5) / count as f32;
            let wide = girth * (1.0 - 0.7 * (up - 0.4).abs());
            let shift = rng.range(-0.45, 0.45) * girth;
            let centre = [x + shift, height * (0.38 + 0.52 * up), z];
            let puff = scale(colour, 0.86 + 0.2 * up);
            p.blob(centre, [wide * 0.8, height * 0.2], (puff, id::VEGETATION, 0.42));
        }
    } else {
        for k in 0..6 {
            let up = k as f32 / 6.0;
            let centre = [x, height * (0.2 + 0.72 * up), z];
            let tier = scale(colour, 0.7 + 0.2 * up);
            p.blob(centre, [1.5 * girth * (1.08 - up), height * 0.11], (tier, id::VEGETATION, 0.4));
        }
    }
}

/// The shadow that the sun throws beside a tree.
pub(crate) fn tree_shadow(p: &mut Painter<'_>, spot: &Spot) {
    let [right, up, ahead] = p.light.sun;
    let height = 5.0;
    let reach = (height / up).min(14.0) * 0.7;
    let strength = 0.2 + 0.32 * p.light.strength;
    let centre = [spot.x - right * reach, spot.z - ahead * reach];
    p.shadow(centre, [2.6, 2.6 + 0.3 * reach], strength, true);
}

/// A bush.
pub(crate) fn bush(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(spot.seed, 1);
    let colour = green(p, &mut rng);
    let size = rng.range(0.5, 1.3);
    for k in 0..3 {
        let centre = [spot.x + (k as f32 - 1.0) * 0.7 * size, size * rng.range(0.4, 0.6), spot.z];
        p.blob(centre, [0.75 * size, 0.6 * size], (colour, id::VEGETATION, 0.38));
    }
}

/// A hedge over `spot.length`.
pub(crate) fn hedge(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(p.street.seed, 70);
    let colour = green(p, &mut rng);
    let height = rng.range(0.9, 1.7);
    let noise = tile();
    let facing = if spot.side < 0.0 { Facing::Right } else { Facing::Left };
    let to = [spot.x, spot.z + spot.length];
    let panel = Panel {
        from: [spot.x, spot.z],
        to,
        bottom: 0.0,
        top: height + 0.25,
        facing,
        label: id::VEGETATION,
    };
    p.panel(&panel, |a, y, [_, step]| {
        let leaf = noise.at(20.0 * a, 20.0 * y);
        let edge = height + 0.22 * noise.at(2.0 * a, 3.0) - y;
        let k = 0.8 + 0.5 * leaf + 0.25 * ramp(0.0, height, y);
        (scale(colour, k), (edge / step.max(0.02) + 0.5).clamp(0.0, 1.0))
    });
}
