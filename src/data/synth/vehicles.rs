//! Cars, lorries, buses and trams: boxes with profiles, seen from behind or from the front.

use super::canvas::{Rgb, scale};
use super::id;
use super::light::Facing;
use super::noise::Rng;
use super::painter::{Painter, Spot, ellipse, upright, wheel};

const PAINTS: [Rgb; 10] = [
    [214.0, 214.0, 214.0],
    [160.0, 164.0, 168.0],
    [46.0, 48.0, 54.0],
    [84.0, 88.0, 94.0],
    [150.0, 28.0, 32.0],
    [36.0, 62.0, 122.0],
    [60.0, 96.0, 150.0],
    [128.0, 104.0, 78.0],
    [46.0, 84.0, 64.0],
    [214.0, 168.0, 48.0],
];
const GLASS: Rgb = [44.0, 54.0, 64.0];
const RUBBER: Rgb = [30.0, 30.0, 32.0];

/// The profile of a car: shares of its length from an end to the glass, and of the glass's slope.
struct Car {
    width: f32,
    length: f32,
    belt: f32,
    roof: f32,
    /// `[deck, slope]` of the end that we see, then of the other.
    ends: [[f32; 2]; 2],
    paint: Rgb,
}

/// A car from its near end on: its back when it drives with us, its front when it comes.
pub(crate) fn car(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(spot.seed, 1);
    let kind = rng.unit();
    let (roof, back) = match kind {
        k if k < 0.35 => (1.44, [0.13, 0.12]),
        k if k < 0.7 => (1.48, [0.03, 0.09]),
        k if k < 0.9 => (1.7, [0.02, 0.06]),
        _ => (1.95, [0.01, 0.02]),
    };
    let front = if kind < 0.9 { [0.23, 0.15] } else { [0.14, 0.12] };
    let car = Car {
        width: rng.range(1.7, 1.88),
        length: rng.range(3.9, 4.8),
        belt: 0.52 * roof + 0.14,
        roof,
        ends: if spot.side > 0.0 { [back, front] } else { [front, back] },
        paint: rng.colour(&PAINTS, 10.0),
    };
    let [x, z] = [spot.x, spot.z];
    p.shadow([x, z + car.length / 2.0], [0.62 * car.width, 0.58 * car.length], 0.62, false);
    let (half, end) = (0.46 * car.width, z + car.length);
    p.darken(
        &[[x - half, 0.0, z], [x + half, 0.0, z], [x + half, 0.0, end], [x - half, 0.0, end]],
        0.75,
    );
    flanks(p, &car, [x, z]);
    near_end(p, &car, [x, z]);
    if spot.side > 0.0 { tail(p, &car, [x, z], rng.chance(0.3)) } else { nose(p, &car, [x, z]) }
}

/// The flank of a car on the seen side, with windows and wheels.
fn flanks(p: &mut Painter<'_>, car: &Car, [x, z]: [f32; 2]) {
    let seen = p.flanks([x, z], [car.width, car.length]);
    let [[d0, s0], [d1, s1]] = car.ends;
    for (shown, sign, facing) in [(seen[0], -1.0, Facing::Left), (seen[1], 1.0, Facing::Right)] {
        if !shown {
            continue;
        }
        let out = x + sign * car.width / 2.0;
        let at = |share: f32, y: f32, lean: f32| [out - sign * lean, y, z + share * car.length];
        let (belt, roof) = (car.belt, car.roof);
        let body = [
            at(0.0, 0.3, 0.0),
            at(0.0, 0.9 * belt, 0.0),
            at(d0, belt, 0.0),
            at(d0 + s0, roof, 0.14),
            at(1.0 - d1 - s1, roof, 0.14),
            at(1.0 - d1, belt, 0.0),
            at(1.0, 0.85 * belt, 0.0),
            at(1.0, 0.3, 0.0),
        ];
        p.face(&body, facing, id::CAR, car.paint);
        let window = [
            at(d0 + 0.05, belt + 0.04, 0.02),
            at(d0 + s0 + 0.02, roof - 0.1, 0.12),
            at(0.98 - d1 - s1, roof - 0.1, 0.12),
            at(0.95 - d1, belt + 0.04, 0.02),
        ];
        p.face(&window, facing, id::CAR, GLASS);
        let post = [
            at(0.52, belt, 0.02),
            at(0.54, belt, 0.02),
            at(0.54, roof - 0.05, 0.12),
            at(0.52, roof - 0.05, 0.12),
        ];
        p.face(&post, facing, id::CAR, scale(car.paint, 0.8));
        for share in [0.18, 0.81] {
            let [wx, _, wz] = at(share, 0.0, 0.01);
            p.face(&wheel([wx, 0.32, wz], 0.33), facing, id::CAR, RUBBER);
            p.face(&wheel([wx, 0.32, wz], 0.19), facing, id::CAR, [128.0, 130.0, 132.0]);
        }
    }
}

/// Body, deck, glass and roof of the end that we see.
fn near_end(p: &mut Painter<'_>, car: &Car, [x, z]: [f32; 2]) {
    let half = car.width / 2.0;
    let [[deck, slope], [d1, s1]] = car.ends;
    let (z_belt, z_roof) = (z + deck * car.length, z + (deck + slope) * car.length);
    let z_end = z + (1.0 - d1 - s1) * car.length;
    let across = |w: f32, y: f32, z: f32| [[x - w, y, z], [x + w, y, z]];
    let band = |low: [[f32; 3]; 2], high: [[f32; 3]; 2]| [low[0], low[1], high[1], high[0]];
    for side in [-1.0, 1.0] {
        let tyre = upright([x + side * half - side * 0.24, x + side * half], [0.0, 0.4], z + 0.1);
        p.face(&tyre, Facing::Near, id::CAR, RUBBER);
    }
    let roof = band(across(half - 0.13, car.roof, z_roof), across(half - 0.13, car.roof, z_end));
    p.face(&roof, Facing::Up, id::CAR, car.paint);
    let frame = band(across(half + 0.01, car.belt, z_belt), across(half - 0.12, car.roof, z_roof));
    p.face(&frame, Facing::Near, id::CAR, scale(car.paint, 0.9));
    let glass = band(
        across(half - 0.14, car.belt + 0.04, z_belt),
        across(half - 0.22, car.roof - 0.07, z_roof),
    );
    p.face(&glass, Facing::Near, id::CAR, GLASS);
    let lid = band(across(half + 0.01, 0.9 * car.belt, z), across(half + 0.01, car.belt, z_belt));
    p.face(&lid, Facing::Up, id::CAR, scale(car.paint, 0.92));
    p.face(
        &band(across(half - 0.02, 0.24, z), across(half + 0.01, 0.9 * car.belt, z)),
        Facing::Near,
        id::CAR,
        car.paint,
    );
    p.face(
        &upright([x - half + 0.04, x + half - 0.04], [0.22, 0.42], z),
        Facing::Near,
        id::CAR,
        [52.0, 54.0, 56.0],
    );
}

/// Tail lights and number plate.
fn tail(p: &mut Painter<'_>, car: &Car, [x, z]: [f32; 2], braking: bool) {
    let (half, y) = (car.width / 2.0, 0.74 * car.belt);
    for side in [-1.0, 1.0] {
        let lamp =
            upright([x + side * (half - 0.34), x + side * (half - 0.04)], [y - 0.1, y + 0.08], z);
        if braking || p.light.dusk {
            p.lamp(&lamp, id::CAR, [255.0, 52.0, 40.0]);
        } else {
            p.face(&lamp, Facing::Near, id::CAR, [150.0, 24.0, 26.0]);
        }
    }
    p.face(
        &upright([x - 0.26, x + 0.26], [0.48, 0.6], z),
        Facing::Near,
        id::CAR,
        [226.0, 224.0, 206.0],
    );
}

/// Headlights, grille and number plate.
fn nose(p: &mut Painter<'_>, car: &Car, [x, z]: [f32; 2]) {
    let (half, y) = (car.width / 2.0, 0.72 * car.belt);
    p.face(&upright([x - 0.5, x + 0.5], [y - 0.12, y + 0.06], z), Facing::Near, id::CAR, [26.0; 3]);
    for side in [-1.0, 1.0] {
        let lamp = ellipse([x + side * (half - 0.24), y, z], [0.19, 0.09]);
        if p.light.dusk || p.light.rain > 0.0 {
            p.lamp(&lamp, id::CAR, [255.0, 250.0, 228.0]);
        } else {
            p.face(&lamp, Facing::Near, id::CAR, [222.0, 226.0, 230.0]);
        }
    }
    p.face(
        &upright([x - 0.26, x + 0.26], [0.46, 0.57], z),
        Facing::Near,
        id::CAR,
        [226.0, 224.0, 206.0],
    );
}

/// A long box on wheels.
struct Wagon {
    width: f32,
    length: f32,
    bottom: f32,
    top: f32,
    paint: Rgb,
    label: u8,
}

impl Wagon {
    /// The box without its trimmings.
    fn hull(&self, p: &mut Painter<'_>, [x, z]: [f32; 2]) {
        let half = self.width / 2.0;
        for (seen, sign, facing) in self.sides(p, [x, z]) {
            if seen {
                let flank = self.flank(x + sign * half, z, [0.0, 1.0], [self.bottom, self.top]);
                p.face(&flank, facing, self.label, self.paint);
            }
        }
        let face = upright([x - half, x + half], [self.bottom, self.top], z);
        p.face(&face, Facing::Near, self.label, self.paint);
    }

    fn sides(&self, p: &Painter<'_>, at: [f32; 2]) -> [(bool, f32, Facing); 2] {
        let [left, right] = p.flanks(at, [self.width, self.length]);
        [(left, -1.0, Facing::Left), (right, 1.0, Facing::Right)]
    }

    /// A rectangle on a flank, in shares of the length.
    fn flank(&self, x: f32, z: f32, [from, to]: [f32; 2], [low, high]: [f32; 2]) -> [[f32; 3]; 4] {
        let (z0, z1) = (z + from * self.length, z + to * self.length);
        [[x, low, z0], [x, high, z0], [x, high, z1], [x, low, z1]]
    }

    fn wheels(&self, p: &mut Painter<'_>, [x, z]: [f32; 2], shares: &[f32]) {
        for (seen, sign, facing) in self.sides(p, [x, z]) {
            for share in shares.iter().filter(|_| seen) {
                let at = [x + sign * self.width / 2.0, 0.5, z + share * self.length];
                p.face(&wheel(at, 0.5), facing, self.label, RUBBER);
                p.face(&wheel(at, 0.24), facing, self.label, [134.0; 3]);
            }
        }
    }

    /// The tyres of the last axle, under the hull.
    fn tyres(&self, p: &mut Painter<'_>, [x, z]: [f32; 2]) {
        for side in [-1.0, 1.0] {
            let outer = x + side * self.width / 2.0;
            let tyre = upright([outer - side * 0.5, outer], [0.0, 0.9], z + 0.4);
            p.face(&tyre, Facing::Near, self.label, RUBBER);
        }
    }

    fn lamps(&self, p: &mut Painter<'_>, [x, z]: [f32; 2], y: f32, colour: Rgb) {
        for side in [-1.0, 1.0] {
            let lamp = ellipse([x + side * (self.width / 2.0 - 0.25), y, z], [0.16, 0.12]);
            p.face(&lamp, Facing::Near, self.label, colour);
        }
    }
}

/// A lorry: box body with doors, cab at its front.
pub(crate) fn truck(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(spot.seed, 1);
    let at = [spot.x, spot.z];
    let [x, z] = at;
    let cargo = rng.colour(
        &[[208.0, 206.0, 200.0], [60.0, 90.0, 140.0], [176.0, 60.0, 46.0], [90.0, 120.0, 84.0]],
        14.0,
    );
    let cab = rng.colour(&PAINTS, 8.0);
    let length = rng.range(6.5, 10.0);
    let body = Wagon {
        width: 2.45,
        length,
        bottom: 1.0,
        top: rng.range(3.1, 3.8),
        paint: cargo,
        label: id::TRUCK,
    };
    p.shadow([x, z + length / 2.0], [1.5, 0.56 * length], 0.66, false);
    body.tyres(p, at);
    body.wheels(p, at, &[0.12, 0.24, 0.86]);
    let under = upright([x - 1.1, x + 1.1], [0.45, 1.0], z + 0.3);
    p.face(&under, Facing::Near, id::TRUCK, [46.0, 46.0, 48.0]);
    let cabin =
        Wagon { width: 2.4, length: 2.1, bottom: 0.5, top: 2.9, paint: cab, label: id::TRUCK };
    if spot.side > 0.0 {
        cabin.hull(p, [x, z + length + 0.3]);
        body.hull(p, at);
        for side in [-1.0, 1.0] {
            let door = upright([x + side * 0.05, x + side * 1.1], [1.15, body.top - 0.15], z);
            p.face(&door, Facing::Near, id::TRUCK, scale(cargo, 0.86));
        }
        body.lamps(p, at, 0.85, [170.0, 30.0, 28.0]);
    } else {
        body.hull(p, [x, z + 2.3]);
        cabin.hull(p, at);
        p.face(&upright([x - 1.05, x + 1.05], [1.7, 2.65], z), Facing::Near, id::TRUCK, GLASS);
        p.face(
            &upright([x - 0.8, x + 0.8], [0.8, 1.4], z),
            Facing::Near,
            id::TRUCK,
            scale(cab, 0.5),
        );
        cabin.lamps(p, at, 0.8, [232.0, 232.0, 220.0]);
    }
}

/// A bus: rows of windows, a large pane at the end, a lit line number.
pub(crate) fn bus(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(spot.seed, 1);
    let liveries = [
        [214.0, 176.0, 40.0],
        [176.0, 36.0, 40.0],
        [54.0, 110.0, 168.0],
        [222.0, 222.0, 216.0],
        [70.0, 134.0, 84.0],
    ];
    let paint = rng.colour(&liveries, 8.0);
    let bus = Wagon {
        width: 2.5,
        length: rng.range(9.0, 12.0),
        bottom: 0.35,
        top: 3.05,
        paint,
        label: id::BUS,
    };
    coach(p, spot, &bus, 7);
    bus.wheels(p, [spot.x, spot.z], &[0.22, 0.78]);
    let number = upright([spot.x - 0.7, spot.x + 0.7], [2.7, 2.95], spot.z);
    p.lamp(&number, id::BUS, [240.0, 170.0, 60.0]);
}

/// A tram: a longer coach in two colours on rails, with its pantograph.
pub(crate) fn tram(p: &mut Painter<'_>, spot: &Spot) {
    let mut rng = Rng::new(spot.seed, 1);
    let paint =
        rng.colour(&[[200.0, 40.0, 44.0], [226.0, 220.0, 196.0], [44.0, 110.0, 120.0]], 8.0);
    let tram = Wagon { width: 2.4, length: 22.0, bottom: 0.25, top: 3.4, paint, label: id::TRAIN };
    let (x, z) = (spot.x, spot.z);
    for (a, b) in
        [([x - 0.6, 3.4], [x, 4.1]), ([x + 0.6, 3.4], [x, 4.1]), ([x - 0.8, 4.1], [x + 0.8, 4.1])]
    {
        let arm = super::painter::bar(a, b, 0.07, z + 6.0);
        p.face(&arm, Facing::Near, id::TRAIN, [60.0; 3]);
    }
    coach(p, spot, &tram, 12);
    let skirt = upright([x - 1.2, x + 1.2], [0.25, 1.0], z);
    p.face(&skirt, Facing::Near, id::TRAIN, scale(paint, 0.55));
    tram.lamps(p, [x, z], 0.9, [240.0, 240.0, 224.0]);
}

/// Hull, windows and end pane of a bus or tram.
fn coach(p: &mut Painter<'_>, spot: &Spot, wagon: &Wagon, windows: i32) {
    let (x, z) = (spot.x, spot.z);
    p.shadow([x, z + wagon.length / 2.0], [1.55, 0.55 * wagon.length], 0.66, false);
    if wagon.label == id::BUS {
        wagon.tyres(p, [x, z]);
    }
    wagon.hull(p, [x, z]);
    for (seen, sign, facing) in wagon.sides(p, [x, z]) {
        for k in (0..windows).filter(|_| seen) {
            let (from, to) = (k as f32 + 0.14, k as f32 + 0.92);
            let share = [from / windows as f32, to / windows as f32];
            let pane =
                wagon.flank(x + sign * wagon.width / 2.0, z, share, [1.35, wagon.top - 0.45]);
            p.face(&pane, facing, wagon.label, GLASS);
        }
    }
    let half = wagon.width / 2.0 - 0.15;
    let low = if spot.side > 0.0 { 1.6 } else { 1.15 };
    p.face(
        &upright([x - half, x + half], [low, wagon.top - 0.4], z),
        Facing::Near,
        wagon.label,
        GLASS,
    );
    let lamp = if spot.side > 0.0 { [170.0, 28.0, 28.0] } else { [238.0, 238.0, 224.0] };
    wagon.lamps(p, [x, z], 0.8, lamp);
}
