//! What a scene's street is like: lanes, pavements, building lines, materials.

use super::canvas::Rgb;
use super::noise::Rng;

/// The surroundings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Blocks of flats and shops on both sides, wide pavements.
    Town,
    /// Houses behind gardens, fences and walls, narrow pavements.
    Suburb,
    /// Fields, hills and rows of trees; barriers instead of houses.
    Country,
}

/// The cross-section and the styles of one scene's street. Pairs are `[left, right]`.
#[derive(Clone, Debug)]
pub(crate) struct Street {
    /// Seed of the things along it.
    pub(crate) seed: u64,
    /// The surroundings.
    pub(crate) place: Place,
    /// Width of a lane, metres.
    pub(crate) lane: f32,
    /// Lanes towards us (left) and with us (right).
    pub(crate) lanes: [f32; 2],
    /// Width of the strip of parked cars beside the lanes, 0 without.
    pub(crate) parking: f32,
    /// Width of the pavements.
    pub(crate) walk: [f32; 2],
    /// From the road's edge to the walls and fences.
    pub(crate) wall_line: [f32; 2],
    /// From the road's edge to the houses.
    pub(crate) house_line: [f32; 2],
    /// Trams instead of cars in the lane left of the centre line.
    pub(crate) tram: bool,
    /// The road's colour.
    pub(crate) asphalt: Rgb,
    /// Cobblestones instead of asphalt.
    pub(crate) cobbled: bool,
    /// The pavements' colour.
    pub(crate) paving: Rgb,
    /// Colour of grass or soil.
    pub(crate) soil: Rgb,
    /// Colour of leaves, before each plant's own.
    pub(crate) leaves: Rgb,
    /// Centre line yellow.
    pub(crate) yellow: bool,
    /// Share of the places where something may stand that are taken, 0 to 1.
    pub(crate) crowd: f32,
}

const ASPHALTS: [Rgb; 5] = [
    [92.0, 93.0, 97.0],
    [74.0, 76.0, 82.0],
    [112.0, 110.0, 108.0],
    [134.0, 131.0, 124.0],
    [84.0, 82.0, 78.0],
];
const PAVINGS: [Rgb; 4] =
    [[150.0, 146.0, 140.0], [168.0, 160.0, 146.0], [140.0, 124.0, 112.0], [156.0, 158.0, 160.0]];
const SOILS: [Rgb; 4] =
    [[104.0, 128.0, 62.0], [126.0, 134.0, 70.0], [168.0, 146.0, 92.0], [120.0, 102.0, 74.0]];
const LEAVES: [Rgb; 4] =
    [[62.0, 92.0, 42.0], [80.0, 104.0, 46.0], [92.0, 98.0, 40.0], [48.0, 78.0, 44.0]];

impl Street {
    /// The street of a seed.
    pub(crate) fn new(seed: u64, rng: &mut Rng) -> Self {
        let place =
            rng.pick(&[Place::Town, Place::Town, Place::Suburb, Place::Suburb, Place::Country]);
        let town = place == Place::Town;
        let tram = town && rng.chance(0.4);
        let lanes = if tram || rng.chance(0.3) { [2.0, 2.0] } else { [1.0, 1.0] };
        let country = place == Place::Country;
        let parking = if !country && rng.chance(0.6) { 2.3 } else { 0.0 };
        let mut each = |low: f32, high: f32| [rng.range(low, high), rng.range(low, high)];
        let walk = match place {
            Place::Town => each(2.6, 4.2),
            Place::Suburb => each(1.6, 2.4),
            Place::Country => [0.0; 2],
        };
        let verge = if town { [0.2; 2] } else { each(0.6, 2.4) };
        let garden = if town { each(0.3, 1.2) } else { each(4.5, 8.0) };
        let wall_line = [walk[0] + verge[0], walk[1] + verge[1]];
        Self {
            seed,
            place,
            lane: rng.range(3.1, 3.8),
            lanes,
            parking,
            walk,
            wall_line,
            house_line: [wall_line[0] + garden[0], wall_line[1] + garden[1]],
            tram,
            asphalt: rng.colour(&ASPHALTS, 6.0),
            cobbled: !country && rng.chance(0.12),
            paving: rng.colour(&PAVINGS, 8.0),
            soil: rng.colour(&SOILS, 10.0),
            leaves: rng.colour(&LEAVES, 8.0),
            yellow: rng.chance(0.3),
            crowd: rng.range(0.25, 0.9),
        }
    }

    /// The road's edge on one side (-1 left, 1 right), metres from the centre line, positive.
    pub(crate) fn edge(&self, side: f32) -> f32 {
        self.of(self.lanes, side) * self.lane + self.parking
    }

    /// The left or right one of a pair.
    pub(crate) fn of(&self, pair: [f32; 2], side: f32) -> f32 {
        if side < 0.0 { pair[0] } else { pair[1] }
    }

    /// Middle of the lane that the camera drives in.
    pub(crate) fn own_lane(&self) -> f32 {
        (self.lanes[1] - 0.5) * self.lane
    }
}
