//! What stands where: the things of one frame, each from the slot of road that it belongs to.

use super::camera::{NEAR, View};
use super::noise::{Rng, floor, hash, narrow, sin};
use super::painter::{Painter, Spot};
use super::street::{Place, Street};
use super::unknown::Kind;
use super::{buildings, furniture, nature, people, vehicles};

/// Things further ahead are left out, metres.
const FAR: f32 = 150.0;

/// How a thing is drawn.
type Draw = fn(&mut Painter<'_>, &Spot);

/// Something to draw, the deepest first.
pub(crate) struct Item {
    /// Order of painting, metres ahead.
    pub(crate) depth: f32,
    /// Where.
    pub(crate) spot: Spot,
    /// What.
    pub(crate) what: What,
}

/// What an item is.
#[derive(Clone, Copy)]
pub(crate) enum What {
    /// Of a known class.
    Known(Draw),
    /// A tree, whose shadow falls before all items.
    Tree,
    /// Of the held-back pool.
    Unknown(Kind),
}

/// The things of one frame.
pub(crate) struct World<'a> {
    street: &'a Street,
    view: &'a View,
    /// Seconds since the scene began.
    seconds: f64,
    /// The camera's speed, metres per second.
    speed: f32,
    /// Obstacles lie along the road: nothing drives in our lane and the one beside it.
    clear: bool,
    /// Unordered until [`World::sorted`].
    items: Vec<Item>,
}

impl<'a> World<'a> {
    /// Everything known of a frame.
    pub(crate) fn new(
        street: &'a Street,
        view: &'a View,
        seconds: f64,
        speed: f32,
        clear: bool,
    ) -> Self {
        let mut world = Self { street, view, seconds, speed, clear, items: Vec::new() };
        for side in [-1.0, 1.0] {
            world.built(side);
            world.grown(side);
            world.furniture(side);
            world.parked(side);
            world.walking(side);
        }
        world.junctions();
        world.traffic();
        world
    }

    /// Adds unknown obstacles, and takes away road users who would stand in one of them.
    pub(crate) fn with_unknowns(mut self, unknowns: &[(Kind, Spot)]) -> Self {
        for (kind, spot) in unknowns {
            let clear = self.clear;
            self.items.retain(|item| {
                let gap = (item.spot.x - spot.x).abs();
                let ahead = spot.z - item.spot.z;
                clear || gap > 2.0 || !(-2.5..14.0).contains(&ahead)
            });
            self.items.push(Item { depth: spot.z, spot: *spot, what: What::Unknown(*kind) });
        }
        self
    }

    /// The items, the deepest first.
    pub(crate) fn sorted(mut self) -> Vec<Item> {
        self.items.retain(|item| item.spot.z < FAR);
        self.items.sort_by(|a, b| b.depth.total_cmp(&a.depth));
        self.items
    }

    /// The slots of `length` metres of something that moves at `speed`: a generator each, and metres
    /// ahead.
    fn slots(
        &self,
        stream: u64,
        length: f32,
        speed: f32,
    ) -> impl Iterator<Item = (Rng, f32)> + use<> {
        let (seed, length) = (hash(self.street.seed, stream), f64::from(length));
        let here = self.view.travelled - f64::from(speed) * self.seconds;
        let first = (here / length).floor() - 2.0;
        let count = floor(FAR / narrow(length)) + 4;
        (0..count).map(move |k| {
            let slot = first + f64::from(k);
            (Rng::new(seed, slot.to_bits()), narrow(slot * length - here))
        })
    }

    fn push(&mut self, depth: f32, spot: Spot, what: What) {
        if spot.z + spot.length.max(30.0) > NEAR {
            self.items.push(Item { depth, spot, what });
        }
    }

    /// Something that stands at its own depth.
    fn stand(&mut self, draw: Draw, [x, z]: [f32; 2], side: f32, rng: &mut Rng) {
        let spot = Spot { x, z, side, length: 0.0, seed: rng.bits() };
        self.push(z, spot, What::Known(draw));
    }

    /// Houses, walls, fences, hedges.
    fn built(&mut self, side: f32) {
        let street = self.street;
        let stream = 100 + u64::from(side > 0.0);
        let edge = street.edge(side);
        let share = match street.place {
            Place::Town => 0.9,
            Place::Suburb => 0.62,
            Place::Country => 0.05,
        };
        let house_x = side * (edge + street.of(street.house_line, side));
        let wall_x = side * (edge + street.of(street.wall_line, side));
        for (mut rng, z) in self.slots(stream, 20.0, 0.0) {
            let house = rng.chance(share);
            if house {
                let length = if street.place == Place::Town { 20.0 } else { rng.range(9.0, 15.0) };
                let spot = Spot { x: house_x, z, side, length, seed: rng.bits() };
                self.push(z + 20.2, spot, What::Known(buildings::house));
            }
            if house && street.place == Place::Town {
                continue;
            }
            let draw: Draw = match rng.unit() {
                u if u < 0.3 => buildings::wall,
                u if u < 0.65 => buildings::fence,
                u if u < 0.85 => nature::hedge,
                _ => continue,
            };
            let spot = Spot { x: wall_x, z, side, length: 20.0, seed: rng.bits() };
            self.push(z + 20.0, spot, What::Known(draw));
        }
    }

    /// Trees and bushes: on the pavement in town, behind the wall line elsewhere.
    fn grown(&mut self, side: f32) {
        let street = self.street;
        let edge = street.edge(side);
        let (walk, line) = (street.of(street.walk, side), street.of(street.wall_line, side));
        for (mut rng, z) in self.slots(110 + u64::from(side > 0.0), 10.0, 0.0) {
            let z = z + rng.range(0.0, 4.0);
            let (share, x) = match street.place {
                Place::Town => (0.3, edge + walk - 0.7),
                Place::Suburb => (0.5, edge + line + rng.range(1.4, 3.0)),
                Place::Country => (0.6, edge + line + rng.range(2.0, 16.0)),
            };
            if rng.chance(share) {
                let spot = Spot { x: side * x, z, side, length: 0.0, seed: rng.bits() };
                // Behind a wall's slot of 20 m, so painted before it.
                let depth = if street.place == Place::Town { z } else { self.slot_end(z) + 0.1 };
                self.push(depth, spot, What::Tree);
            }
            if street.place != Place::Town && rng.chance(0.4) {
                let x = side * (edge + walk + rng.range(0.5, 1.0).min(line - walk + 0.3));
                self.stand(nature::bush, [x, z + 3.0], side, &mut rng);
            }
        }
    }

    /// Metres ahead of the end of the 20 m slot around `z`.
    fn slot_end(&self, z: f32) -> f32 {
        let slot = ((self.view.travelled + f64::from(z)) / 20.0).floor() + 1.0;
        narrow(slot * 20.0 - self.view.travelled)
    }

    /// Lamp posts, poles, signs.
    fn furniture(&mut self, side: f32) {
        let street = self.street;
        let x = side * (street.edge(side) + 0.45);
        let stream = 120 + u64::from(side > 0.0);
        let country = street.place == Place::Country;
        for (mut rng, z) in self.slots(stream, 28.0, 0.0) {
            if rng.chance(if country { 0.15 } else { 0.75 }) {
                self.stand(furniture::lamp_post, [x, z + 6.0], side, &mut rng);
            }
            if rng.chance(0.3) {
                let out = x + side * street.of(street.walk, side);
                self.stand(furniture::pole, [out, z + 17.0], side, &mut rng);
            }
            if rng.chance(0.5) {
                self.stand(furniture::sign, [x, z + rng.range(9.0, 24.0)], side, &mut rng);
            }
        }
    }

    /// Parked cars and lorries, bicycles and motorcycles at the kerb.
    fn parked(&mut self, side: f32) {
        let street = self.street;
        let crowd = street.crowd;
        let stream = 130 + u64::from(side > 0.0);
        let x = side * (street.edge(side) - 1.1);
        for (mut rng, z) in self.slots(stream, 12.0, 0.0).filter(|_| street.parking > 0.0) {
            if rng.chance(0.08) {
                self.stand(vehicles::truck, [x, z], side, &mut rng);
            } else {
                for shift in [0.0, 6.0] {
                    if rng.chance(crowd) {
                        let z = z + shift + rng.range(0.0, 0.8);
                        self.stand(vehicles::car, [x, z], side, &mut rng);
                    }
                }
            }
        }
        let walk = street.of(street.walk, side);
        for (mut rng, z) in self.slots(stream + 2, 9.0, 0.0).filter(|_| walk > 0.0) {
            let x = side * (street.edge(side) + rng.range(0.9, 1.2));
            if rng.chance(0.35 * crowd) {
                self.stand(people::bicycle, [x, z + 2.0], side, &mut rng);
            } else if rng.chance(0.22 * crowd) {
                self.stand(people::motorcycle, [x, z + 2.0], side, &mut rng);
            }
        }
    }

    /// People on the pavements: some stand, some walk either way.
    fn walking(&mut self, side: f32) {
        let street = self.street;
        let walk = street.of(street.walk, side);
        let density = if walk > 0.0 { 0.62 * street.crowd } else { 0.03 };
        for (group, speed) in [0.0, 1.3, -1.2].into_iter().enumerate() {
            let stream = 140 + 2 * group as u64 + u64::from(side > 0.0);
            for (mut rng, z) in self.slots(stream, 12.0, speed) {
                if rng.chance(density) {
                    let across = rng.range(0.5, (walk - 0.4).max(0.8));
                    let spot = Spot {
                        x: side * (street.edge(side) + across),
                        z: z + rng.range(0.0, 9.0),
                        side,
                        length: speed * narrow(self.seconds % 1000.0),
                        seed: rng.bits(),
                    };
                    self.push(spot.z, spot, What::Known(people::person));
                }
            }
        }
    }

    /// Traffic lights at crossings, and people who cross.
    fn junctions(&mut self) {
        let street = self.street;
        for (mut rng, z) in self.crossings() {
            for side in [-1.0, 1.0] {
                let x = side * (street.edge(side) + 0.6);
                self.stand(furniture::traffic_light, [x, z - 1.0], side, &mut rng);
            }
            // They keep to the half that we do not drive through.
            let wide = street.edge(-1.0) + street.own_lane() - 1.4;
            for _ in 0..floor(3.9 * street.crowd) {
                let way = 1.3 * narrow(self.seconds % 1000.0) + rng.range(0.0, wide);
                let x = way - wide * floor(way / wide) as f32 - street.edge(-1.0);
                let spot = Spot {
                    x,
                    z: z + rng.range(0.4, 2.6),
                    side: 1.0,
                    length: way,
                    seed: rng.bits(),
                };
                self.push(spot.z, spot, What::Known(people::person));
            }
        }
    }

    /// Metres ahead of the crossings.
    pub(crate) fn crossings(&self) -> Vec<(Rng, f32)> {
        let share = if self.street.place == Place::Country { 0.0 } else { 0.75 };
        self.slots(150, 90.0, 0.0)
            .filter_map(|(mut rng, z)| rng.chance(share).then_some((rng, z + 20.0)))
            .filter(|(_, z)| *z > -5.0 && *z < 110.0)
            .collect()
    }

    /// Repair patches and manholes.
    pub(crate) fn patches(&self) -> Vec<Spot> {
        let street = self.street;
        let spot = |(mut rng, z): (Rng, f32)| {
            let x = rng.range(-street.edge(-1.0) + 1.7, street.edge(1.0) - 1.7);
            let spot = Spot { x, z, side: 1.0, length: 0.0, seed: rng.bits() };
            rng.chance(0.5).then_some(spot)
        };
        self.slots(160, 14.0, 0.0).filter_map(spot).filter(|spot| spot.z < 80.0).collect()
    }

    /// Vehicles that drive: before us, beside us and towards us.
    fn traffic(&mut self) {
        let street = self.street;
        let own = self.speed;
        let free = |x: f32| !self.clear || (x - street.own_lane()).abs() > 1.2 * street.lane;
        let lanes = |side: f32| {
            (0..floor(street.of(street.lanes, side)))
                .map(move |lane| (lane, side * (lane as f32 + 0.5) * street.lane))
                .filter(|&(_, x)| free(x))
                .collect::<Vec<_>>()
        };
        let (left, right) = (lanes(-1.0), lanes(1.0));
        let sway = 0.12 * sin(narrow(self.seconds % 1000.0) / 8.0);
        for (lane, x) in right {
            let ours = (x - street.own_lane()).abs() < 0.1;
            let speed = if ours { own } else { 1.12 * own };
            for (mut rng, z) in self.slots(170 + lane as u64, 34.0, speed) {
                let z = z + rng.range(0.0, 14.0);
                if rng.chance(0.8 * street.crowd) && (!ours || z > 13.0) {
                    self.drive(x + sway, z, 1.0, &mut rng);
                }
            }
        }
        for (lane, x) in left {
            if street.tram && lane == 0 {
                for (mut rng, z) in self.slots(180, 70.0, -8.0) {
                    if rng.chance(0.85) {
                        self.stand(vehicles::tram, [x, z], -1.0, &mut rng);
                    }
                }
                continue;
            }
            for (mut rng, z) in self.slots(175 + lane as u64, 30.0, -0.9 * own) {
                if rng.chance(street.crowd) {
                    self.drive(x, z, -1.0, &mut rng);
                }
            }
        }
        for (side, speed) in [(1.0, 4.5), (-1.0, -4.0)].into_iter().skip(usize::from(self.clear)) {
            let x = side * (street.edge(side) - street.parking - 0.5);
            for (mut rng, z) in self.slots(185 + u64::from(side > 0.0), 30.0, speed) {
                if rng.chance(0.5 * street.crowd) {
                    self.stand(people::cyclist, [x, z + rng.range(0.0, 12.0)], side, &mut rng);
                }
            }
        }
    }

    /// One vehicle in a lane.
    fn drive(&mut self, x: f32, z: f32, side: f32, rng: &mut Rng) {
        let draw: Draw = match rng.unit() {
            u if u < 0.66 => vehicles::car,
            u if u < 0.79 => vehicles::truck,
            u if u < 0.89 => vehicles::bus,
            _ => people::motorcycle,
        };
        let spot = Spot { x, z, side, length: 1.0, seed: rng.bits() };
        self.push(z, spot, What::Known(draw));
    }
}
