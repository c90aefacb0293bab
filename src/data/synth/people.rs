//! People, bicycles, motorcycles, and those who ride them.

use super::canvas::{Rgb, scale};
use super::id;
use super::light::Facing;
use super::noise::{Rng, cos, sin};
use super::painter::{Painter, Spot, bar, ellipse, upright};

const CLOTHES: [Rgb; 9] = [
    [44.0, 52.0, 76.0],
    [150.0, 46.0, 50.0],
    [64.0, 88.0, 66.0],
    [196.0, 190.0, 180.0],
    [60.0, 60.0, 62.0],
    [116.0, 128.0, 150.0],
    [200.0, 150.0, 70.0],
    [96.0, 60.0, 96.0],
    [220.0, 220.0, 224.0],
];
const SKINS: [Rgb; 3] = [[226.0, 184.0, 156.0], [178.0, 130.0, 100.0], [112.0, 78.0, 60.0]];
const HAIR: [Rgb; 4] = [[40.0, 32.0, 28.0], [96.0, 66.0, 40.0], [176.0, 150.0, 100.0], [120.0; 3]];

/// The colours of one person.
struct Dress {
    coat: Rgb,
    trousers: Rgb,
    skin: Rgb,
    hair: Rgb,
}

impl Dress {
    fn new(rng: &mut Rng) -> Self {
        Self {
            coat: rng.colour(&CLOTHES, 14.0),
            trousers: rng.colour(&CLOTHES[..6], 10.0),
            skin: rng.pick(&SKINS),
            hair: rng.pick(&HAIR),
        }
    }
}

/// Head with hair around `[x, y]`.
fn head(p: &mut Painter<'_>, [x, y, z]: [f32; 3], dress: &Dress, label: u8) {
    p.face(&ellipse([x, y + 0.03, z], [0.115, 0.14]), Facing::Near, label, dress.hair);
    p.face(&ellipse([x, y - 0.025, z], [0.088, 0.105]), Facing::Near, label, dress.skin);
}

/// Somebody walking or standing.
pub(crate) fn person(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(spot.seed, 1);
    let dress = Dress::new(&mut rng);
    let tall = rng.range(1.5, 1.9) / 1.75;
    let (x, z) = (spot.x, spot.z);
    // Two steps per 1.5 m; spot.length carries how far this one has walked.
    let swing = sin(spot.length / 1.5 + rng.unit()) * rng.range(0.5, 1.0);
    let y = |metres: f32| metres * tall;
    let side = rng.chance(0.35);
    let stride = if side { 0.32 } else { 0.08 } * swing;
    p.shadow([x, z], [0.42, 0.36], 0.55, false);
    for (sign, foot) in [(-1.0, stride), (1.0, -stride)] {
        let hip = [x + 0.07 * sign, y(0.92)];
        let sole = [x + 0.09 * sign + foot, y(0.06)];
        let shade = if sign < 0.0 { 0.85 } else { 1.0 };
        p.face(&bar(hip, sole, 0.17, z), Facing::Near, id::PERSON, scale(dress.trousers, shade));
        p.face(
            &ellipse([sole[0], y(0.05), z], [0.12, 0.06]),
            Facing::Near,
            id::PERSON,
            [40.0, 36.0, 34.0],
        );
    }
    for sign in [-1.0, 1.0] {
        let shoulder = [x + 0.2 * sign, y(1.4)];
        let hand = [x + 0.25 * sign - sign * stride, y(0.84)];
        p.face(&bar(shoulder, hand, 0.11, z), Facing::Near, id::PERSON, scale(dress.coat, 0.88));
        p.face(&ellipse([hand[0], hand[1], z], [0.05; 2]), Facing::Near, id::PERSON, dress.skin);
    }
    let hem = if rng.chance(0.25) { y(0.55) } else { y(0.86) };
    let torso = [
        [x - 0.19, hem, z],
        [x + 0.19, hem, z],
        [x + 0.24, y(1.38), z],
        [x + 0.14, y(1.5), z],
        [x - 0.14, y(1.5), z],
        [x - 0.24, y(1.38), z],
    ];
    p.face(&torso, Facing::Near, id::PERSON, dress.coat);
    head(p, [x, y(1.63), z], &dress, id::PERSON);
}

/// A ring: rim and tyre of a wheel seen from the side, open in the middle.
fn rim(p: &mut Painter<'_>, [x, y, z]: [f32; 3], r: f32, thick: f32, label: u8) {
    let outer = |k: i32, r: f32| [x + r * cos(k as f32 / 16.0), y + r * sin(k as f32 / 16.0), z];
    let ring: Vec<_> =
        (0..=16).map(|k| outer(k, r)).chain((0..=16).rev().map(|k| outer(k, r - thick))).collect();
    p.face(&ring, Facing::Near, label, [34.0, 34.0, 36.0]);
}

/// A bicycle parked across, seen from the side.
pub(crate) fn bicycle(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(spot.seed, 1);
    let colour = rng.colour(&CLOTHES, 20.0);
    frame(p, [spot.x, spot.z], colour);
}

/// A bicycle from the side.
fn frame(p: &mut Painter<'_>, [x, z]: [f32; 2], colour: Rgb) {
    p.shadow([x, z], [0.9, 0.3], 0.4, false);
    for side in [-1.0, 1.0] {
        rim(p, [x + 0.52 * side, 0.34, z], 0.34, 0.06, id::BICYCLE);
    }
    let (rear, crank, seat, steer, front) =
        ([x - 0.52, 0.34], [x - 0.05, 0.3], [x - 0.18, 0.86], [x + 0.38, 0.9], [x + 0.52, 0.34]);
    for (a, b) in
        [(rear, crank), (rear, seat), (crank, seat), (seat, steer), (crank, steer), (steer, front)]
    {
        p.face(&bar(a, b, 0.06, z), Facing::Near, id::BICYCLE, colour);
    }
    p.face(&bar([x - 0.3, 0.92], [x - 0.06, 0.94], 0.07, z), Facing::Near, id::BICYCLE, [30.0; 3]);
    p.face(&bar([x + 0.3, 1.02], [x + 0.5, 1.0], 0.05, z), Facing::Near, id::BICYCLE, [30.0; 3]);
}

/// Somebody on a bicycle, from behind or in front; two in five from the side, as if turning.
pub(crate) fn cyclist(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(spot.seed, 1);
    let dress = Dress::new(&mut rng);
    let (x, z) = (spot.x, spot.z);
    let frame_colour = rng.colour(&CLOTHES, 20.0);
    if rng.chance(0.4) {
        frame(p, [x, z], frame_colour);
        let (hip, knee) = ([x - 0.16, 0.98], [x + 0.12, 0.72]);
        p.face(&bar(hip, knee, 0.17, z), Facing::Near, id::RIDER, dress.trousers);
        p.face(&bar(knee, [x, 0.3], 0.13, z), Facing::Near, id::RIDER, dress.trousers);
        p.face(&bar(hip, [x + 0.1, 1.48], 0.3, z), Facing::Near, id::RIDER, dress.coat);
        p.face(
            &bar([x + 0.08, 1.42], [x + 0.4, 1.03], 0.1, z),
            Facing::Near,
            id::RIDER,
            scale(dress.coat, 0.85),
        );
        head(p, [x + 0.17, 1.68, z], &dress, id::RIDER);
        return;
    }
    p.shadow([x, z], [0.4, 0.9], 0.5, false);
    p.face(&ellipse([x, 0.36, z], [0.06, 0.36]), Facing::Near, id::BICYCLE, [34.0; 3]);
    p.face(&upright([x - 0.05, x + 0.05], [0.6, 0.95], z), Facing::Near, id::BICYCLE, frame_colour);
    seated(p, [x, z], &dress, 0.98);
    p.face(&bar([x - 0.3, 1.04], [x + 0.3, 1.04], 0.05, z), Facing::Near, id::BICYCLE, [40.0; 3]);
}

/// A rider from behind or in front, hips at `hip` metres.
fn seated(p: &mut Painter<'_>, [x, z]: [f32; 2], dress: &Dress, hip: f32) {
    for sign in [-1.0, 1.0] {
        let knee = [x + 0.2 * sign, hip - 0.34];
        p.face(&bar([x + 0.1 * sign, hip], knee, 0.17, z), Facing::Near, id::RIDER, dress.trousers);
        let foot = [x + 0.15 * sign, hip - 0.72];
        p.face(&bar(knee, foot, 0.13, z), Facing::Near, id::RIDER, scale(dress.trousers, 0.85));
        let arm = bar([x + 0.2 * sign, hip + 0.46], [x + 0.3 * sign, hip + 0.08], 0.11, z);
        p.face(&arm, Facing::Near, id::RIDER, scale(dress.coat, 0.85));
    }
    let back = [
        [x - 0.18, hip - 0.06, z],
        [x + 0.18, hip - 0.06, z],
        [x + 0.23, hip + 0.48, z],
        [x, hip + 0.58, z],
        [x - 0.23, hip + 0.48, z],
    ];
    p.face(&back, Facing::Near, id::RIDER, dress.coat);
    head(p, [x, hip + 0.71, z], dress, id::RIDER);
}

/// A motorcycle; its rider only while it drives (`spot.length > 0`).
pub(crate) fn motorcycle(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(spot.seed, 1);
    let dress = Dress::new(&mut rng);
    let (x, z) = (spot.x, spot.z);
    let paint = rng
        .colour(&[[170.0, 30.0, 34.0], [40.0, 60.0, 120.0], [44.0; 3], [190.0, 120.0, 40.0]], 12.0);
    let black = [34.0, 34.0, 36.0];
    if spot.length <= 0.0 {
        p.shadow([x, z], [1.1, 0.4], 0.5, false);
        for side in [-1.0, 1.0] {
            rim(p, [x + 0.68 * side, 0.32, z], 0.32, 0.13, id::MOTORCYCLE);
        }
        let body = [
            [x - 0.85, 0.72, z],
            [x - 0.2, 0.3, z],
            [x + 0.35, 0.34, z],
            [x + 0.55, 0.86, z],
            [x + 0.1, 0.98, z],
            [x - 0.3, 0.78, z],
        ];
        p.face(&body, Facing::Near, id::MOTORCYCLE, paint);
        p.face(
            &ellipse([x + 0.05, 0.46, z], [0.26, 0.2]),
            Facing::Near,
            id::MOTORCYCLE,
            [110.0, 112.0, 114.0],
        );
        p.face(
            &bar([x - 0.8, 0.8], [x - 0.15, 0.84], 0.12, z),
            Facing::Near,
            id::MOTORCYCLE,
            black,
        );
        p.face(
            &bar([x + 0.68, 0.32], [x + 0.4, 1.08], 0.08, z),
            Facing::Near,
            id::MOTORCYCLE,
            [130.0; 3],
        );
        return;
    }
    p.shadow([x, z + 0.5], [0.5, 1.1], 0.55, false);
    p.face(&ellipse([x, 0.33, z], [0.11, 0.33]), Facing::Near, id::MOTORCYCLE, black);
    p.face(&ellipse([x, 0.7, z], [0.27, 0.24]), Facing::Near, id::MOTORCYCLE, paint);
    p.face(
        &upright([x - 0.11, x + 0.11], [0.42, 0.55], z),
        Facing::Near,
        id::MOTORCYCLE,
        [220.0, 218.0, 200.0],
    );
    seated(p, [x, z], &dress, 0.9);
    let helmet = ellipse([x, 1.63, z], [0.15, 0.17]);
    p.face(&helmet, Facing::Near, id::RIDER, paint);
    p.face(&bar([x - 0.42, 1.02], [x + 0.42, 1.02], 0.06, z), Facing::Near, id::MOTORCYCLE, black);
    p.lamp(&ellipse([x, 0.76, z], [0.08, 0.05]), id::MOTORCYCLE, [230.0, 50.0, 40.0]);
}
