//! Sun, sky light and haze.

use super::canvas::{Rgb, mix};
use super::noise::{Rng, cos, sin};

/// The direction a surface looks to, seen from the camera.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Facing {
    /// Towards the camera.
    Near,
    /// To the left.
    Left,
    /// To the right.
    Right,
    /// Up.
    Up,
}

/// The light of one scene.
#[derive(Clone, Debug)]
pub(crate) struct Light {
    /// Towards the sun: right, up, ahead; unit length.
    pub(crate) sun: Rgb,
    /// Strength of the sun, 0 when overcast.
    pub(crate) strength: f32,
    /// Sky colour overhead.
    pub(crate) zenith: Rgb,
    /// Sky colour at the horizon, and of the haze.
    pub(crate) haze: Rgb,
    /// Share of the sky under clouds, 0 to 1.
    pub(crate) clouds: f32,
    /// Rain, 0 to 1: streaks in the air and a wet road.
    pub(crate) rain: f32,
    /// Lamps and windows are lit.
    pub(crate) dusk: bool,
    /// Haze per metre.
    density: f32,
    /// Light on surfaces that face near, left, right, up.
    factors: [Rgb; 4],
}

/// Colours of an hour: sun, sky light, zenith, horizon.
struct Hour([Rgb; 4], f32);

impl Light {
    /// Hour, weather and direction of the sun from a seed.
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let hour = rng.unit();
        let (Hour([sun_colour, ambient, zenith, haze], height), dusk) = match hour {
            h if h < 0.55 => (day(), false),
            h if h < 0.75 => (low_sun(), false),
            h if h < 0.92 => (overcast(), false),
            _ => (twilight(), true),
        };
        let strength = if hour < 0.75 { 1.0 } else { 0.0 };
        let rain =
            if (0.75..0.92).contains(&hour) && rng.chance(0.5) { rng.range(0.4, 1.0) } else { 0.0 };
        let azimuth = rng.unit();
        let up = (height + rng.range(-0.08, 0.08)).clamp(0.15, 0.9);
        let flat = (1.0 - up * up).sqrt();
        let sun = [flat * sin(azimuth), up, flat * cos(azimuth)];
        let factor = |dot: f32, sky: f32| {
            std::array::from_fn(|c| ambient[c] * sky + strength * sun_colour[c] * dot.max(0.0))
        };
        let misty =
            if rng.chance(0.2) { rng.range(0.006, 0.014) } else { rng.range(0.0008, 0.003) };
        Self {
            sun,
            strength,
            zenith,
            haze,
            clouds: if hour < 0.75 { rng.range(0.1, 0.6) } else { rng.range(0.75, 1.0) },
            rain,
            dusk,
            density: misty + 0.004 * rain,
            factors: [
                factor(-sun[2], 0.82),
                factor(-sun[0], 0.78),
                factor(sun[0], 0.78),
                factor(sun[1], 1.0),
            ],
        }
    }

    /// Light on a surface, per channel.
    pub(crate) fn on(&self, facing: Facing) -> Rgb {
        self.factors[facing as usize]
    }

    /// Share of the haze over something `z` metres away: `1 - exp(-density z)` to third order.
    pub(crate) fn haze_at(&self, z: f32) -> f32 {
        let x = self.density * z;
        1.0 - 1.0 / (1.0 + x + x * x / 2.0 + x * x * x / 6.0)
    }

    /// A surface's own colour as seen `z` metres away.
    pub(crate) fn seen(&self, colour: Rgb, facing: Facing, z: f32) -> Rgb {
        let factor = self.on(facing);
        let lit = std::array::from_fn(|c| colour[c] * factor[c]);
        mix(lit, self.haze, self.haze_at(z))
    }
}

fn day() -> Hour {
    let zenith = [84.0, 138.0, 206.0];
    Hour([[0.55, 0.53, 0.48], [0.60, 0.62, 0.66], zenith, [190.0, 210.0, 228.0]], 0.7)
}

fn low_sun() -> Hour {
    let zenith = [98.0, 132.0, 184.0];
    Hour([[0.78, 0.60, 0.40], [0.50, 0.50, 0.56], zenith, [236.0, 206.0, 170.0]], 0.34)
}

fn overcast() -> Hour {
    let zenith = [160.0, 168.0, 178.0];
    Hour([[0.0; 3], [0.82, 0.84, 0.87], zenith, [198.0, 203.0, 208.0]], 0.6)
}

fn twilight() -> Hour {
    let zenith = [46.0, 62.0, 104.0];
    Hour([[0.0; 3], [0.50, 0.52, 0.62], zenith, [176.0, 146.0, 140.0]], 0.3)
}
