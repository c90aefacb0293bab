//! Outlines and bodies of the paste pool's cut-outs; none of them is a held-back obstacle's.
//!
//! A body is seen upright from the front, in a square of side 2 with the middle at 0, columns to the
//! right and rows down.

use super::noise::{Rng, cos, floor, sin};

/// A family of shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A star of 4 to 9 points.
    Star,
    /// A sickle of the moon.
    Crescent,
    /// Petals around a centre.
    Flower,
    /// A cross with arms of unequal width.
    Cross,
    /// A puddle with lobes.
    Puddle,
    /// A bolt of lightning.
    Bolt,
    /// Splinters: a polygon of 3 to 6 random corners.
    Splinter,
    /// Something turned on a wheel: vase, bottle, jug, barrel.
    Vessel,
    /// A lamp or a mushroom: foot, stem and shade.
    Lamp,
    /// An open umbrella.
    Umbrella,
    /// An aeroplane from above.
    Aeroplane,
    /// A cistern on feet.
    Cistern,
    /// Stairs from the side.
    Stairs,
    /// Pieces grown onto each other, often mirrored.
    Contraption,
    /// A cog wheel.
    Cog,
    /// A heart.
    Heart,
    /// An arrow.
    Arrow,
    /// A boat with cabin, mast and sail.
    Boat,
    /// A guitar.
    Guitar,
    /// A doll: head, ears, trunk, limbs.
    Doll,
    /// A dome with an entrance.
    Igloo,
}

/// How a piece curves, which shades it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Like a board.
    Flat,
    /// Like a column.
    Column,
    /// Like a ball.
    Ball,
}

/// A piece of a shape: corners, how it curves, and which of the object's materials it is made of.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) outline: Vec<[f32; 2]>,
    pub(crate) form: Form,
    pub(crate) material: usize,
}

impl Shape {
    /// Families that stage 2 trains on.
    pub const TRAINING: [Self; 14] = [
        Self::Star,
        Self::Crescent,
        Self::Flower,
        Self::Cross,
        Self::Puddle,
        Self::Bolt,
        Self::Splinter,
        Self::Vessel,
        Self::Lamp,
        Self::Umbrella,
        Self::Aeroplane,
        Self::Cistern,
        Self::Stairs,
        Self::Contraption,
    ];
    /// Families that stage 2 is judged on.
    pub const VALIDATION: [Self; 7] =
        [Self::Cog, Self::Heart, Self::Arrow, Self::Boat, Self::Guitar, Self::Doll, Self::Igloo];

    /// The pieces of one object, back to front, within the unit circle or a little beyond.
    pub(crate) fn pieces(self, rng: &mut Rng) -> Vec<Piece> {
        match self {
            Self::Vessel => vessel(rng),
            Self::Lamp => lamp(rng),
            Self::Umbrella => umbrella(rng),
            Self::Aeroplane => aeroplane(rng),
            Self::Cistern => cistern(rng),
            Self::Stairs => stairs(rng),
            Self::Contraption => contraption(rng),
            Self::Boat => boat(rng),
            Self::Guitar => guitar(rng),
            Self::Doll => doll(rng),
            Self::Igloo => igloo(rng),
            _ => {
                let form = rng.pick(&[Form::Flat, Form::Flat, Form::Column, Form::Ball]);
                vec![Piece { outline: self.outline(rng), form, material: 0 }]
            }
        }
    }

    /// Whether it is a body with a top and a bottom.
    pub(crate) fn stands(self) -> bool {
        !matches!(
            self,
            Self::Star
                | Self::Crescent
                | Self::Flower
                | Self::Cross
                | Self::Puddle
                | Self::Bolt
                | Self::Splinter
                | Self::Cog
                | Self::Heart
                | Self::Arrow
        )
    }

    /// Corners of a shape of one piece.
    fn outline(self, rng: &mut Rng) -> Vec<[f32; 2]> {
        let count = floor(rng.range(4.0, 10.0));
        let (points, deep) = (count as f32, rng.range(0.3, 0.6));
        let phases = [rng.unit(), rng.unit()];
        match self {
            Self::Star => polar(2 * count, |k, _| if k % 2 == 0 { 1.0 } else { deep }),
            Self::Cog => polar(8 * count, |k, _| if k % 8 < 4 { 1.0 } else { 0.5 + 0.5 * deep }),
            Self::Flower => polar(72, |_, turn| 1.0 - deep * (0.5 + 0.5 * sin(points * turn))),
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
            _ => polar(60, |_, turn| {
                let lobes = 0.18 * sin(points * turn + phases[1]);
                0.62 + 0.2 * sin(2.0 * turn + phases[0]) + lobes
            }),
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

fn piece(outline: Vec<[f32; 2]>, form: Form, material: usize) -> Piece {
    Piece { outline, form, material }
}

/// An ellipse around `[x, y]`.
fn disc([x, y]: [f32; 2], [rx, ry]: [f32; 2]) -> Vec<[f32; 2]> {
    polar(28, |_, _| 1.0).into_iter().map(|[a, b]| [x + rx * a, y + ry * b]).collect()
}

/// A limb from `a` to `b`, `wide[0]` and `wide[1]` thick at its ends.
fn limb(a: [f32; 2], b: [f32; 2], wide: [f32; 2]) -> Vec<[f32; 2]> {
    let [dx, dy] = [b[0] - a[0], b[1] - a[1]];
    let length = (dx * dx + dy * dy).sqrt().max(1e-3);
    let (nx, ny) = (-dy / length / 2.0, dx / length / 2.0);
    let end = |[x, y]: [f32; 2], w: f32| [[x + nx * w, y + ny * w], [x - nx * w, y - ny * w]];
    let ([a0, a1], [b0, b1]) = (end(a, wide[0]), end(b, wide[1]));
    vec![a0, b0, b1, a1]
}

/// What is `half(t)` wide to both sides at the share `t` of its height.
fn turned(top: f32, bottom: f32, half: impl Fn(f32) -> f32) -> Vec<[f32; 2]> {
    let at = |k: i32, side: f32| {
        let t = k as f32 / 24.0;
        [side * half(t), top + (bottom - top) * t]
    };
    (0..=24).map(|k| at(k, 1.0)).chain((0..=24).rev().map(|k| at(k, -1.0))).collect()
}

/// The value of four knots at `t`, straight between them.
fn knots(values: [f32; 4], t: f32) -> f32 {
    let k = floor(3.0 * t).clamp(0, 2) as usize;
    let share = 3.0 * t - k as f32;
    values[k] + (values[k + 1] - values[k]) * share
}

fn vessel(rng: &mut Rng) -> Vec<Piece> {
    let widths =
        [rng.range(0.12, 0.5), rng.range(0.2, 0.75), rng.range(0.35, 0.8), rng.range(0.25, 0.6)];
    let mut pieces = Vec::new();
    if rng.chance(0.5) {
        let (way, height) = (if rng.chance(0.5) { 1.0 } else { -1.0 }, rng.range(-0.3, 0.2));
        let reach = rng.range(0.75, 1.0);
        for (a, b) in [
            ([0.3, height - 0.35], [reach, height - 0.25]),
            ([reach, height - 0.25], [reach, height + 0.25]),
            ([reach, height + 0.25], [0.3, height + 0.35]),
        ] {
            let ring = limb([way * a[0], a[1]], [way * b[0], b[1]], [0.12, 0.12]);
            pieces.push(piece(ring, Form::Flat, 1));
        }
    }
    let belly = turned(-0.95, 0.95, |t| knots(widths, t) + 0.06 * sin(0.5 * t));
    pieces.push(piece(belly, Form::Column, 0));
    let (rim, half) = (rng.range(0.03, 0.12), widths[0] + 0.06);
    pieces.push(piece(disc([0.0, -0.93], [half, rim]), Form::Flat, 2));
    pieces
}

fn lamp(rng: &mut Rng) -> Vec<Piece> {
    let (stem, foot) = (rng.range(0.06, 0.28), rng.range(0.25, 0.7));
    let (brim, crown) = (rng.range(0.5, 1.0), rng.range(0.15, 0.6));
    let (edge, round) = (rng.range(-0.4, 0.1), rng.chance(0.5));
    let shade = if round {
        turned(-0.95, edge, |t| brim * (1.0 - (1.0 - t) * (1.0 - t)).max(0.0).sqrt())
    } else {
        turned(-0.95, edge, |t| crown + (brim - crown) * t)
    };
    vec![
        piece(limb([0.0, edge - 0.1], [0.0, 0.9], [stem, stem]), Form::Column, 1),
        piece(disc([0.0, 0.88], [foot, 0.12]), Form::Flat, 2),
        piece(shade, if round { Form::Ball } else { Form::Column }, 0),
    ]
}

fn umbrella(rng: &mut Rng) -> Vec<Piece> {
    let (fields, lean) = (floor(rng.range(4.0, 8.0)), rng.range(-0.2, 0.2));
    let mut pieces = vec![piece(limb([lean, -0.8], [0.0, 0.95], [0.06, 0.06]), Form::Flat, 2)];
    let rim = |t: f32| [-1.0 + 2.0 * t, -0.05 + 0.1 * sin(0.5 * t)];
    for k in 0..fields {
        let (from, to) = (k as f32 / fields as f32, (k + 1) as f32 / fields as f32);
        let bulge = |t: f32| {
            let [x, _] = rim(t);
            [0.62 * x + 0.3 * lean, -0.9 + 0.42 * x * x]
        };
        let between = 0.5 * (from + to);
        let dent = [rim(between)[0], -0.12];
        let field = vec![[lean, -0.95], bulge(from), rim(from), dent, rim(to), bulge(to)];
        pieces.push(piece(field, Form::Flat, (k & 1) as usize));
    }
    pieces
}

fn aeroplane(rng: &mut Rng) -> Vec<Piece> {
    let (body, span, sweep) = (rng.range(0.1, 0.2), rng.range(0.6, 1.0), rng.range(-0.1, 0.4));
    let mut pieces = Vec::new();
    for side in [-1.0, 1.0] {
        let wing =
            vec![[0.0, -0.3], [side * span, -0.1 + sweep], [side * span, 0.08 + sweep], [0.0, 0.2]];
        let tail = vec![[0.0, 0.65], [side * 0.4, 0.85], [side * 0.4, 0.95], [0.0, 0.9]];
        pieces.push(piece(wing, Form::Flat, 1));
        pieces.push(piece(tail, Form::Flat, 2));
    }
    pieces.push(piece(turned(-1.0, 1.0, |t| body * sin(0.5 * t)), Form::Column, 0));
    pieces
}

fn cistern(rng: &mut Rng) -> Vec<Piece> {
    let (half, round) = (rng.range(0.35, 0.6), rng.range(0.15, 0.4));
    let ground = half + rng.range(0.15, 0.35);
    let mut pieces = Vec::new();
    for x in [-0.5, 0.5] {
        let lean = rng.range(-0.12, 0.12);
        pieces.push(piece(limb([x, 0.0], [x + lean, ground], [0.2, 0.12]), Form::Flat, 1));
    }
    // A capsule, so that its ends are round.
    let side = |s: f32| {
        (0..=16).map(move |k| {
            let turn = k as f32 / 32.0 - 0.25;
            [s * ((1.0 - round) + round * cos(turn)), s * half * sin(turn)]
        })
    };
    pieces.push(piece(side(1.0).chain(side(-1.0)).collect(), Form::Ball, 0));
    let hatch = rng.range(-0.5, 0.5);
    pieces.push(piece(disc([hatch, -half], [0.16, 0.1]), Form::Flat, 2));
    pieces
}

fn stairs(rng: &mut Rng) -> Vec<Piece> {
    let steps = floor(rng.range(3.0, 7.0));
    let height = rng.range(0.5, 1.0);
    let side = if rng.chance(0.5) { 1.0 } else { -1.0 };
    let mut outline = vec![[side, height], [-side, height]];
    for k in 0..steps {
        let t = |k: i32| k as f32 / steps as f32;
        let y = height - 2.0 * height * t(k + 1);
        outline.push([side * (2.0 * t(k) - 1.0), y]);
        outline.push([side * (2.0 * t(k + 1) - 1.0), y]);
    }
    let rail = limb([-side, 0.3 * height], [side, -height - 0.3], [0.07, 0.07]);
    vec![piece(rail, Form::Flat, 1), piece(outline, Form::Flat, 0)]
}

/// A trunk and pieces on it and on each other, of any size and direction; two in three are mirrored.
fn contraption(rng: &mut Rng) -> Vec<Piece> {
    let mirrored = rng.chance(0.66);
    let trunk = [rng.range(0.25, 0.6), rng.range(0.25, 0.6)];
    let mut joints = vec![([0.0, 0.0], trunk)];
    let mut pieces = vec![grown(rng, [0.0, 0.0], trunk)];
    for _ in 0..floor(rng.range(2.0, 7.0)) {
        let ([x, y], [rx, ry]) = rng.pick(&joints);
        let turn = rng.unit();
        let at = [x + 0.9 * rx * cos(turn), y + 0.9 * ry * sin(turn)];
        let size = [rng.range(0.08, 0.4), rng.range(0.08, 0.4)];
        let size = [size[0].min(1.0 - at[0].abs()), size[1].min(1.0 - at[1].abs())];
        if size[0] < 0.05 || size[1] < 0.05 {
            continue;
        }
        joints.push((at, size));
        let new = grown(rng, at, size);
        if mirrored {
            let outline = new.outline.iter().map(|&[x, y]| [-x, y]).collect();
            pieces.insert(0, Piece { outline, ..new.clone() });
        }
        pieces.insert(0, new);
    }
    pieces
}

/// A round, pointed or edged piece of a contraption.
fn grown(rng: &mut Rng, at: [f32; 2], size: [f32; 2]) -> Piece {
    let corners = floor(rng.range(3.0, 8.0));
    let outline = match corners {
        7 => disc(at, size),
        _ => {
            let lean = rng.unit();
            let corner = |k: i32| {
                let turn = k as f32 / corners as f32 + lean;
                [at[0] + size[0] * cos(turn), at[1] + size[1] * sin(turn)]
            };
            (0..corners).map(corner).collect()
        }
    };
    let form = rng.pick(&[Form::Flat, Form::Column, Form::Ball]);
    piece(outline, form, floor(3.0 * rng.unit()) as usize)
}

fn boat(rng: &mut Rng) -> Vec<Piece> {
    let (deck, keel) = (rng.range(0.1, 0.4), rng.range(0.4, 0.8));
    let hull = vec![[-1.0, deck], [1.0, deck], [keel, 0.95], [-keel, 0.95]];
    let (from, to) = (rng.range(-0.7, -0.2), rng.range(0.1, 0.6));
    let roof = rng.range(-0.3, 0.0);
    let cabin = vec![[from, roof], [to, roof], [to, deck], [from, deck]];
    let mut pieces = vec![piece(limb([0.0, -0.98], [0.0, deck], [0.05, 0.08]), Form::Column, 2)];
    if rng.chance(0.6) {
        pieces.push(piece(
            vec![[0.06, -0.95], [0.85, deck - 0.1], [0.06, deck - 0.1]],
            Form::Flat,
            1,
        ));
    }
    pieces.push(piece(cabin, Form::Flat, 1));
    pieces.push(piece(hull, Form::Flat, 0));
    pieces
}

fn guitar(rng: &mut Rng) -> Vec<Piece> {
    let (upper, lower) = (rng.range(0.26, 0.4), rng.range(0.36, 0.52));
    vec![
        piece(limb([0.0, -0.95], [0.0, 0.2], [0.12, 0.12]), Form::Flat, 1),
        piece(limb([0.0, -1.0], [0.0, -0.75], [0.24, 0.18]), Form::Flat, 2),
        piece(disc([0.0, 0.14], [upper, 0.3]), Form::Flat, 0),
        piece(disc([0.0, 0.58], [lower, 0.4]), Form::Flat, 0),
        piece(disc([0.0, 0.3], [0.13, 0.13]), Form::Flat, 2),
    ]
}

fn doll(rng: &mut Rng) -> Vec<Piece> {
    let (fat, head) = (rng.range(0.28, 0.5), rng.range(0.26, 0.4));
    let neck = -0.9 + 2.0 * head;
    let mut pieces = Vec::new();
    for side in [-1.0, 1.0] {
        let arm = [side * rng.range(0.6, 0.95), neck + rng.range(-0.1, 0.6)];
        let leg = [side * rng.range(0.3, 0.7), 0.95];
        pieces.push(piece(limb([side * 0.2, neck + 0.1], arm, [0.3, 0.22]), Form::Flat, 0));
        pieces.push(piece(limb([side * 0.2, 0.4], leg, [0.36, 0.3]), Form::Flat, 0));
        pieces.push(piece(disc([side * head, -0.85], [0.16, 0.15]), Form::Ball, 0));
    }
    pieces.push(piece(disc([0.0, 0.5 * (neck + 0.7)], [fat, 0.55 * (0.75 - neck)]), Form::Ball, 1));
    pieces.push(piece(disc([0.0, neck - head], [1.1 * head, head]), Form::Ball, 0));
    pieces.push(piece(disc([0.0, neck - 0.7 * head], [0.4 * head, 0.3 * head]), Form::Ball, 2));
    pieces
}

fn igloo(rng: &mut Rng) -> Vec<Piece> {
    let (height, mouth) = (rng.range(0.6, 1.0), rng.range(0.15, 0.3));
    let arch = |x: f32, r: f32, h: f32| {
        (0..=20)
            .map(|k| {
                let turn = 0.5 + k as f32 / 40.0;
                [x + r * cos(turn), 0.9 + h * sin(turn)]
            })
            .collect::<Vec<_>>()
    };
    let x = rng.range(-0.5, 0.5);
    vec![
        piece(arch(0.0, 1.0, 1.8 * height), Form::Ball, 0),
        piece(arch(x, 1.4 * mouth, 0.9 * height), Form::Column, 1),
        piece(arch(x, mouth, 0.7 * height), Form::Flat, 2),
    ]
}
