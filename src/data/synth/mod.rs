//! A drawn road world: a camera on a car, with the exact class of every pixel.
//!
//! It feeds the demo, the load tests and the training of the small demo model. Everything follows from
//! a seed and the frame's number, in arithmetic that every machine rounds alike (`noise`); no clock,
//! no thread, no random device. All 19 Cityscapes train ids are drawn; the car's own bonnet, where it
//! shows, is [`IGNORE`].
//!
//! Three pools of foreign objects have no family of shapes or textures in common: `paste` makes cut-outs
//! to train stage 2 on and others to choose and calibrate it on, `unknown` puts things on the road that
//! only tests and demos show.
//!
//! A frame is painted back to front: sky, ground, marks, shadows, then things by depth
//! (`world` says what stands where), then weather and lens.

mod buildings;
mod camera;
mod canvas;
mod furniture;
mod light;
mod nature;
mod noise;
mod painter;
mod paste;
mod people;
mod road;
mod shape;
mod sky;
mod street;
mod texture;
mod unknown;
mod vehicles;
mod weather;
mod world;

pub use camera::Camera;
pub use paste::{Cutout, Pool, paste_object, paste_on_road, paste_picture};
pub use shape::Shape;
pub use texture::Texture;
pub use unknown::Kind;

use crate::{Error, Result};
use camera::{Course, View};
use canvas::Canvas;
use light::Light;
use noise::{Rng, hash, narrow, sin};
use painter::{Painter, Spot};
use street::Street;
use weather::Optics;
use world::{Item, What, World};

pub use super::IGNORE;
/// Label of pixels of an unknown obstacle or a paste object.
pub const OOD: u8 = 254;

/// Train id of the road.
pub const ROAD: u8 = 0;

/// Cityscapes train ids.
mod id {
    pub(crate) use super::ROAD;
    pub(crate) const SIDEWALK: u8 = 1;
    pub(crate) const BUILDING: u8 = 2;
    pub(crate) const WALL: u8 = 3;
    pub(crate) const FENCE: u8 = 4;
    pub(crate) const POLE: u8 = 5;
    pub(crate) const TRAFFIC_LIGHT: u8 = 6;
    pub(crate) const TRAFFIC_SIGN: u8 = 7;
    pub(crate) const VEGETATION: u8 = 8;
    pub(crate) const TERRAIN: u8 = 9;
    pub(crate) const SKY: u8 = 10;
    pub(crate) const PERSON: u8 = 11;
    pub(crate) const RIDER: u8 = 12;
    pub(crate) const CAR: u8 = 13;
    pub(crate) const TRUCK: u8 = 14;
    pub(crate) const BUS: u8 = 15;
    pub(crate) const TRAIN: u8 = 16;
    pub(crate) const MOTORCYCLE: u8 = 17;
    pub(crate) const BICYCLE: u8 = 18;
}

/// Which unknown obstacles a scene shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknowns {
    /// None: the training world.
    None,
    /// One or two of [`Kind::BIG`] ahead of frame 0, an eighth to under half of the picture high.
    Big,
    /// One to three of [`Kind::SMALL`] ahead of frame 0, 10 to 30 px high.
    Small,
    /// All kinds, one every 40 m of the road: a drive round obstacles, with no traffic near them.
    Along,
}

/// What to draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SceneConfig {
    /// Columns, at least 16.
    pub width: u32,
    /// Rows, at least 16.
    pub height: u32,
    /// Frames per second.
    pub fps: f32,
    /// Unknown obstacles.
    pub unknowns: Unknowns,
}

impl Default for SceneConfig {
    /// 640x360 at 10 frames per second, without unknown obstacles.
    fn default() -> Self {
        Self { width: 640, height: 360, fps: 10.0, unknowns: Unknowns::None }
    }
}

/// One camera on one drive.
#[derive(Clone, Debug)]
pub struct Scene {
    seed: u64,
    config: SceneConfig,
    camera: Camera,
    course: Course,
    street: Street,
    light: Light,
    optics: Optics,
    /// Metres per second.
    speed: f32,
    /// Metres travelled at frame 0.
    start: f64,
    /// Rows hidden by the bonnet in the middle of the picture.
    bonnet: f32,
    /// Obstacles placed for frame 0, `z` counted from there.
    placed: Vec<(Kind, Spot)>,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `(h, w, 3)`.
    pub rgb: Vec<u8>,
    /// `(h, w)` train ids, [`OOD`] on unknown obstacles, [`IGNORE`] on the own bonnet.
    pub labels: Vec<u8>,
    /// Time since frame 0, nanoseconds.
    pub stamp_ns: u64,
}

/// The seed of scene `index` in one of several `stream`s of scenes, all different.
pub fn scene_seed(seed: u64, stream: u64, index: u64) -> u64 {
    hash(hash(seed, stream), index)
}

/// Metres between the obstacles of [`Unknowns::Along`].
const SPACING: f64 = 40.0;

impl Scene {
    /// The scene of a seed.
    ///
    /// # Errors
    /// [`Error::Setting`]: a side outside 16 to 8192, or a frame rate that is not above 0.
    pub fn new(seed: u64, config: &SceneConfig) -> Result<Self> {
        for (key, side) in [("width", config.width), ("height", config.height)] {
            if !(16..=8192).contains(&side) {
                return Err(Error::setting(key, &side, "16 to 8192 pixels"));
            }
        }
        if !(config.fps > 0.0 && config.fps <= 1000.0) {
            return Err(Error::setting(
                "fps",
                &config.fps,
                "above 0, up to 1000 frames per second",
            ));
        }
        let mut rng = Rng::new(seed, 0);
        let (w, h) = (config.width as f32, config.height as f32);
        let camera = Camera {
            width: config.width,
            height: config.height,
            focal: w * rng.range(0.82, 1.0),
            centre: [w / 2.0, h * rng.range(0.38, 0.46)],
            mount: rng.range(1.25, 1.65),
        };
        let winding = rng.chance(0.6);
        let mut wave = |metres: f32, shortest: f32, longest: f32| {
            let metres = if winding { rng.range(0.2, 1.0) * metres } else { 0.0 };
            (metres, rng.range(shortest, longest))
        };
        let course = Course([wave(14.0, 320.0, 520.0), wave(4.0, 190.0, 300.0)]);
        let street = Street::new(hash(seed, 1), &mut rng);
        let light = Light::new(&mut rng);
        let optics = Optics::new(&mut rng, light.dusk);
        let mut scene = Self {
            seed,
            config: *config,
            camera,
            course,
            street,
            light,
            optics,
            speed: rng.range(6.0, 13.0),
            start: f64::from(rng.range(0.0, 4000.0)),
            bonnet: if rng.chance(0.35) { h * rng.range(0.03, 0.08) } else { 0.0 },
            placed: Vec::new(),
        };
        scene.placed = scene.place();
        Ok(scene)
    }

    /// The camera; the same for all frames.
    pub fn camera(&self) -> &Camera {
        &self.camera
    }

    /// Draws frame `frame`.
    pub fn render(&self, frame: u64) -> Rendered {
        let seconds = frame as f64 / f64::from(self.config.fps);
        let view = self.view(seconds);
        let mut rng = Rng::new(self.seed, 1000 + frame);
        let mut canvas = Canvas::new(self.config.width, self.config.height, id::SKY);
        let mut painter =
            Painter { canvas: &mut canvas, view: &view, light: &self.light, street: &self.street };
        self.paint(&mut painter, seconds);
        if self.light.rain > 0.0 {
            weather::rain(&mut canvas, &mut rng, self.light.rain);
        }
        self.cover(&mut canvas);
        weather::develop(&mut canvas, &self.optics, &mut rng);
        Rendered {
            width: self.config.width,
            height: self.config.height,
            rgb: canvas.rgb,
            labels: canvas.labels,
            stamp_ns: self.stamp_ns(frame),
        }
    }

    /// Time of a frame since frame 0, nanoseconds.
    #[expect(clippy::cast_possible_truncation, reason = "saturates after 584 years")]
    pub fn stamp_ns(&self, frame: u64) -> u64 {
        (frame as f64 * 1e9 / f64::from(self.config.fps)) as u64
    }

    /// Sky, ground, marks, shadows, things.
    fn paint(&self, p: &mut Painter<'_>, seconds: f64) {
        sky::sky(p, self.seed);
        sky::skyline(p, self.seed, p.view.heading());
        road::ground(p);
        let along = self.config.unknowns == Unknowns::Along;
        let world = World::new(&self.street, p.view, seconds, self.speed, along);
        for spot in world.patches() {
            road::patch(p, &spot);
        }
        road::marks(p);
        for (_, z) in world.crossings() {
            road::crossing(p, &Spot { x: 0.0, z, side: 1.0, length: 0.0, seed: 0 });
        }
        let items = world.with_unknowns(&self.unknowns(p.view)).sorted();
        for item in items.iter().filter(|item| matches!(item.what, What::Tree)) {
            nature::tree_shadow(p, &item.spot);
        }
        for Item { spot, what, .. } in &items {
            match what {
                What::Known(draw) => draw(p, spot),
                What::Tree => nature::tree(p, spot),
                What::Unknown(kind) => kind.draw(p, spot),
            }
        }
    }

    /// The camera `seconds` after frame 0: it sways in its lane, nods, and steers round obstacles.
    fn view(&self, seconds: f64) -> View {
        let travelled = self.start + f64::from(self.speed) * seconds;
        let t = narrow(seconds % 1000.0); // a whole number of each period below
        let mut x = self.street.own_lane() + 0.18 * sin(t / 5.0 + 0.2);
        let nod = 0.002 * self.camera.focal * (sin(t / 0.8) + 0.6 * sin(t / 0.4));
        if self.config.unknowns == Unknowns::Along {
            for (_, spot) in self.along(travelled) {
                // Full clearance where the obstacle passes, none 22 m before and behind.
                let near = (1.0 - spot.z * spot.z / 484.0).max(0.0);
                let gap = spot.x - self.street.own_lane();
                let need = (2.0 - gap.abs()).max(0.0) * near * near;
                x -= if gap > 0.0 { need } else { -need };
            }
        }
        View::new(&self.camera, &self.course, x, travelled, nod)
    }

    /// The unknown obstacles around the camera.
    fn unknowns(&self, view: &View) -> Vec<(Kind, Spot)> {
        if self.config.unknowns == Unknowns::Along {
            return self.along(view.travelled);
        }
        let moved = narrow(view.travelled - self.start);
        let ahead = |&(kind, spot): &(Kind, Spot)| (kind, Spot { z: spot.z - moved, ..spot });
        self.placed.iter().map(ahead).collect()
    }

    /// One obstacle per [`SPACING`] of road.
    fn along(&self, travelled: f64) -> Vec<(Kind, Spot)> {
        let first = (travelled / SPACING).floor() - 1.0;
        let obstacle = |k: i32| {
            let slot = first + f64::from(k);
            let mut rng = Rng::new(hash(self.seed, 200), slot.to_bits());
            let kinds = if rng.chance(0.5) { Kind::BIG } else { Kind::SMALL };
            let lane = self.street.lane;
            let x = self.street.own_lane() + rng.range(-0.9 * lane, 0.25 * lane);
            let z = narrow(slot * SPACING - travelled) + rng.range(0.0, 6.0);
            (rng.pick(&kinds), Spot { x, z, side: 1.0, length: 0.0, seed: rng.bits() })
        };
        (0..4).map(obstacle).collect()
    }

    /// Obstacles in the sizes that the test sets want at frame 0.
    fn place(&self) -> Vec<(Kind, Spot)> {
        let mut rng = Rng::new(self.seed, 210);
        let small = match self.config.unknowns {
            Unknowns::Big => false,
            Unknowns::Small => true,
            Unknowns::None | Unknowns::Along => return Vec::new(),
        };
        let view = self.view(0.0);
        let (w, h) = (self.camera.width as f32, self.camera.height as f32);
        let nearest = 1.1 * view.ground(h - self.bonnet);
        let count = if small { rng.pick(&[1, 1, 2, 3]) } else { rng.pick(&[1, 1, 2]) };
        let mut placed: Vec<(Kind, Spot)> = Vec::new();
        for _ in 0..40 {
            let kind = rng.pick(if small { &Kind::SMALL } else { &Kind::BIG });
            let rows = if small { rng.range(12.0, 29.0) } else { h * rng.range(0.14, 0.44) };
            let z = view.focal * kind.height() / rows;
            let edge = |side: f32| self.street.edge(side) - self.street.parking - 1.0;
            let x = rng.range(-edge(-1.0), edge(1.0));
            let [u, _] = view.project([x, 0.0, z.max(1.0)]);
            let apart = placed.iter().all(|(_, other)| (other.x - x).abs() > 2.2);
            if z > nearest && apart && (0.15 * w..0.85 * w).contains(&u) {
                placed.push((kind, Spot { x, z, side: 1.0, length: 0.0, seed: rng.bits() }));
            }
            if placed.len() == count {
                break;
            }
        }
        placed
    }

    /// The own bonnet at the lower edge.
    fn cover(&self, canvas: &mut Canvas) {
        if self.bonnet == 0.0 {
            return;
        }
        let (w, h) = (canvas.width as f32, canvas.height as f32);
        let tone = 30.0 + 70.0 * Rng::new(self.seed, 220).unit();
        let sky = self.light.haze;
        canvas.shade([0.0, h - 1.2 * self.bonnet, w, h], Some(IGNORE), |u, v| {
            let side = 2.0 * u / w - 1.0;
            let edge = v - (h - self.bonnet * (1.0 - 0.7 * side * side));
            let gloss = (1.0 - edge / self.bonnet).clamp(0.0, 1.0);
            let colour = canvas::mix([tone, 0.95 * tone, tone], sky, 0.35 * gloss);
            (colour, (edge + 0.5).clamp(0.0, 1.0))
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::ClassTable;

    fn config(width: u32, height: u32, unknowns: Unknowns) -> SceneConfig {
        SceneConfig { width, height, unknowns, ..SceneConfig::default() }
    }

    fn first(seed: u64, config: &SceneConfig) -> Rendered {
        Scene::new(seed, config).unwrap().render(0)
    }

    #[test]
    fn a_frame_follows_from_seed_and_number_whatever_was_drawn_before_and_on_any_thread() {
        let config = config(161, 97, Unknowns::Along);
        let scene = Scene::new(5, &config).unwrap();
        let seventh = scene.render(7);
        assert_ne!(scene.render(8).rgb, seventh.rgb);
        let elsewhere = std::thread::scope(|scope| {
            scope.spawn(|| Scene::new(5, &config).unwrap().render(7)).join().unwrap()
        });
        assert!(elsewhere == seventh && scene.render(7) == seventh);
        assert_ne!(first(6, &config).rgb, first(5, &config).rgb);
        assert_eq!(seventh.stamp_ns, 700_000_000);
    }

    #[test]
    fn the_bytes_of_a_frame_stay_what_they_were() {
        let frame = first(1, &config(64, 48, Unknowns::Along));
        let sum = |bytes: &[u8]| {
            bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h: u64, &b| {
                (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
            })
        };
        // The same in debug, release and with AVX2 and FMA; another sum means other training data.
        let sums = (sum(&frame.rgb), sum(&frame.labels));
        assert_eq!(sums, (0xddca_77d7_6c2e_c639, 0x14b0_95da_6c46_379d));
    }

    #[test]
    fn odd_sizes_have_their_pixels_and_impossible_ones_are_refused() {
        for (w, h) in [(16, 16), (97, 33), (33, 97), (640, 17)] {
            let frame = first(3, &config(w, h, Unknowns::Along));
            assert_eq!(frame.rgb.len(), (3 * w * h) as usize);
            assert_eq!(frame.labels.len(), (w * h) as usize);
        }
        let error = Scene::new(3, &config(640, 8, Unknowns::None)).unwrap_err().to_string();
        assert!(error.contains("`height` is 8") && error.contains("16 to 8192"), "{error}");
        let still = SceneConfig { fps: 0.0, ..SceneConfig::default() };
        assert!(Scene::new(3, &still).unwrap_err().to_string().contains("`fps` is 0"));
    }

    #[test]
    fn every_class_of_the_table_is_drawn_and_no_other_label() {
        let table = ClassTable::cityscapes();
        let of = |name: &str| table.0.iter().find(|class| class.name == name).unwrap().id;
        assert_eq!(
            [of("road"), of("traffic light"), of("train")],
            [ROAD, id::TRAFFIC_LIGHT, id::TRAIN]
        );
        assert_eq!([of("sky"), of("terrain"), of("rider")], [id::SKY, id::TERRAIN, id::RIDER]);
        let mut seen = BTreeSet::new();
        for seed in 0..36 {
            seen.extend(first(seed, &config(160, 90, Unknowns::None)).labels);
        }
        let mut expected: BTreeSet<u8> = table.0.iter().map(|class| class.id).collect();
        expected.insert(IGNORE);
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_sky_is_above_the_horizon_and_the_ground_below_it() {
        for seed in 0..10 {
            let scene = Scene::new(seed, &config(200, 112, Unknowns::None)).unwrap();
            let frame = scene.render(0);
            let horizon = scene.camera().centre[1];
            for (v, row) in frame.labels.chunks_exact(200).enumerate() {
                let has = |label: u8| row.contains(&label);
                assert!(!has(id::SKY) || (v as f32) < horizon + 2.0, "seed {seed}, sky in row {v}");
                let ground = has(ROAD) || has(id::SIDEWALK) || has(id::TERRAIN);
                assert!(!ground || v as f32 > horizon - 2.0, "seed {seed}, ground in row {v}");
            }
        }
    }

    /// Rows between the highest and lowest pixel of [`OOD`].
    fn ood_rows(frame: &Rendered) -> Option<u32> {
        let rows = frame.labels.chunks_exact(frame.width as usize);
        let with: Vec<u32> =
            (0..).zip(rows).filter(|(_, row)| row.contains(&OOD)).map(|(v, _)| v).collect();
        Some(with.last()? - with.first()? + 1)
    }

    #[test]
    fn obstacles_are_as_high_as_their_set_says_and_stand_on_the_road() {
        let mut shown = 0;
        for seed in 0..10 {
            for (unknowns, low, high) in
                [(Unknowns::Small, 10.0, 30.0), (Unknowns::Big, 50.0, 160.0)]
            {
                let scene = Scene::new(seed, &config(640, 360, unknowns)).unwrap();
                let view = scene.view(0.0);
                for &(kind, spot) in &scene.placed {
                    let [_, foot] = view.project([spot.x, 0.0, spot.z]);
                    let [_, top] = view.project([spot.x, kind.height(), spot.z]);
                    assert!((low..=high).contains(&(foot - top)), "{kind:?} {foot} {top}");
                    assert!(foot < 360.0 && spot.x.abs() < 12.0);
                }
                let frame = scene.render(0);
                if let (1, Some(rows)) = (scene.placed.len(), ood_rows(&frame)) {
                    assert!(rows as f32 <= 1.1 * high, "seed {seed} {unknowns:?}: {rows} rows");
                    shown += 1;
                }
            }
        }
        assert!(shown > 6, "{shown} single obstacles seen");
    }
}
