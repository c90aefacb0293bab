//! Sky, clouds, and what stands on the horizon.

use super::canvas::{Rgb, mix, scale};
use super::id;
use super::noise::{Rng, cell, cos, floor, ramp, sin, tile};
use super::painter::Painter;
use super::street::Place;

/// Paints the sky down to the horizon.
pub(crate) fn sky(p: &mut Painter<'_>, seed: u64) {
    let (view, light, noise) = (p.view, p.light, tile());
    let mut rng = Rng::new(seed, 3);
    let drift = [rng.range(0.0, 200.0), rng.range(0.0, 200.0)];
    let shade = mix(scale(light.haze, 0.74), light.zenith, 0.3);
    let white = if light.strength > 0.0 { [250.0, 248.0, 244.0] } else { scale(light.haze, 1.05) };
    let bounds = [0.0, 0.0, p.canvas.width as f32, view.horizon + 2.0];
    p.canvas.shade(bounds, Some(id::SKY), |u, v| {
        let up = ((view.horizon - v) / view.focal).max(0.0);
        let blue = mix(light.haze, light.zenith, ramp(0.0, 0.55, up));
        // Clouds lie on a plane overhead: nearer the horizon they crowd together.
        let near = 1.0 / (up + 0.09);
        let (x, y) =
            (2.6 * (u - view.middle) / view.focal * near + drift[0], 3.2 * near + drift[1]);
        let body = noise.at(x, y) + 0.45 * noise.at(3.1 * x, 3.1 * y + 9.0);
        let cover = ramp(0.42 - 0.95 * light.clouds, 0.85 - 0.95 * light.clouds, body);
        if cover <= 0.0 {
            return (blue, 1.0);
        }
        let cloud = mix(white, shade, ramp(0.0, 0.9, noise.at(x + 1.2, y - 1.6) + 0.3));
        (mix(blue, cloud, 0.9 * cover * ramp(0.0, 0.06, up)), 1.0)
    });
    sun(p);
}

/// A glow around the sun when it stands in front of us.
fn sun(p: &mut Painter<'_>) {
    let [x, y, z] = p.light.sun;
    if p.light.strength == 0.0 || z < 0.2 {
        return;
    }
    let (u0, v0) = (p.view.middle + p.view.focal * x / z, p.view.horizon - p.view.focal * y / z);
    let r = 0.5 * p.view.focal;
    let bottom = (v0 + r).min(p.view.horizon);
    p.canvas.shade([u0 - r, v0 - r, u0 + r, bottom], None, |u, v| {
        let q = ((u - u0) * (u - u0) + (v - v0) * (v - v0)) / (r * r);
        ([255.0, 248.0, 228.0], (1.0 - q).max(0.0) * (0.5 / (1.0 + 60.0 * q) + 0.12))
    });
}

/// Paints hills, a line of trees, or a town's skyline.
pub(crate) fn skyline(p: &mut Painter<'_>, seed: u64, heading: f32) {
    let mut rng = Rng::new(seed, 4);
    let hills = mix(scale(p.street.leaves, 1.1), p.light.haze, 0.62);
    let (start, height) = (rng.range(0.0, 200.0), rng.range(0.02, 0.08));
    let factor = p.light.on(super::light::Facing::Near);
    let lit = |colour: Rgb| -> Rgb { std::array::from_fn(|c| colour[c] * factor[c]) };
    if p.street.place != Place::Town || rng.chance(0.4) {
        let noise = tile();
        layer(p, id::VEGETATION, lit(hills), |angle| {
            height * (0.6 + noise.at(14.0 * angle + start, 5.0)) + 0.008
        });
    } else {
        let town = mix([120.0, 116.0, 112.0], p.light.haze, 0.5);
        layer(p, id::BUILDING, lit(town), |angle| {
            0.02 + 0.07 * cell(floor(22.0 * (angle + heading)), 3, seed)
        });
    }
    let noise = tile();
    let trees = mix(p.street.leaves, p.light.haze, 0.32);
    layer(p, id::VEGETATION, lit(trees), |angle| {
        0.012
            + 0.012 * noise.at(60.0 * (angle + heading), 2.0)
            + 0.006 * sin(3.0 * angle) * cos(angle)
    });
}

/// A band on the horizon whose height over the focal length is `height(angle)`.
fn layer(p: &mut Painter<'_>, label: u8, colour: Rgb, height: impl Fn(f32) -> f32) {
    let (view, noise) = (p.view, tile());
    for u in 0..p.canvas.width {
        let angle = (u as f32 + 0.5 - view.middle) / view.focal;
        let top = view.horizon - view.focal * height(angle);
        let column = u as f32;
        p.canvas.shade([column, top, column + 0.5, view.horizon + 2.0], Some(label), |u, v| {
            let grain = 1.0 + 0.12 * noise.at(0.35 * u, 0.35 * v);
            (scale(colour, grain), (v + 0.5 - top).clamp(0.0, 1.0))
        });
    }
}
