//! The held-back pool: obstacles that training never shows, standing on the road.
//!
//! Shapes: animals, furniture, freight and litter, each built for itself ([`Kind`]). Textures: hide,
//! tread, bands, planks, plaid, foil, rock, bark ([`Kind::texture`]). Neither list shares a family with
//! the paste pool ([`super::shape`], [`super::texture`]).

use super::OOD;
use super::canvas::{Rgb, mix, scale};
use super::light::Facing;
use super::noise::{Rng, cos, floor, nearest, sin, tile, within};
use super::painter::{Painter, Spot, bar, ellipse, upright};

/// A kind of unknown obstacle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A cow, side on.
    Cow,
    /// A deer with antlers.
    Deer,
    /// A sofa.
    Sofa,
    /// A pallet of wrapped freight.
    Pallet,
    /// A boulder.
    Boulder,
    /// A stack of wooden crates.
    Crates,
    /// A tyre lying or standing.
    Tyre,
    /// A striped ball.
    Ball,
    /// A traffic cone.
    Cone,
    /// A suitcase.
    Suitcase,
    /// A dog.
    Dog,
    /// A broken-off branch.
    Branch,
}

impl Kind {
    /// 0.8 m and higher: the obstacles of the AnomalyTrack-like set.
    pub const BIG: [Self; 6] =
        [Self::Cow, Self::Deer, Self::Sofa, Self::Pallet, Self::Boulder, Self::Crates];
    /// Under 0.8 m: the obstacles of the ObstacleTrack-like set.
    pub const SMALL: [Self; 6] =
        [Self::Tyre, Self::Ball, Self::Cone, Self::Suitcase, Self::Dog, Self::Branch];

    /// Height, metres.
    pub fn height(self) -> f32 {
        match self {
            Self::Cow => 1.78,
            Self::Deer => 1.88,
            Self::Sofa => 0.9,
            Self::Pallet => 1.35,
            Self::Boulder => 1.05,
            Self::Crates => 1.4,
            Self::Tyre => 0.64,
            Self::Ball => 0.42,
            Self::Cone => 0.72,
            Self::Suitcase => 0.64,
            Self::Dog => 0.76,
            Self::Branch => 0.5,
        }
    }

    /// The texture family; the paste pool has none of them.
    pub fn texture(self) -> &'static str {
        match self {
            Self::Cow | Self::Deer | Self::Dog => "hide",
            Self::Sofa => "plaid",
            Self::Pallet => "foil",
            Self::Boulder => "rock",
            Self::Crates => "planks",
            Self::Tyre => "tread",
            Self::Ball | Self::Cone | Self::Suitcase => "bands",
            Self::Branch => "bark",
        }
    }

    /// Draws it on the road at `spot`.
    pub(crate) fn draw(self, p: &mut Painter<'_>, spot: &Spot) {
        let mut rng = Rng::new(spot.seed, 1);
        let at = [spot.x, spot.z];
        match self {
            Self::Cow | Self::Deer | Self::Dog => animal(p, at, self, &mut rng),
            Self::Sofa => sofa(p, at, &mut rng),
            Self::Pallet => pallet(p, at, &mut rng),
            Self::Boulder => boulder(p, at, &mut rng),
            Self::Crates => crates(p, at, &mut rng),
            Self::Tyre => tyre(p, at, rng.chance(0.5)),
            Self::Ball => ball(p, at, &mut rng),
            Self::Cone => cone(p, at, &mut rng),
            Self::Suitcase => suitcase(p, at, &mut rng),
            Self::Branch => branch(p, at, &mut rng),
        }
    }
}

/// A four-legged animal seen from the side.
fn animal(p: &mut Painter<'_>, [x, z]: [f32; 2], kind: Kind, rng: &mut Rng) {
    let coats =
        [[74.0, 48.0, 34.0], [186.0, 140.0, 92.0], [226.0, 220.0, 210.0], [40.0, 36.0, 36.0]];
    let (coat, patch) = (rng.colour(&coats, 12.0), rng.colour(&coats, 12.0));
    // Body length and thickness, leg, neck and head over the withers' height.
    let (withers, [long, thick, leg, neck]) = match kind {
        Kind::Cow => (1.3, [1.25, 0.48, 0.5, 0.3]),
        Kind::Deer => (1.0, [1.05, 0.34, 0.62, 0.52]),
        _ => (0.52, [1.15, 0.36, 0.56, 0.4]),
    };
    let way = if rng.chance(0.5) { 1.0 } else { -1.0 };
    let (offset, noise) = (rng.range(0.0, 99.0), tile());
    let hide = |a: f32, y: f32| {
        let spot = if noise.at(11.0 * a / withers + offset, 11.0 * y / withers) > 0.2 {
            patch
        } else {
            coat
        };
        scale(spot, 1.0 + 0.2 * noise.at(40.0 * a, 16.0 * y))
    };
    let at = |a: f32, y: f32| [x + way * a * withers, y * withers];
    p.shadow([x, z], [0.62 * long * withers, 0.28 * long * withers], 0.66, false);
    for (a, step) in [(-0.46, -0.07), (-0.38, 0.06), (0.38, -0.05), (0.46, 0.08)] {
        let limb = bar(at(a * long, leg + 0.1), at(a * long + step, 0.0), 0.1 * withers, z);
        p.surface(&limb, Facing::Near, OOD, |a, y| scale(hide(a, y), 0.85));
    }
    let middle = leg + thick / 2.0;
    let [bx, by] = at(0.0, middle);
    p.surface(
        &ellipse([bx, by, z], [0.56 * long * withers, 0.52 * thick * withers]),
        Facing::Near,
        OOD,
        hide,
    );
    let top = at(0.56 * long, middle + 0.1 + neck);
    p.surface(&bar(at(0.42 * long, middle), top, 0.24 * withers, z), Facing::Near, OOD, hide);
    p.surface(
        &ellipse([top[0] + way * 0.1 * withers, top[1], z], [0.2 * withers, 0.12 * withers]),
        Facing::Near,
        OOD,
        hide,
    );
    p.surface(
        &bar(at(-0.52 * long, middle + 0.1), at(-0.62 * long, leg), 0.06 * withers, z),
        Facing::Near,
        OOD,
        hide,
    );
    let horn = if kind == Kind::Deer { 0.42 } else { 0.16 };
    for lean in [-0.12, 0.08] {
        let (root, tip) = (
            at(0.56 * long + 0.02, middle + 0.16 + neck),
            at(0.56 * long + lean, middle + 0.16 + neck + horn),
        );
        p.face(&bar(root, tip, 0.05 * withers, z), Facing::Near, OOD, [120.0, 96.0, 70.0]);
        if kind == Kind::Deer {
            let fork = at(0.56 * long + lean + 0.14, middle + 0.12 + neck + horn);
            let half = [(root[0] + tip[0]) / 2.0, (root[1] + tip[1]) / 2.0];
            p.face(&bar(half, fork, 0.04 * withers, z), Facing::Near, OOD, [120.0, 96.0, 70.0]);
        }
    }
}

/// A box of three seen sides, textured by `texture(a, y)` in front and darker on the flank.
fn block(
    p: &mut Painter<'_>,
    [x, z]: [f32; 2],
    [w, l]: [f32; 2],
    [bottom, top]: [f32; 2],
    texture: impl Fn(f32, f32) -> Rgb,
) {
    let half = w / 2.0;
    let seen = p.flanks([x, z], [w, l]);
    for (shown, sign, facing) in [(seen[0], -1.0, Facing::Left), (seen[1], 1.0, Facing::Right)] {
        if shown {
            let out = x + sign * half;
            let flank = [[out, bottom, z], [out, top, z], [out, top, z + l], [out, bottom, z + l]];
            p.surface(&flank, facing, OOD, |a, y| scale(texture(a, y), 0.8));
        }
    }
    let lid =
        [[x - half, top, z], [x + half, top, z], [x + half, top, z + l], [x - half, top, z + l]];
    p.surface(&lid, Facing::Up, OOD, |a, y| scale(texture(a, y), 1.1));
    p.surface(&upright([x - half, x + half], [bottom, top], z), Facing::Near, OOD, texture);
}

fn sofa(p: &mut Painter<'_>, [x, z]: [f32; 2], rng: &mut Rng) {
    let cloth = rng.colour(
        &[[150.0, 60.0, 90.0], [70.0, 120.0, 120.0], [190.0, 150.0, 70.0], [120.0, 90.0, 150.0]],
        12.0,
    );
    let thread = rng.colour(&[[230.0, 220.0, 200.0], [40.0, 36.0, 48.0]], 8.0);
    let plaid = |a: f32, y: f32| {
        let line = within(nearest(a, 0.16), 0.025, 0.01).max(within(nearest(y, 0.16), 0.025, 0.01));
        mix(cloth, thread, 0.6 * line)
    };
    p.shadow([x, z + 0.4], [1.25, 0.75], 0.7, false);
    block(p, [x, z + 0.62], [1.9, 0.22], [0.1, 0.9], plaid);
    block(p, [x, z + 0.1], [1.6, 0.5], [0.08, 0.44], plaid);
    for side in [-1.0, 1.0] {
        block(p, [x + 0.92 * side, z], [0.24, 0.8], [0.06, 0.64], plaid);
    }
}

fn pallet(p: &mut Painter<'_>, [x, z]: [f32; 2], rng: &mut Rng) {
    let (noise, offset) = (tile(), rng.range(0.0, 90.0));
    let tint =
        rng.colour(&[[196.0, 204.0, 214.0], [150.0, 176.0, 150.0], [206.0, 176.0, 176.0]], 10.0);
    let wood =
        |a: f32, y: f32| scale([168.0, 128.0, 84.0], 1.0 + 0.3 * noise.at(3.0 * a, 30.0 * y));
    // Creased foil: sharp bright ridges.
    let foil = |a: f32, y: f32| {
        let ridge = 1.0 - noise.at(7.0 * a + 4.0 * y + offset, 5.0 * y).abs() * 4.0;
        scale(tint, 0.66 + 0.6 * ridge.clamp(0.0, 1.0))
    };
    p.shadow([x, z + 0.5], [0.9, 0.85], 0.7, false);
    block(p, [x, z], [1.2, 1.0], [0.0, 0.14], wood);
    block(p, [x, z + 0.03], [1.12, 0.92], [0.14, 1.35], foil);
}

fn boulder(p: &mut Painter<'_>, [x, z]: [f32; 2], rng: &mut Rng) {
    let (noise, offset) = (tile(), rng.range(0.0, 90.0));
    let tone =
        rng.colour(&[[150.0, 140.0, 128.0], [120.0, 104.0, 96.0], [170.0, 156.0, 120.0]], 10.0);
    let jag: Vec<f32> = (0..14).map(|_| rng.range(0.78, 1.08)).collect();
    let outline: Vec<_> = (0..14)
        .map(|k| {
            let turns = k as f32 / 14.0;
            let r = jag[k as usize];
            [x + 0.85 * r * cos(turns), (0.42 + 0.62 * r * sin(turns)).max(0.0), z]
        })
        .collect();
    p.shadow([x, z], [1.1, 0.6], 0.7, false);
    p.surface(&outline, Facing::Near, OOD, |a, y| {
        let vein = within(noise.at(2.0 * a + offset, 2.0 * y), 0.05, 0.05);
        let facet = floor(3.0 * noise.at(1.6 * a, 1.6 * y + offset)) as f32;
        scale(tone, 0.9 + 0.13 * facet + 0.14 * noise.at(22.0 * a, 22.0 * y) + 0.3 * y - 0.3 * vein)
    });
}

fn crates(p: &mut Painter<'_>, [x, z]: [f32; 2], rng: &mut Rng) {
    let wood =
        rng.colour(&[[186.0, 140.0, 84.0], [150.0, 104.0, 62.0], [206.0, 172.0, 120.0]], 10.0);
    let noise = tile();
    let planks = |a: f32, y: f32| {
        let gap = within(nearest(y, 0.14), 0.012, 0.01);
        let strut = within(nearest(a - 0.35 + 0.5 * y, 0.7), 0.05, 0.01);
        scale(wood, 1.0 + 0.22 * noise.at(3.0 * a, 34.0 * y) - 0.5 * gap + 0.14 * strut)
    };
    p.shadow([x, z + 0.4], [0.95, 0.7], 0.7, false);
    let shift = rng.range(-0.3, 0.3);
    block(p, [x - 0.37, z], [0.72, 0.7], [0.0, 0.7], planks);
    block(p, [x + 0.37, z + 0.06], [0.7, 0.7], [0.0, 0.68], planks);
    block(p, [x + shift, z + 0.05], [0.7, 0.66], [0.7, 1.4], planks);
}

fn tyre(p: &mut Painter<'_>, [x, z]: [f32; 2], lying: bool) {
    let black = [36.0, 36.0, 40.0];
    p.shadow([x, z], [0.46, 0.34], 0.66, false);
    if lying {
        for layer in 0..3 {
            let y = 0.11 + 0.2 * layer as f32;
            let tread =
                |a: f32, _: f32| scale(black, if floor(14.0 * a) & 1 == 0 { 1.5 } else { 0.8 });
            p.surface(&ellipse([x, y, z], [0.38, 0.12]), Facing::Near, OOD, tread);
            p.face(&ellipse([x, y + 0.07, z], [0.35, 0.07]), Facing::Up, OOD, [56.0, 56.0, 60.0]);
            p.face(&ellipse([x, y + 0.07, z], [0.18, 0.035]), Facing::Up, OOD, [14.0; 3]);
        }
        return;
    }
    let tread = |a: f32, y: f32| {
        scale(black, if (floor(18.0 * a) + floor(18.0 * y)) & 1 == 0 { 1.4 } else { 0.8 })
    };
    p.surface(&ellipse([x, 0.32, z], [0.32, 0.32]), Facing::Near, OOD, tread);
    p.face(&ellipse([x, 0.32, z], [0.24, 0.24]), Facing::Near, OOD, [62.0, 62.0, 66.0]);
    p.face(&ellipse([x, 0.32, z], [0.17, 0.17]), Facing::Near, OOD, [16.0; 3]);
}

/// Two colours far apart, as on toys and warnings.
fn loud(rng: &mut Rng) -> [Rgb; 2] {
    let strong =
        [[230.0, 40.0, 120.0], [250.0, 120.0, 20.0], [40.0, 190.0, 200.0], [150.0, 60.0, 210.0]];
    [rng.colour(&strong, 10.0), rng.colour(&[[245.0, 240.0, 220.0], [250.0, 220.0, 60.0]], 8.0)]
}

fn ball(p: &mut Painter<'_>, [x, z]: [f32; 2], rng: &mut Rng) {
    let ([a_colour, b_colour], r) = (loud(rng), 0.21);
    p.shadow([x, z], [0.3, 0.2], 0.66, false);
    p.surface(&ellipse([x, r, z], [r, r]), Facing::Near, OOD, |a, y| {
        // The first point of the ellipse is its right end, so the middle is at (-r, 0).
        let (dx, dy) = (a / r + 1.0, y / r);
        let bulge = (1.0 - 0.75 * dy * dy).max(0.1).sqrt();
        let band = if floor(2.5 * dx / bulge + 0.5) & 1 == 0 { a_colour } else { b_colour };
        scale(band, 0.95 + 0.25 * dy - 0.12 * dx)
    });
}

fn cone(p: &mut Painter<'_>, [x, z]: [f32; 2], rng: &mut Rng) {
    let [body, band] = loud(rng);
    p.shadow([x, z], [0.36, 0.26], 0.6, false);
    p.face(&upright([x - 0.24, x + 0.24], [0.0, 0.06], z), Facing::Near, OOD, scale(body, 0.7));
    let sides =
        [[x - 0.17, 0.05, z], [x + 0.17, 0.05, z], [x + 0.035, 0.72, z], [x - 0.035, 0.72, z]];
    p.surface(&sides, Facing::Near, OOD, |a, y| {
        let colour =
            if (0.2..0.32).contains(&y) || (0.42..0.52).contains(&y) { band } else { body };
        scale(colour, 1.1 - 0.9 * (a - 0.17).abs())
    });
}

fn suitcase(p: &mut Painter<'_>, [x, z]: [f32; 2], rng: &mut Rng) {
    let [shell, strap] = loud(rng);
    p.shadow([x, z + 0.1], [0.46, 0.28], 0.66, false);
    let ribs = |a: f32, y: f32| {
        let colour = if (0.2..0.26).contains(&y) { strap } else { shell };
        scale(colour, if floor(14.0 * a) & 1 == 0 { 0.92 } else { 0.7 })
    };
    block(p, [x, z], [0.62, 0.24], [0.05, 0.5], ribs);
    for (a, b) in
        [([-0.12, 0.5], [-0.12, 0.64]), ([0.12, 0.5], [0.12, 0.64]), ([-0.14, 0.64], [0.14, 0.64])]
    {
        let handle = bar([x + a[0], a[1]], [x + b[0], b[1]], 0.04, z);
        p.face(&handle, Facing::Near, OOD, [40.0; 3]);
    }
}

fn branch(p: &mut Painter<'_>, [x, z]: [f32; 2], rng: &mut Rng) {
    let noise = tile();
    let bark = |a: f32, y: f32| scale([112.0, 78.0, 54.0], 1.0 + 0.5 * noise.at(8.0 * a, 40.0 * y));
    p.shadow([x, z], [1.0, 0.3], 0.6, false);
    let tip = rng.range(0.1, 0.22);
    p.surface(&bar([x - 0.85, 0.08], [x + 0.8, tip], 0.14, z), Facing::Near, OOD, bark);
    for k in 0..6 {
        let root = [x - 0.6 + 0.24 * k as f32, 0.1];
        let high = if k == 3 { 0.5 } else { rng.range(0.26, 0.48) };
        let end = [root[0] + rng.range(0.1, 0.4), high];
        p.surface(&bar(root, end, 0.05, z), Facing::Near, OOD, bark);
    }
}

#[cfg(test)]
mod tests {
    use super::super::canvas::Canvas;
    use super::super::{Pool, Scene, SceneConfig, paste_object};
    use super::*;

    /// The labels of one obstacle 8 m ahead, alone on a canvas of 640x360, and the focal length.
    fn alone(kind: Kind, seed: u64) -> (Vec<u8>, f32) {
        let scene = Scene::new(2, &SceneConfig::default()).unwrap();
        let (view, mut canvas) = (scene.view(0.0), Canvas::new(640, 360, 0));
        let (light, street) = (&scene.light, &scene.street);
        let mut painter = Painter { canvas: &mut canvas, view: &view, light, street };
        kind.draw(&mut painter, &Spot { x: view.x, z: 8.0, side: 1.0, length: 0.0, seed });
        (canvas.labels, view.focal)
    }

    #[test]
    fn obstacles_are_drawn_as_high_as_they_say() {
        for kind in Kind::BIG.into_iter().chain(Kind::SMALL) {
            for seed in 0..3 {
                let (labels, focal) = alone(kind, seed);
                let rows = labels.chunks_exact(640).filter(|row| row.contains(&OOD)).count();
                let share = rows as f32 * 8.0 / focal / kind.height();
                assert!((0.9..1.1).contains(&share), "{kind:?} {share}");
            }
        }
    }

    /// A mask's bounding box brought to 24x24.
    fn outline(mask: &[bool], width: usize) -> Vec<bool> {
        let rows: Vec<usize> = (0..mask.len() / width)
            .filter(|v| mask[v * width..(v + 1) * width].contains(&true))
            .collect();
        let columns: Vec<usize> =
            (0..width).filter(|u| rows.iter().any(|v| mask[v * width + u])).collect();
        let at = |line: &[usize], k: usize| line[0] + (line[line.len() - 1] - line[0]) * k / 23;
        (0..24 * 24).map(|k| mask[at(&rows, k / 24) * width + at(&columns, k % 24)]).collect()
    }

    #[test]
    fn no_outline_of_the_paste_pools_is_an_obstacles() {
        for pool in [Pool::Training, Pool::Validation] {
            let pasted: Vec<Vec<bool>> = (0..300)
                .map(|seed| {
                    let cutout = paste_object(pool, seed, 48);
                    let mask: Vec<bool> = cutout.rgba.chunks_exact(4).map(|p| p[3] != 0).collect();
                    outline(&mask, cutout.width as usize)
                })
                .collect();
            for kind in Kind::BIG.into_iter().chain(Kind::SMALL) {
                let mask: Vec<bool> = alone(kind, 1).0.iter().map(|&label| label == OOD).collect();
                let shape = outline(&mask, 640);
                let overlap = |other: &Vec<bool>| {
                    let both = shape.iter().zip(other).filter(|(a, b)| **a && **b).count();
                    let any = shape.iter().zip(other).filter(|(a, b)| **a || **b).count();
                    both as f32 / any as f32
                };
                let most = pasted.iter().map(overlap).fold(0.0, f32::max);
                assert!(most < 0.9, "{kind:?}: {most} of the union in common with {pool:?}");
            }
        }
    }
}
