//! Houses with windows and roofs, walls and fences.

use super::canvas::{Ink, Rgb, mix, scale};
use super::id;
use super::light::Facing;
use super::noise::{Rng, cell, floor, nearest, ramp, tile, within};
use super::painter::{Painter, Panel, Spot};
use super::street::Place;

const PLASTERS: [Rgb; 9] = [
    [206.0, 196.0, 176.0],
    [190.0, 168.0, 130.0],
    [176.0, 120.0, 92.0],
    [150.0, 84.0, 66.0],
    [198.0, 200.0, 198.0],
    [164.0, 172.0, 178.0],
    [214.0, 190.0, 122.0],
    [140.0, 132.0, 122.0],
    [120.0, 134.0, 128.0],
];
const TILES: [Rgb; 4] =
    [[140.0, 70.0, 52.0], [92.0, 66.0, 58.0], [82.0, 84.0, 90.0], [164.0, 96.0, 62.0]];

/// The looks of one front.
struct Facade {
    wall: Rgb,
    frame: Rgb,
    glass: Rgb,
    brick: bool,
    /// Width and height of one window's cell, metres.
    cell: [f32; 2],
    /// Half width and half height of a window.
    half: [f32; 2],
    shop: bool,
    dusk: bool,
    seed: u64,
}

impl Facade {
    fn new(rng: &mut Rng, town: bool, p: &Painter<'_>) -> Self {
        let cell = [rng.range(2.0, 3.6), rng.range(2.8, 3.4)];
        let wide = rng.range(0.24, 0.42);
        Self {
            wall: rng.colour(&PLASTERS, 14.0),
            frame: rng.pick(&[[228.0, 226.0, 220.0], [90.0, 80.0, 74.0], [196.0, 190.0, 180.0]]),
            glass: mix([38.0, 48.0, 62.0], p.light.haze, rng.range(0.02, 0.22)),
            brick: rng.chance(0.35),
            half: [cell[0] * wide, cell[1] * rng.range(0.24, 0.33)],
            cell,
            shop: town && rng.chance(0.6),
            dusk: p.light.dusk,
            seed: rng.bits(),
        }
    }

    /// Colour at `a` metres along and `y` metres up.
    fn at(&self, a: f32, y: f32, [across, up]: [f32; 2]) -> Ink {
        let noise = tile();
        let (i, j) = (floor(a / self.cell[0]), floor(y / self.cell[1]));
        let stain = 1.0 + 0.1 * noise.at(0.7 * a, 0.5 * y) + 0.09 * noise.at(16.0 * a, 16.0 * y);
        let mut wall = scale(self.wall, stain);
        if self.brick {
            let joints =
                within(nearest(y, 0.25), 0.03, up).max(0.6 * within(nearest(a, 0.5), 0.03, across));
            wall = scale(wall, 1.0 - 0.35 * joints);
        }
        let ground = self.shop && j == 0;
        let (half, middle) = if ground {
            ([0.44 * self.cell[0], 1.15], 1.35)
        } else {
            (self.half, self.cell[1] * 0.55)
        };
        let dx = a - (i as f32 + 0.5) * self.cell[0];
        let dy = y - j as f32 * self.cell[1] - middle;
        let pane = |grow: f32| within(dx, half[0] + grow, across) * within(dy, half[1] + grow, up);
        let (frame, glass) = (pane(0.09), pane(0.0));
        let cross = within(dx, 0.04, across).max(within(dy - 0.3 * half[1], 0.035, up));
        let chance = cell(i, j, self.seed);
        let mut pane = scale(self.glass, 0.75 + 0.5 * chance + 0.3 * ramp(-half[1], half[1], dy));
        if self.dusk && chance > 0.6 {
            pane = [430.0, 350.0, 210.0]; // brighter than white: the twilight dims every surface
        } else if chance < 0.2 {
            pane = mix(pane, [190.0, 184.0, 172.0], 0.6); // curtains
        }
        let colour = mix(mix(wall, self.frame, frame), mix(pane, self.frame, 0.8 * cross), glass);
        (colour, 1.0)
    }
}

/// A house on the building line, `spot.length` long.
pub(crate) fn house(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(spot.seed, 1);
    let town = p.street.place == Place::Town;
    let height = if town { rng.range(8.0, 24.0) } else { rng.range(3.6, 6.6) };
    let facade = Facade::new(&mut rng, town, p);
    let depth = rng.range(8.0, 11.0);
    let (side, outer) = (spot.side, spot.x + spot.side * depth);
    let facing = if side < 0.0 { Facing::Right } else { Facing::Left };
    let panel = |from: [f32; 2], to: [f32; 2], bottom: f32, top: f32, facing: Facing| Panel {
        from,
        to,
        bottom,
        top,
        facing,
        label: id::BUILDING,
    };
    let end = panel([spot.x, spot.z], [outer, spot.z], 0.0, height, Facing::Near);
    p.panel(&end, |a, y, size| facade.at(a, y, size));
    let front = panel([spot.x, spot.z], [spot.x, spot.z + spot.length], 0.0, height, facing);
    p.panel(&front, |a, y, size| facade.at(a, y, size));
    if town {
        let ledge = scale(facade.wall, 0.72);
        for (mut cornice, to) in [(end, [outer, spot.z]), (front, [spot.x, spot.z + spot.length])] {
            (cornice.to, cornice.bottom, cornice.top) = (to, height - 0.35, height + 0.25);
            p.panel(&cornice, |_, _, _| (ledge, 1.0));
        }
    } else {
        let tiles = rng.colour(&TILES, 10.0);
        roof(p, spot, [height, depth], (facade.wall, tiles));
    }
}

/// A pitched roof with its gable.
fn roof(p: &mut Painter<'_>, spot: &Spot, [eaves, depth]: [f32; 2], (wall, tiles): (Rgb, Rgb)) {
    let ridge = eaves + 0.42 * depth;
    let x = |share: f32| spot.x + spot.side * depth * share;
    let (z0, z1) = (spot.z, spot.z + spot.length);
    let low = eaves - 0.2;
    let gable = [[x(-0.06), low, z0], [x(1.06), low, z0], [x(0.5), ridge, z0]];
    p.face(&gable, Facing::Near, id::BUILDING, scale(wall, 0.95));
    let slope =
        [[x(-0.06), low, z0], [x(0.5), ridge, z0], [x(0.5), ridge, z1], [x(-0.06), low, z1]];
    let facing = if spot.side < 0.0 { Facing::Right } else { Facing::Left };
    let noise = tile();
    p.surface(&slope, facing, id::BUILDING, |a, y| {
        scale(tiles, 1.05 + 0.16 * noise.at(3.0 * a, 9.0 * y) - 0.1 * nearest(y, 0.3).abs())
    });
}

/// A wall along the street: bricks, concrete or plaster with a coping.
pub(crate) fn wall(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(p.street.seed, 50 + u64::from(spot.side > 0.0));
    let country = p.street.place == Place::Country;
    let height = if country { rng.range(0.8, 1.1) } else { rng.range(1.3, 2.4) };
    let stones = [[150.0, 88.0, 70.0], [168.0, 166.0, 160.0], [186.0, 178.0, 160.0]];
    let (colour, brick) = (rng.colour(&stones, 12.0), rng.chance(0.5) && !country);
    let noise = tile();
    p.panel(&along(spot, height, id::WALL), |a, y, [across, up]| {
        let mut k = 1.0 + 0.14 * noise.at(1.3 * a, 1.1 * y) + 0.12 * noise.at(20.0 * a, 20.0 * y);
        if brick {
            let shift = 0.2 * (floor(y / 0.22) & 1) as f32;
            k -= 0.3 * within(nearest(y, 0.22), 0.025, up);
            k -= 0.2 * within(nearest(a + shift, 0.4), 0.025, across);
        } else {
            k -= 0.25 * within(nearest(a, 2.5), 0.04, across);
        }
        k += 0.3 * ramp(height - 0.14, height - 0.1, y) - 0.2 * ramp(0.3, 0.0, y);
        (scale(colour, k), 1.0)
    });
}

/// A fence along the street: boards, pickets or wire mesh.
pub(crate) fn fence(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(p.street.seed, 60 + u64::from(spot.side > 0.0));
    let (height, kind) = (rng.range(1.0, 1.9), rng.unit());
    let woods = [[142.0, 108.0, 72.0], [210.0, 206.0, 196.0], [112.0, 98.0, 86.0]];
    let (wood, noise) = (rng.colour(&woods, 12.0), tile());
    let steel = [104.0, 112.0, 112.0];
    p.panel(&along(spot, height, id::FENCE), |a, y, [across, up]| {
        let post = within(nearest(a, 2.0), 0.05, across);
        if kind < 0.4 {
            // Mesh: what is behind shines through, the label is the fence's as in Cityscapes.
            return (
                scale(steel, 1.0 - 0.3 * post),
                (0.55 + post + within(y - height + 0.06, 0.05, up)).min(1.0),
            );
        }
        let gap = within(nearest(a, 0.16), 0.02, across);
        let rail = within(y - 0.3, 0.06, up).max(within(y - height + 0.3, 0.06, up));
        let k = 1.0 + 0.2 * noise.at(7.0 * a, 2.0 * y) - 0.55 * gap * (1.0 - rail) - 0.12 * post;
        (scale(wood, k), 1.0)
    });
}

/// The plane of a wall or fence over `spot.length`.
fn along(spot: &Spot, top: f32, label: u8) -> Panel {
    let facing = if spot.side < 0.0 { Facing::Right } else { Facing::Left };
    let to = [spot.x, spot.z + spot.length];
    Panel { from: [spot.x, spot.z], to, bottom: 0.0, top, facing, label }
}
