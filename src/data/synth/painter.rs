//! Surfaces in metres onto the canvas: perspective, light, haze, near clipping.

use super::camera::{NEAR, View};
use super::canvas::{Canvas, Ink, Rgb, mix, scale};
use super::light::{Facing, Light};
use super::noise::{cos, floor, sin, tile};
use super::street::Street;

/// Where one thing stands and the seed of its looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    /// Metres right of the road's centre line.
    pub(crate) x: f32,
    /// Metres ahead of the camera, the thing's near end.
    pub(crate) z: f32,
    /// Which way it belongs or goes: 1 right side or along with us, -1 left side or towards us.
    pub(crate) side: f32,
    /// Length along the road, metres, where the place prescribes one.
    pub(crate) length: f32,
    /// Seed of everything else.
    pub(crate) seed: u64,
}

/// An upright plane from `from` to `to` (`[x, z]`), between two heights.
pub(crate) struct Panel {
    /// Where `a = 0`.
    pub(crate) from: [f32; 2],
    /// The other end.
    pub(crate) to: [f32; 2],
    /// Lower edge, metres.
    pub(crate) bottom: f32,
    /// Upper edge, metres.
    pub(crate) top: f32,
    /// For the light.
    pub(crate) facing: Facing,
    /// Train id.
    pub(crate) label: u8,
}

/// One frame being painted.
pub(crate) struct Painter<'a> {
    /// The picture.
    pub(crate) canvas: &'a mut Canvas,
    /// The camera.
    pub(crate) view: &'a View,
    /// The light.
    pub(crate) light: &'a Light,
    /// The scene's road and styles.
    pub(crate) street: &'a Street,
}

impl Painter<'_> {
    /// A polygon of points `[x, y, z]` whose colour is `texture(a, y)`, metres right of and above its
    /// first point as the camera sees them.
    pub(crate) fn surface(
        &mut self,
        points: &[[f32; 3]],
        facing: Facing,
        label: u8,
        texture: impl Fn(f32, f32) -> Rgb,
    ) {
        let (light, z) = (self.light, middle_depth(points));
        let (factor, haze) = (light.on(facing), light.haze_at(z));
        self.fill(points, Some(label), |a, y| {
            let colour = texture(a, y);
            let lit = std::array::from_fn(|c| colour[c] * factor[c]);
            (mix(lit, light.haze, haze), 1.0)
        });
    }

    /// A polygon of one colour with a little grain.
    pub(crate) fn face(&mut self, points: &[[f32; 3]], facing: Facing, label: u8, colour: Rgb) {
        let noise = tile();
        let grain =
            |a, y| scale(colour, 1.0 + 0.07 * noise.at(16.0 * a + 3.0 * colour[0], 16.0 * y));
        self.surface(points, facing, label, grain);
    }

    /// A polygon that shines by itself.
    pub(crate) fn lamp(&mut self, points: &[[f32; 3]], label: u8, colour: Rgb) {
        let seen = mix(colour, self.light.haze, self.light.haze_at(middle_depth(points)));
        self.fill(points, Some(label), |_, _| (seen, 1.0));
    }

    /// Darkens what is there under a polygon, labels untouched.
    pub(crate) fn darken(&mut self, points: &[[f32; 3]], strength: f32) {
        self.fill(points, None, |_, _| ([12.0, 14.0, 20.0], strength));
    }

    /// A polygon of `paint(a, y)`, metres as in [`Self::surface`], cut at [`NEAR`].
    fn fill(&mut self, points: &[[f32; 3]], label: Option<u8>, paint: impl Fn(f32, f32) -> Ink) {
        let mut flat = Vec::with_capacity(points.len() + 2);
        let mut a = points[points.len() - 1];
        for &b in points {
            if (a[2] < NEAR) != (b[2] < NEAR) {
                let t = (NEAR - a[2]) / (b[2] - a[2]);
                let cut = [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, NEAR];
                flat.push(self.view.project(cut));
            }
            if b[2] >= NEAR {
                flat.push(self.view.project(b));
            }
            a = b;
        }
        if flat.len() < 3 {
            return;
        }
        let [x, y, z] = points[0];
        let [u0, v0] = self.view.project([x, y, z.max(NEAR)]);
        let metres = middle_depth(points) / self.view.focal;
        self.canvas.polygon(&flat, label, |u, v| paint((u - u0) * metres, (v0 - v) * metres));
    }

    /// An upright plane with perspective-true texture: `shader(a, y, footprint)` gets metres along it,
    /// metres above the road and the size of a pixel `[along, up]` there.
    pub(crate) fn panel(&mut self, panel: &Panel, shader: impl Fn(f32, f32, [f32; 2]) -> Ink) {
        let Some([near, far]) = self.ends(panel) else { return };
        let ([u0, w0, a0], [u1, w1, a1]) = (near, far);
        let (left, right) = (u0.min(u1), u0.max(u1));
        let span = if u1 == u0 { 1e-3 } else { u1 - u0 };
        let (light, focal) = (self.light, self.view.focal);
        let factor = light.on(panel.facing);
        for u in floor(left).max(0)..floor(right).saturating_add(1).min(self.canvas.width) {
            let t = ((u as f32 + 0.5 - u0) / span).clamp(0.0, 1.0);
            let w = w0 + (w1 - w0) * t;
            let a = a0 + (a1 - a0) * t * w1 / w;
            let along = ((a1 - a0) * w0 * w1 / (w * w * span)).abs();
            let (haze, step) = (light.haze_at(1.0 / w), 1.0 / (w * focal));
            let row = |y: f32| self.view.horizon + (self.view.eye - y) * focal * w;
            let (top, bottom) = (row(panel.top), row(panel.bottom));
            let side = (u as f32 + 1.0).min(right) - (u as f32).max(left);
            for v in floor(top).max(0)..floor(bottom).saturating_add(1).min(self.canvas.height) {
                let centre = v as f32 + 0.5;
                let (colour, alpha) =
                    shader(a, panel.bottom + (bottom - centre) * step, [along, step]);
                let lit = std::array::from_fn(|c| colour[c] * factor[c]);
                let inside = (v as f32 + 1.0).min(bottom) - (v as f32).max(top);
                let ink = (mix(lit, light.haze, haze), alpha * inside * side);
                self.canvas.blend(u, v, ink, Some(panel.label));
            }
        }
    }

    /// Both ends of a panel, cut at [`NEAR`]: column, inverse depth, metres along.
    fn ends(&self, panel: &Panel) -> Option<[[f32; 3]; 2]> {
        let ([x0, z0], [x1, z1]) = (panel.from, panel.to);
        if z0.max(z1) <= NEAR {
            return None;
        }
        let length = ((x1 - x0) * (x1 - x0) + (z1 - z0) * (z1 - z0)).sqrt();
        let end = |t: f32| {
            let (x, z) = (x0 + (x1 - x0) * t, (z0 + (z1 - z0) * t).max(NEAR));
            [self.view.project([x, 0.0, z])[0], 1.0 / z, length * t]
        };
        let cut = if z1 == z0 { 0.0 } else { (NEAR - z0) / (z1 - z0) };
        Some([
            end(if z0 < NEAR { cut } else { 0.0 }), //
            end(if z1 < NEAR { cut } else { 1.0 }),
        ])
    }

    /// A soft shadow on the road: an ellipse of radii `[x, z]` around `[x, z]`, darkest in the middle.
    /// `dapple` lets spots of sun through.
    pub(crate) fn shadow(
        &mut self,
        [x, z]: [f32; 2],
        [rx, rz]: [f32; 2],
        strength: f32,
        dapple: bool,
    ) {
        if z + rz <= NEAR || rx <= 0.0 || rz <= 0.0 {
            return;
        }
        let view = self.view;
        let near = (z - rz).max(NEAR);
        let [u, top] = view.project([x, 0.0, z + rz]);
        let [u_near, bottom] = view.project([x, 0.0, near]);
        let reach = rx * view.focal / near;
        let bend = view.bend(z.max(NEAR));
        let noise = tile();
        let bounds =
            [u.min(u_near) - reach, top.max(view.horizon + 1.0), u.max(u_near) + reach, bottom];
        self.canvas.shade(bounds, None, |u, v| {
            let depth = view.ground(v);
            let across = (u - view.middle) * depth / view.focal + view.x - bend;
            let (dx, dz) = ((across - x) / rx, (depth - z) / rz);
            let inside = 1.0 - dx * dx - dz * dz;
            if inside <= 0.0 {
                return ([0.0; 3], 0.0);
            }
            let holes =
                if dapple { 0.5 + 1.4 * noise.at(3.0 * dx * rx, 3.0 * dz * rz) } else { 1.0 };
            ([10.0, 12.0, 18.0], strength * (2.2 * inside * holes).clamp(0.0, 1.0))
        });
    }

    /// A ball of leaves, fur or stuffing: ragged edge, lit from the sun's side. `radii` and `centre`
    /// in metres, the centre at `[x, y, z]`; `ragged` 0 is smooth.
    pub(crate) fn blob(
        &mut self,
        [x, y, z]: [f32; 3],
        [rx, ry]: [f32; 2],
        (colour, label, ragged): (Rgb, u8, f32),
    ) {
        if z < NEAR {
            return;
        }
        let (noise, light) = (tile(), self.light);
        let [u0, v0] = self.view.project([x, y, z]);
        let metres = z / self.view.focal;
        let (factor, haze) = (light.on(Facing::Near), light.haze_at(z));
        let (pu, pv) = (rx * (1.0 + ragged) / metres, ry * (1.0 + ragged) / metres);
        let sharp = 0.5 * rx.min(ry) / metres; // q runs from 0 to 1 over the radius: its slope is 2 / r
        let (ox, oy) = (37.0 * x + 11.0 * ry, 23.0 * y + 7.0 * rx);
        self.canvas.shade([u0 - pu, v0 - pv, u0 + pu, v0 + pv], Some(label), |u, v| {
            let (a, b) = ((u - u0) * metres, (v0 - v) * metres);
            let (p, q) = (a / rx, b / ry);
            let edge = 1.0 - p * p - q * q;
            if edge < -2.0 * ragged {
                return (colour, 0.0);
            }
            let leaf = noise.at(14.0 * a + ox, 14.0 * b + oy);
            let alpha = ((edge + 1.6 * ragged * leaf) * sharp + 0.5).clamp(0.0, 1.0);
            let sunny =
                light.strength * (0.2 * p * light.sun[0] + 0.2 * q * light.sun[1]) + 0.1 * q;
            let bright = 0.9 + sunny + 1.7 * ragged * leaf;
            let lit = std::array::from_fn(|c| colour[c] * factor[c] * bright);
            (mix(lit, light.haze, haze), alpha)
        });
    }

    /// Whether the left and right flanks of a box from `x` and `z`, `[width, length]` large, are seen.
    pub(crate) fn flanks(&self, [x, z]: [f32; 2], [w, l]: [f32; 2]) -> [bool; 2] {
        let column = |x: f32, z: f32| self.view.project([x, 0.0, z.max(NEAR)])[0];
        [
            column(x - w / 2.0, z + l) < column(x - w / 2.0, z),
            column(x + w / 2.0, z + l) > column(x + w / 2.0, z),
        ]
    }
}

/// Mean depth of the points, not nearer than [`NEAR`].
fn middle_depth(points: &[[f32; 3]]) -> f32 {
    points.iter().map(|p| p[2].max(NEAR)).sum::<f32>() / points.len() as f32
}

/// An upright rectangle that faces the camera: left, right, bottom, top at depth `z`.
pub(crate) fn upright([left, right]: [f32; 2], [bottom, top]: [f32; 2], z: f32) -> [[f32; 3]; 4] {
    [[left, bottom, z], [right, bottom, z], [right, top, z], [left, top, z]]
}

/// An ellipse that faces the camera.
pub(crate) fn ellipse([x, y, z]: [f32; 3], [rx, ry]: [f32; 2]) -> [[f32; 3]; 18] {
    std::array::from_fn(|k| {
        let turns = k as f32 / 18.0;
        [x + rx * cos(turns), y + ry * sin(turns), z]
    })
}

/// A circle in a plane along the road: a wheel on a flank.
pub(crate) fn wheel([x, y, z]: [f32; 3], r: f32) -> [[f32; 3]; 18] {
    std::array::from_fn(|k| {
        let turns = k as f32 / 18.0;
        [x, y + r * sin(turns), z + r * cos(turns)]
    })
}

/// A straight limb, tube or bar of some width from `a` to `b` (`[x, y]`) at depth `z`.
pub(crate) fn bar(a: [f32; 2], b: [f32; 2], width: f32, z: f32) -> [[f32; 3]; 4] {
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    let half = width / 2.0 / (dx * dx + dy * dy).sqrt().max(1e-6);
    let (nx, ny) = (-dy * half, dx * half);
    [
        [a[0] + nx, a[1] + ny, z],
        [b[0] + nx, b[1] + ny, z],
        [b[0] - nx, b[1] - ny, z],
        [a[0] - nx, a[1] - ny, z],
    ]
}
