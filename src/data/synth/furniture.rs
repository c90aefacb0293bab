//! Lamp posts, traffic signs and traffic lights.

use super::canvas::Rgb;
use super::id;
use super::light::Facing;
use super::noise::{Rng, floor, narrow};
use super::painter::{Painter, Spot, bar, ellipse, upright};

const STEEL: Rgb = [128.0, 132.0, 134.0];

/// A street lamp whose arm reaches over the road.
pub(crate) fn lamp_post(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(p.street.seed, 80);
    let (height, thick) = (rng.range(5.5, 8.0), rng.range(0.13, 0.2));
    let colour = rng.pick(&[STEEL, [70.0, 76.0, 74.0], [112.0, 96.0, 78.0]]);
    let (x, z) = (spot.x, spot.z);
    let tip = x - spot.side * rng.range(1.2, 2.4);
    p.face(&bar([x, 0.0], [x, height], thick, z), Facing::Near, id::POLE, colour);
    p.face(&bar([x, height], [tip, height + 0.3], 0.6 * thick, z), Facing::Near, id::POLE, colour);
    let head = bar([tip, height + 0.3], [tip - 0.6 * spot.side, height + 0.3], 0.16, z);
    if p.light.dusk {
        p.lamp(&head, id::POLE, [255.0, 236.0, 190.0]);
    } else {
        p.face(&head, Facing::Near, id::POLE, [186.0, 188.0, 186.0]);
    }
}

/// A plain wooden or concrete pole, as for wires.
pub(crate) fn pole(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(spot.seed, 1);
    let height = rng.range(6.0, 8.5);
    let colour = rng.pick(&[[110.0, 88.0, 66.0], [148.0, 146.0, 140.0]]);
    let (x, z) = (spot.x, spot.z);
    p.face(&bar([x, 0.0], [x, height], 0.26, z), Facing::Near, id::POLE, colour);
    let cross = bar([x - 0.9, height - 0.6], [x + 0.9, height - 0.6], 0.13, z);
    p.face(&cross, Facing::Near, id::POLE, colour);
}

/// A traffic sign on its pole: speed limit, warning, order, priority or direction.
pub(crate) fn sign(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(spot.seed, 1);
    let (x, z, y) = (spot.x, spot.z, rng.range(2.0, 2.6));
    p.face(&bar([x, 0.0], [x, y + 0.2], 0.08, z), Facing::Near, id::POLE, STEEL);
    let (white, red) = ([236.0, 236.0, 232.0], [196.0, 32.0, 36.0]);
    let z = z - 0.05;
    match rng.bits() % 5 {
        0 => {
            p.face(&ellipse([x, y, z], [0.38; 2]), Facing::Near, id::TRAFFIC_SIGN, red);
            p.face(&ellipse([x, y, z], [0.28; 2]), Facing::Near, id::TRAFFIC_SIGN, white);
            let ink = [30.0; 3];
            p.face(
                &upright([x - 0.17, x - 0.03], [y - 0.13, y + 0.13], z),
                Facing::Near,
                id::TRAFFIC_SIGN,
                ink,
            );
            p.face(
                &upright([x + 0.03, x + 0.17], [y - 0.13, y + 0.13], z),
                Facing::Near,
                id::TRAFFIC_SIGN,
                ink,
            );
        }
        1 => {
            let triangle = |r: f32| {
                [[x - 0.9 * r, y - 0.5 * r, z], [x + 0.9 * r, y - 0.5 * r, z], [x, y + r, z]]
            };
            p.face(&triangle(0.52), Facing::Near, id::TRAFFIC_SIGN, red);
            p.face(&triangle(0.34), Facing::Near, id::TRAFFIC_SIGN, white);
        }
        2 => {
            p.face(
                &ellipse([x, y, z], [0.38; 2]),
                Facing::Near,
                id::TRAFFIC_SIGN,
                [28.0, 76.0, 172.0],
            );
            p.face(
                &bar([x, y - 0.24], [x, y + 0.2], 0.1, z),
                Facing::Near,
                id::TRAFFIC_SIGN,
                white,
            );
        }
        3 => {
            let rhomb = |r: f32| [[x, y - r, z], [x + r, y, z], [x, y + r, z], [x - r, y, z]];
            p.face(&rhomb(0.48), Facing::Near, id::TRAFFIC_SIGN, white);
            p.face(&rhomb(0.36), Facing::Near, id::TRAFFIC_SIGN, [238.0, 192.0, 38.0]);
        }
        _ => board(
            p,
            [x, y, z],
            rng.pick(&[[26.0, 84.0, 160.0], [30.0, 110.0, 70.0], [226.0, 190.0, 50.0]]),
        ),
    }
}

/// A direction board with lines of writing.
fn board(p: &mut Painter<'_>, [x, y, z]: [f32; 3], colour: Rgb) {
    p.face(
        &upright([x - 0.75, x + 0.75], [y - 0.4, y + 0.55], z),
        Facing::Near,
        id::TRAFFIC_SIGN,
        colour,
    );
    for (row, width) in [(0.3, 1.1), (0.02, 0.8), (-0.22, 0.95)] {
        let line = upright([x - 0.6, x - 0.6 + width], [y + row, y + row + 0.12], z);
        p.face(&line, Facing::Near, id::TRAFFIC_SIGN, [236.0; 3]);
    }
}

/// A traffic light; all lights of a scene show the same phase.
pub(crate) fn traffic_light(p: &mut Painter<'_>, spot: &Spot) {
    let (x, z) = (spot.x, spot.z);
    p.face(&bar([x, 0.0], [x, 3.3], 0.14, z), Facing::Near, id::POLE, [84.0, 90.0, 88.0]);
    let mut heads = vec![[x - 0.05 * spot.side, 2.9]];
    if p.street.lanes[1] > 1.0 && spot.side > 0.0 {
        let reach = x - 1.3 * p.street.lane;
        p.face(&bar([x, 0.0], [x, 5.6], 0.18, z), Facing::Near, id::POLE, [84.0, 90.0, 88.0]);
        p.face(&bar([x, 5.5], [reach, 5.6], 0.12, z), Facing::Near, id::POLE, [84.0, 90.0, 88.0]);
        heads.push([reach, 5.4]);
    }
    // One phase per 90 m travelled: the lights change while one drives along.
    let phase = floor(narrow((p.view.travelled / 90.0) % 1e6)) as u64;
    let lit = Rng::new(p.street.seed, 500 + phase).bits() % 3;
    let z = z - 0.1;
    for [x, y] in heads {
        let housing = upright([x - 0.2, x + 0.2], [y - 0.55, y + 0.55], z);
        p.face(&housing, Facing::Near, id::TRAFFIC_LIGHT, [34.0, 38.0, 36.0]);
        let colours = [[70.0, 240.0, 130.0], [255.0, 196.0, 60.0], [255.0, 60.0, 48.0]];
        for (k, colour) in colours.into_iter().enumerate() {
            let lens = ellipse([x, y - 0.34 + 0.34 * k as f32, z], [0.13; 2]);
            if k as u64 == lit {
                p.lamp(&lens, id::TRAFFIC_LIGHT, colour);
            } else {
                p.face(&lens, Facing::Near, id::TRAFFIC_LIGHT, colour.map(|c| 0.28 * c));
            }
        }
    }
}
