//! The pinhole camera on the car, and the road's course in front of it.

use super::noise::{cos, narrow, sin};

/// Nothing nearer than this is drawn, metres.
pub(crate) const NEAR: f32 = 0.8;

/// A pinhole camera that looks along the road, upright: the horizon is the row of the principal point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Camera {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Focal length, pixels.
    pub focal: f32,
    /// Principal point `[column, row]`, pixels.
    pub centre: [f32; 2],
    /// Height of the lens above the road, metres.
    pub mount: f32,
}

impl Camera {
    /// The matrix `K` of `sensor_msgs/CameraInfo`, row by row; there is no distortion.
    pub fn intrinsics(&self) -> [f64; 9] {
        let f = f64::from(self.focal);
        let [cx, cy] = self.centre.map(f64::from);
        [f, 0.0, cx, 0.0, f, cy, 0.0, 0.0, 1.0]
    }
}

/// A course of the road's centre line: two sine waves, `(metres, metres per wave)` each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course(pub(crate) [(f32, f32); 2]);

/// Where the camera is in one frame. Points are `[x, y, z]`: metres right of the road's centre line,
/// above the road, and ahead of the camera.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Focal length, pixels.
    pub(crate) focal: f32,
    /// Column of the principal point.
    pub(crate) middle: f32,
    /// Row of the horizon, with the car's nodding.
    pub(crate) horizon: f32,
    /// Height of the lens, metres.
    pub(crate) eye: f32,
    /// The lens, metres right of the centre line.
    pub(crate) x: f32,
    /// Distance travelled, metres.
    pub(crate) travelled: f64,
    /// Per wave: amplitude, waves per metre, phase here in turns, position and slope here.
    waves: [[f32; 5]; 2],
}

impl View {
    /// The camera after `travelled` metres, `x` metres right of the centre line, nodded by `nod` px.
    pub(crate) fn new(camera: &Camera, course: &Course, x: f32, travelled: f64, nod: f32) -> Self {
        let waves = course.0.map(|(metres, length)| {
            let turns = travelled / f64::from(length);
            let phase = narrow(turns - turns.floor());
            let slope = metres * cos(phase) * std::f32::consts::TAU / length;
            [metres, 1.0 / length, phase, metres * sin(phase), slope]
        });
        Self {
            focal: camera.focal,
            middle: camera.centre[0],
            horizon: camera.centre[1] + nod,
            eye: camera.mount,
            x,
            travelled,
            waves,
        }
    }

    /// How far the road has turned aside `z` metres ahead, seen along its direction here.
    pub(crate) fn bend(&self, z: f32) -> f32 {
        let wave = |[metres, rate, phase, here, slope]: [f32; 5]| {
            metres * sin(phase + rate * z) - here - slope * z
        };
        wave(self.waves[0]) + wave(self.waves[1])
    }

    /// Where the road's direction here points, radians, small.
    pub(crate) fn heading(&self) -> f32 {
        self.waves[0][4] + self.waves[1][4]
    }

    /// The pixel `[u, v]` of a point at `z >= NEAR`. The heading is a shear, exact for small angles.
    pub(crate) fn project(&self, [x, y, z]: [f32; 3]) -> [f32; 2] {
        let scale = self.focal / z;
        let across = x - self.x + self.bend(z);
        [self.middle + across * scale, self.horizon + (self.eye - y) * scale]
    }

    /// Distance of the road seen in row `v`, which must be below the horizon.
    pub(crate) fn ground(&self, v: f32) -> f32 {
        self.focal * self.eye / (v - self.horizon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_project_by_the_intrinsics_and_the_road_row_gives_its_distance_back() {
        let camera =
            Camera { width: 640, height: 360, focal: 500.0, centre: [320.0, 150.0], mount: 1.5 };
        let view = View::new(&camera, &Course([(0.0, 100.0); 2]), 0.5, 12.0, 0.0);
        // (2.5 - 0.5) * 500 / 10 = 100 right of the middle; 1.5 * 500 / 10 = 75 below the horizon.
        assert_eq!(view.project([2.5, 0.0, 10.0]), [420.0, 225.0]);
        assert_eq!(view.ground(225.0), 10.0);
        assert_eq!(camera.intrinsics(), [500.0, 0.0, 320.0, 0.0, 500.0, 150.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn a_bend_starts_straight_ahead_and_grows() {
        let camera =
            Camera { width: 64, height: 36, focal: 50.0, centre: [32.0, 15.0], mount: 1.5 };
        let view = View::new(&camera, &Course([(10.0, 400.0), (0.0, 1.0)]), 0.0, 100.0, 0.0);
        // At the crest the curvature is -10 * (tau / 400)^2 per metre; half of it times z^2 at 40 m.
        assert!(view.bend(1.0).abs() < 0.02);
        assert!((view.bend(40.0) + 1.96).abs() < 0.1, "{}", view.bend(40.0));
    }
}
