//! What lies between the scene and the file: rain in the air, blur, exposure and sensor noise.

use super::canvas::Canvas;
use super::noise::{Rng, byte};

/// The imperfections of one scene's camera.
#[derive(Clone, Debug)]
pub(crate) struct Optics {
    /// Times that the picture is blurred by `1 2 1`.
    blur: u32,
    /// Blurred along the rows only, as when the car yaws.
    shaken: bool,
    gain: f32,
    /// Standard deviation of the noise, in 8-bit steps.
    grain: f32,
    /// Loss of light in the corners.
    falloff: f32,
}

impl Optics {
    /// Of a seed; twilight is noisier.
    pub(crate) fn new(rng: &mut Rng, dusk: bool) -> Self {
        Self {
            blur: rng.pick(&[0, 0, 0, 1, 1, 2]),
            shaken: rng.chance(0.3),
            gain: rng.range(0.88, 1.14),
            grain: if dusk { rng.range(3.0, 7.0) } else { rng.range(0.8, 4.0) },
            falloff: rng.range(0.05, 0.25),
        }
    }
}

/// Lets rain fall through the picture: slanted bright streaks, longer when nearer.
pub(crate) fn rain(canvas: &mut Canvas, rng: &mut Rng, strength: f32) {
    let (w, h) = (canvas.width as f32, canvas.height as f32);
    let slant = rng.range(-0.25, 0.25);
    for _ in 0..super::noise::floor(strength * 260.0) {
        let (u, v) = (rng.range(0.0, w), rng.range(-0.1 * h, h));
        let length = h * rng.range(0.02, 0.09);
        let wide = (0.0016 * h).max(0.6);
        let alpha = rng.range(0.08, 0.3);
        let (u1, v1) = (u + slant * length, v + length);
        let streak = [[u, v], [u + wide, v], [u1 + wide, v1], [u1, v1]];
        canvas.polygon(&streak, None, |_, _| ([226.0, 230.0, 236.0], alpha));
    }
}

/// Blurs, exposes and adds noise. Labels stay.
pub(crate) fn develop(canvas: &mut Canvas, optics: &Optics, rng: &mut Rng) {
    let (w, h) = (canvas.width as usize, canvas.height as usize);
    for _ in 0..optics.blur {
        for row in canvas.rgb.chunks_exact_mut(3 * w) {
            soften_row(row);
        }
        if !optics.shaken {
            soften_columns(&mut canvas.rgb, 3 * w);
        }
    }
    // Sums of four uniforms, drawn once: near enough to a normal distribution.
    let noise: Vec<f32> = (0..4096)
        .map(|_| optics.grain * 1.7 * (0..4).map(|_| rng.unit() - 0.5).sum::<f32>())
        .collect();
    let across: Vec<f32> = (0..w).map(|u| 2.0 * (u as f32 + 0.5) / w as f32 - 1.0).collect();
    for (v, row) in canvas.rgb.chunks_exact_mut(3 * w).enumerate() {
        let down = 2.0 * (v as f32 + 0.5) / h as f32 - 1.0;
        let start = rng.bits();
        for (u, pixel) in row.chunks_exact_mut(3).enumerate() {
            let gain =
                optics.gain * (1.0 - 0.5 * optics.falloff * (across[u] * across[u] + down * down));
            for (c, value) in pixel.iter_mut().enumerate() {
                let index = (start.wrapping_add(3 * u as u64 + 1367 * c as u64) & 4095) as u16;
                *value = byte(f32::from(*value) * gain + noise[usize::from(index)]);
            }
        }
    }
}

/// `(1 2 1) / 4` along one row of RGB.
fn soften_row(row: &mut [u8]) {
    let mut before = [row[0], row[1], row[2]];
    for i in 0..row.len() {
        let next = row[if i + 3 < row.len() { i + 3 } else { i }];
        let here = row[i];
        row[i] = quarter(before[i % 3], here, next);
        before[i % 3] = here;
    }
}

/// `(1 2 1) / 4` down the columns of rows of `stride` bytes.
fn soften_columns(rgb: &mut [u8], stride: usize) {
    let mut before = rgb[..stride].to_vec();
    let rows = rgb.len() / stride;
    for v in 0..rows {
        let (head, tail) = rgb[v * stride..].split_at_mut(stride);
        for (i, value) in head.iter_mut().enumerate() {
            let next = if v + 1 < rows { tail[i] } else { *value };
            let here = *value;
            *value = quarter(before[i], here, next);
            before[i] = here;
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a mean of bytes is a byte")]
fn quarter(a: u8, b: u8, c: u8) -> u8 {
    ((u16::from(a) + 2 * u16::from(b) + u16::from(c) + 2) / 4) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softening_spreads_a_point_by_1_2_1_both_ways() {
        let mut rgb = vec![0; 3 * 4 * 3]; // 3 rows, 4 columns
        rgb[3 * 5] = 160; // red of row 1, column 1
        for row in rgb.chunks_exact_mut(12) {
            soften_row(row);
        }
        soften_columns(&mut rgb, 12);
        let red: Vec<u8> = rgb.iter().step_by(3).copied().collect();
        assert_eq!(red, [10, 20, 10, 0, 20, 40, 20, 0, 10, 20, 10, 0]);
    }
}
