//! The paste pool: cut-outs that stage 2 pastes anywhere into training pictures, in COCO's role.
//!
//! A cut-out is one to three flat outlines or a body of several pieces ([`Shape`]), covered with
//! patterns ([`Texture`]), without perspective or ground, but in a light, a haze and through a camera of
//! its own: objects without blur and noise would be told from the street by just that, and obstacles on
//! the road have both.
//!
//! Families are split three ways ([`Pool`]): stage 2 trains on some, and is chosen and calibrated on
//! others; the held-back pool ([`super::unknown`]) shares none with either.

use super::canvas::{Canvas, Rgb, mix, scale};
use super::light::{Facing, Light};
use super::noise::{Rng, cos, floor, sin};
use super::shape::{Form, Piece, Shape};
use super::texture::Texture;
use super::weather::{self, Optics};
use super::{OOD, ROAD, Rendered, Scene};

/// Which families of shapes and textures cut-outs are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// [`Shape::TRAINING`] and [`Texture::TRAINING`].
    Training,
    /// [`Shape::VALIDATION`] and [`Texture::VALIDATION`].
    Validation,
}

impl Pool {
    fn shape(self, rng: &mut Rng) -> Shape {
        match self {
            Self::Training => rng.pick(&Shape::TRAINING),
            Self::Validation => rng.pick(&Shape::VALIDATION),
        }
    }

    fn texture(self, rng: &mut Rng) -> Texture {
        match self {
            Self::Training => rng.pick(&Texture::TRAINING),
            Self::Validation => rng.pick(&Texture::VALIDATION),
        }
    }
}

/// A cut-out object: its picture and which pixels belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cutout {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `(h, w, 4)`: red, green, blue, and 255 on the object, 0 elsewhere.
    pub rgba: Vec<u8>,
}

/// The cut-out of a seed, about `size` pixels (at least 8) in its longer direction.
pub fn paste_object(pool: Pool, seed: u64, size: u32) -> Cutout {
    let mut rng = Rng::new(seed, 90);
    let size = size.clamp(8, 4096);
    let stretch = rng.range(0.5, 1.0);
    let short = floor(size as f32 * stretch).max(8) as u32;
    let (width, height) = if rng.chance(0.5) { (size, short) } else { (short, size) };
    let mut canvas = Canvas::new(width, height, 0);
    let light = Light::new(&mut rng);
    let optics = Optics::new(&mut rng, light.dusk);
    let sight = Sight {
        light: light.on(rng.pick(&FACINGS)),
        haze: (light.haze, rng.range(0.0, 0.3)),
        sun: [rng.range(-0.5, 0.5), rng.range(-0.6, 0.0)],
    };
    let first = pool.shape(&mut rng);
    let parts = if first.stands() { 1 } else { rng.pick(&[1, 1, 2, 3]) };
    for part in 0..parts {
        let share = if part == 0 { 1.0 } else { rng.range(0.35, 0.6) };
        let shift = [rng.range(-1.0, 1.0) * (1.0 - share), rng.range(-1.0, 1.0) * (1.0 - share)];
        let shape = if part == 0 { first } else { pool.shape(&mut rng) };
        let look = Look::new(pool, &mut rng);
        figure(
            &mut canvas,
            &shape.pieces(&mut rng),
            &look,
            &Place::new(shape, share, shift, &mut rng),
            &sight,
        );
    }
    weather::develop(&mut canvas, &optics, &mut rng);
    let pixels = canvas.rgb.chunks_exact(3).zip(&canvas.labels);
    let rgba = pixels
        .flat_map(|(c, &label)| [c[0], c[1], c[2], if label == OOD { 255 } else { 0 }])
        .collect();
    Cutout { width, height, rgba }
}

/// The sides that are seen of things on a road.
const FACINGS: [Facing; 4] = [Facing::Near, Facing::Left, Facing::Right, Facing::Up];

/// How a cut-out is lit and how much haze lies before it.
struct Sight {
    light: Rgb,
    haze: (Rgb, f32),
    /// Where round pieces are brightest, away from their middle.
    sun: [f32; 2],
}

/// A picture of plain grey with one to `MOST` cut-outs of a seed scattered over it: labels are [`OOD`]
/// on objects, 0 elsewhere. An object measures a fortieth to half of the shorter side, small ones more
/// often. Stage 2 pastes the objects of a picture as one group.
pub fn paste_picture(pool: Pool, seed: u64, width: u32, height: u32) -> Rendered {
    let mut rng = Rng::new(seed, 91);
    let mut picture = Rendered {
        width,
        height,
        rgb: vec![128; 3 * width as usize * height as usize],
        labels: vec![0; width as usize * height as usize],
        stamp_ns: 0,
    };
    for _ in 0..=floor(MOST * rng.unit()) {
        let small = rng.unit();
        let share = 0.025 + 0.475 * small * small;
        let cutout = paste_object(pool, rng.bits(), floor(share * width.min(height) as f32) as u32);
        put(&mut picture, &cutout, &mut rng);
    }
    picture
}

/// Cut-outs of a [`paste_picture`] at most.
const MOST: f32 = 6.0;

/// Lays a cut-out anywhere on a picture.
fn put(picture: &mut Rendered, cutout: &Cutout, rng: &mut Rng) {
    let mut within = |room: u32| floor(rng.unit() * (room + 1) as f32) as usize;
    let left = within(picture.width.saturating_sub(cutout.width));
    let top = within(picture.height.saturating_sub(cutout.height));
    lay(picture, cutout, [left, top]);
}

/// Lays the pixels of a cut-out onto a picture, as far as they are inside.
fn lay(picture: &mut Rendered, cutout: &Cutout, [left, top]: [usize; 2]) {
    let (width, height) = (picture.width as usize, picture.height as usize);
    for v in 0..(cutout.height as usize).min(height - top) {
        for u in 0..(cutout.width as usize).min(width - left) {
            let from = 4 * (v * cutout.width as usize + u);
            let to = (top + v) * width + left + u;
            if cutout.rgba[from + 3] != 0 {
                picture.rgb[3 * to..3 * to + 3].copy_from_slice(&cutout.rgba[from..from + 3]);
                picture.labels[to] = OOD;
            }
        }
    }
}

/// A street picture with one to three cut-outs of a pool standing on its road, as high as unknown
/// obstacles are: 10 to 30 px where `small`, else an eighth to under half of the picture.
pub fn paste_on_road(pool: Pool, scene: &Scene, seed: u64, small: bool) -> Rendered {
    let mut rng = Rng::new(seed, 92);
    let mut picture = scene.render(0);
    let (camera, height) = (scene.camera(), picture.height as f32);
    let count = rng.pick(&[1, 1, 2, 3]);
    let mut placed = 0;
    for _ in 0..60 {
        let (metres, rows) = if small {
            (rng.range(0.4, 0.8), rng.range(12.0, 29.0))
        } else {
            (rng.range(0.9, 1.9), height * rng.range(0.14, 0.44))
        };
        let cutout = paste_object(pool, rng.bits(), floor(rows * rng.range(1.0, 1.3)) as u32);
        let middle = floor(picture.width as f32 * rng.range(0.15, 0.85));
        let foot = floor(camera.centre[1] + camera.mount * rows / metres);
        let (left, top) = (middle - cutout.width as i32 / 2, foot - cutout.height as i32);
        let at = (foot * picture.width as i32 + middle) as usize;
        if left < 0 || top < 0 || picture.labels.get(at) != Some(&ROAD) {
            continue;
        }
        lay(&mut picture, &cutout, [left as usize, top as usize]);
        placed += 1;
        if placed == count {
            break;
        }
    }
    picture
}

/// What an object is made of: three materials, each a pattern of three colours.
struct Look {
    materials: [(Texture, [Rgb; 3], f32); 3],
    seed: u64,
    /// Loss of light from the top to the bottom.
    soft: f32,
}

impl Look {
    fn new(pool: Pool, rng: &mut Rng) -> Self {
        // From grey to garish: real objects are mostly muted.
        let vivid = rng.unit();
        let materials = std::array::from_fn(|_| {
            let ink = std::array::from_fn(|_| {
                let colour: Rgb = std::array::from_fn(|_| rng.range(8.0, 248.0));
                mix([rng.range(16.0, 232.0); 3], colour, vivid)
            });
            (pool.texture(rng), ink, rng.range(1.5, 6.0))
        });
        Self { materials, seed: rng.bits(), soft: rng.range(0.0, 0.3) }
    }

    /// Own colour of a piece, `[a, b]` on the object and `[x, y]` from the piece's middle to its edge.
    fn colour(&self, piece: &Piece, [a, b]: [f32; 2], [x, y]: [f32; 2], sun: [f32; 2]) -> Rgb {
        let (texture, ink, density) = &self.materials[piece.material];
        let (dx, dy) = (x - sun[0], y - sun[1]);
        let curve = match piece.form {
            Form::Flat => 1.0,
            Form::Column => 1.1 - 0.35 * dx * dx,
            Form::Ball => 1.12 - 0.25 * (dx * dx + dy * dy),
        };
        let shade = curve.max(0.25) * (1.0 - self.soft * b);
        scale(texture.at([a, b], *density, ink, self.seed), shade)
    }
}

/// Where an object lies on its canvas: share of it, middle, turn.
struct Place {
    share: f32,
    shift: [f32; 2],
    turn: [f32; 2],
}

impl Place {
    /// Outlines lie any way, bodies stand or lean a little, but one in eight.
    fn new(shape: Shape, share: f32, shift: [f32; 2], rng: &mut Rng) -> Self {
        let turn =
            if shape.stands() && rng.chance(0.875) { rng.range(-0.03, 0.03) } else { rng.unit() };
        Self { share, shift, turn: [cos(turn), sin(turn)] }
    }

    /// Pixels of a point of the object, on a canvas of half sides `half`.
    fn pixel(&self, [x, y]: [f32; 2], half: [f32; 2]) -> [f32; 2] {
        let [c, s] = self.turn;
        let (a, b) = (c * x - s * y, s * x + c * y);
        [
            half[0] * (1.0 + self.shift[0] + self.share * a),
            half[1] * (1.0 + self.shift[1] + self.share * b),
        ]
    }

    /// The inverse of [`Self::pixel`].
    fn point(&self, [u, v]: [f32; 2], half: [f32; 2]) -> [f32; 2] {
        let a = (u / half[0] - 1.0 - self.shift[0]) / self.share;
        let b = (v / half[1] - 1.0 - self.shift[1]) / self.share;
        let [c, s] = self.turn;
        [c * a + s * b, c * b - s * a]
    }
}

/// Paints the pieces of a shape at their place.
///
/// The material of the first one on a canvas lies under all of it, so that blur brings nothing else
/// into its edge.
fn figure(canvas: &mut Canvas, pieces: &[Piece], look: &Look, place: &Place, sight: &Sight) {
    let half = [canvas.width as f32 / 2.0, canvas.height as f32 / 2.0];
    for (number, piece) in pieces.iter().enumerate() {
        let bound = |axis: usize| {
            let values = piece.outline.iter().map(|point| point[axis]);
            let (low, high) =
                values.fold((f32::MAX, f32::MIN), |(low, high), x| (low.min(x), high.max(x)));
            ((low + high) / 2.0, ((high - low) / 2.0).max(1e-3))
        };
        let ((x, rx), (y, ry)) = (bound(0), bound(1));
        let paint = |u: f32, v: f32| {
            let [a, b] = place.point([u, v], half);
            let own = look.colour(piece, [a, b], [(a - x) / rx, (b - y) / ry], sight.sun);
            let lit = std::array::from_fn(|c| own[c] * sight.light[c]);
            (mix(lit, sight.haze.0, sight.haze.1), 1.0)
        };
        if number == 0 && place.share == 1.0 {
            let [right, bottom] = [2.0 * half[0], 2.0 * half[1]];
            canvas.shade([0.0, 0.0, right, bottom], None, paint);
        }
        let corners: Vec<_> = piece.outline.iter().map(|&at| place.pixel(at, half)).collect();
        canvas.polygon(&corners, Some(OOD), paint);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::Kind;
    use super::*;

    fn names<T: std::fmt::Debug>(families: &[T]) -> BTreeSet<String> {
        families.iter().map(|family| format!("{family:?}").to_lowercase()).collect()
    }

    #[test]
    fn training_validation_and_held_back_obstacles_share_no_family_of_shapes_or_textures() {
        let kinds: Vec<Kind> = Kind::BIG.into_iter().chain(Kind::SMALL).collect();
        let held: BTreeSet<String> = kinds.iter().map(|kind| kind.texture().to_owned()).collect();
        let splits = [
            [names(&Shape::TRAINING), names(&Shape::VALIDATION), names(&kinds)],
            [names(&Texture::TRAINING), names(&Texture::VALIDATION), held],
        ];
        for [training, validation, held] in splits {
            let all: BTreeSet<_> = training.iter().chain(&validation).chain(&held).collect();
            assert_eq!(all.len(), training.len() + validation.len() + held.len());
        }
        for pool in [Pool::Training, Pool::Validation] {
            let distinct: BTreeSet<Vec<u8>> =
                (0..250).map(|seed| paste_object(pool, seed, 24).rgba).collect();
            assert_eq!(distinct.len(), 250);
        }
    }

    #[test]
    fn a_paste_picture_has_objects_inside_and_grey_elsewhere() {
        for seed in 0..40 {
            let picture = paste_picture(Pool::Training, seed, 120, 90);
            let marked = picture.labels.iter().filter(|&&label| label == OOD).count();
            assert!((6..8000).contains(&marked), "seed {seed}: {marked}");
            for (pixel, &label) in picture.rgb.chunks_exact(3).zip(&picture.labels) {
                assert!(label == OOD || (label == 0 && pixel == [128; 3]));
            }
        }
    }
}
