//! The picture and its labels: anti-aliased colours, hard labels.

use super::noise::{byte, floor};

/// Red, green, blue, 0 to 255.
pub(crate) type Rgb = [f32; 3];

/// A colour and its opacity, 0 to 1.
pub(crate) type Ink = (Rgb, f32);

/// `a` at `t = 0`, `b` at `t = 1`.
#[inline]
pub(crate) fn mix(a: Rgb, b: Rgb, t: f32) -> Rgb {
    [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t]
}

/// Each channel times `k`.
#[inline]
pub(crate) fn scale(a: Rgb, k: f32) -> Rgb {
    [a[0] * k, a[1] * k, a[2] * k]
}

/// Sub-scanlines per row of a polygon; along the row coverage is exact.
const SUBROWS: i32 = 4;

/// A picture being painted, back to front.
pub(crate) struct Canvas {
    /// Columns.
    pub(crate) width: i32,
    /// Rows.
    pub(crate) height: i32,
    /// `(h, w, 3)`.
    pub(crate) rgb: Vec<u8>,
    /// `(h, w)` train ids.
    pub(crate) labels: Vec<u8>,
    /// Change of coverage from pixel to pixel along one row.
    change: Vec<f32>,
    crossings: Vec<f32>,
}

impl Canvas {
    /// A black picture labelled `label`.
    pub(crate) fn new(width: u32, height: u32, label: u8) -> Self {
        let pixels = width as usize * height as usize;
        Self {
            width: width as i32,
            height: height as i32,
            rgb: vec![0; 3 * pixels],
            labels: vec![label; pixels],
            change: vec![0.0; width as usize + 2],
            crossings: Vec::new(),
        }
    }

    /// Lays `ink` over pixel `(u, v)`, which must be inside; the label follows from half opacity on.
    #[inline]
    pub(crate) fn blend(&mut self, u: i32, v: i32, (colour, alpha): Ink, label: Option<u8>) {
        let index = (v * self.width + u) as usize;
        let pixel = &mut self.rgb[3 * index..3 * index + 3];
        if alpha > 0.995 {
            for (old, new) in pixel.iter_mut().zip(colour) {
                *old = byte(new);
            }
        } else {
            for (old, new) in pixel.iter_mut().zip(colour) {
                *old = byte(f32::from(*old) + (new - f32::from(*old)) * alpha);
            }
        }
        if let Some(label) = label
            && alpha >= 0.5
        {
            self.labels[index] = label;
        }
    }

    /// Paints every pixel of the box `[left, top, right, bottom]` that `shader(u, v)` makes visible.
    pub(crate) fn shade(
        &mut self,
        [left, top, right, bottom]: [f32; 4],
        label: Option<u8>,
        shader: impl Fn(f32, f32) -> Ink,
    ) {
        for v in floor(top).max(0)..floor(bottom).saturating_add(1).min(self.height) {
            for u in floor(left).max(0)..floor(right).saturating_add(1).min(self.width) {
                let ink = shader(u as f32 + 0.5, v as f32 + 0.5);
                if ink.1 > 0.004 {
                    self.blend(u, v, ink, label);
                }
            }
        }
    }

    /// Fills a polygon (even-odd) with `paint(u, v)`.
    pub(crate) fn polygon(
        &mut self,
        points: &[[f32; 2]],
        label: Option<u8>,
        paint: impl Fn(f32, f32) -> Ink,
    ) {
        let bound = |axis: usize| {
            let start = (f32::INFINITY, f32::NEG_INFINITY);
            points.iter().fold(start, |(low, high), p| (low.min(p[axis]), high.max(p[axis])))
        };
        let ((left, right), (top, bottom)) = (bound(0), bound(1));
        let (u0, u1) = (floor(left).max(0), floor(right).saturating_add(1).min(self.width));
        if u0 >= u1 {
            return;
        }
        for v in floor(top).max(0)..floor(bottom).saturating_add(1).min(self.height) {
            self.change[u0 as usize..=u1 as usize + 1].fill(0.0);
            for sub in 0..SUBROWS {
                self.cross(points, v as f32 + (sub as f32 + 0.5) / SUBROWS as f32);
            }
            let mut coverage = 0.0;
            for u in u0..u1 {
                coverage += self.change[u as usize];
                if coverage > 0.004 {
                    let (colour, alpha) = paint(u as f32 + 0.5, v as f32 + 0.5);
                    self.blend(u, v, (colour, alpha * coverage.min(1.0)), label);
                }
            }
        }
    }

    /// Adds the coverage of one sub-scanline at height `y`.
    fn cross(&mut self, points: &[[f32; 2]], y: f32) {
        self.crossings.clear();
        let mut a = points[points.len() - 1];
        for &b in points {
            if (a[1] <= y) != (b[1] <= y) {
                self.crossings.push(a[0] + (b[0] - a[0]) * (y - a[1]) / (b[1] - a[1]));
            }
            a = b;
        }
        self.crossings.sort_unstable_by(f32::total_cmp);
        for (k, &x) in self.crossings.iter().enumerate() {
            let sign = if k % 2 == 0 { 1.0 } else { -1.0 } / SUBROWS as f32;
            let x = x.clamp(0.0, self.width as f32);
            let u = floor(x);
            let part = x - u as f32;
            self.change[u as usize] += sign * (1.0 - part);
            self.change[u as usize + 1] += sign * part;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_polygon_covers_half_pixels_by_half_and_labels_only_what_it_mostly_covers() {
        let mut canvas = Canvas::new(5, 3, 9);
        let square = [[1.5, 1.0], [3.25, 1.0], [3.25, 2.0], [1.5, 2.0]];
        canvas.polygon(&square, Some(13), |_, _| ([200.0; 3], 1.0));
        let red: Vec<u8> = canvas.rgb.iter().step_by(3).copied().collect();
        assert_eq!(red, [0, 0, 0, 0, 0, 0, 100, 200, 50, 0, 0, 0, 0, 0, 0]);
        assert_eq!(canvas.labels, [9, 9, 9, 9, 9, 9, 13, 13, 9, 9, 9, 9, 9, 9, 9]);
    }

    #[test]
    fn shapes_beyond_every_edge_are_cut() {
        let mut canvas = Canvas::new(4, 3, 0);
        let around = [[-1e9, -1e9], [1e9, -1e9], [1e9, 1e9], [-1e9, 1e9]];
        canvas.polygon(&around, Some(1), |_, _| ([255.0; 3], 1.0));
        canvas.shade([-9.0, -9.0, 99.0, 99.0], Some(2), |_, _| ([255.0; 3], 1.0));
        assert!(canvas.rgb.iter().all(|&value| value == 255));
        assert!(canvas.labels.iter().all(|&label| label == 2));
        canvas.polygon(&[[9.0, 9.0], [12.0, 9.0], [9.0, 12.0]], Some(3), |_, _| ([0.0; 3], 1.0));
        assert!(canvas.labels.iter().all(|&label| label == 2));
    }
}
