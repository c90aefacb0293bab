//! The training augmentation: random scale, crop, centred pad, flip, colour jitter.
//!
//! As albumentations 1.4.24 over OpenCV 4.10 computes it on 8-bit pictures, to the bit where the tests
//! say so; the distributions are albumentations', the random numbers ours.

use rand::Rng;
use rand::seq::SliceRandom;

use crate::config::AugmentConfig;
use crate::data::{IGNORE, Sample};

/// One augmented view `(window)` of a sample; `window` is height and width in pixels.
pub fn augment(
    sample: &Sample,
    cfg: &AugmentConfig,
    window: [usize; 2],
    rng: &mut impl Rng,
) -> Sample {
    let factor = rng.gen_range(cfg.scale[0]..=cfg.scale[1]);
    let [height, width] = scaled([sample.height, sample.width], factor);
    let (h, w) = (cfg.crop[0].min(height), cfg.crop[1].min(width));
    let (top, left) = (rng.gen_range(0..=height - h), rng.gen_range(0..=width - w));
    let crop = Region { top, left, height: h, width: w };
    let mut view = pad(&resize(sample, [height, width], &crop), window);
    if rng.gen_bool(cfg.flip) {
        flip(&mut view);
    }
    if rng.gen_bool(cfg.colour_jitter) {
        jitter(&mut view.rgb, rng);
    }
    view
}

/// A rectangle of a resized picture.
#[derive(Clone, Copy, Debug)]
struct Region {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

/// Height and width times `factor`, rounded down, at least 1.
fn scaled(size: [usize; 2], factor: f64) -> [usize; 2] {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounding down")]
    size.map(|n| ((n as f64 * factor) as usize).max(1))
}

/// The `region` of the sample resized to `size`: bilinear for the picture, nearest for the labels.
fn resize(sample: &Sample, size: [usize; 2], region: &Region) -> Sample {
    let rows = taps(sample.height, size[0], region.top, region.height);
    let mut columns = taps(sample.width, size[1], region.left, region.width);
    // Beyond the border OpenCV takes a column's last pixel alone, but a row's last pixel twice.
    for tap in columns.iter_mut().filter(|tap| tap.pixels[0] == tap.pixels[1]) {
        tap.weights = [ONE, 0];
    }
    let mut rgb = Vec::with_capacity(region.height * region.width * 3);
    for row in &rows {
        let lines = row.pixels.map(|y| &sample.rgb[y * sample.width * 3..][..sample.width * 3]);
        for column in &columns {
            let at = column.pixels.map(|x| x * 3);
            for c in 0..3 {
                // OpenCV's fixed point: 11 bits horizontally, of which 4 are dropped, 11 vertically.
                let part = |i: usize| {
                    let values = at.map(|x| i32::from(lines[i][x + c]));
                    let across = values[0] * column.weights[0] + values[1] * column.weights[1];
                    ((across >> 4) * row.weights[i]) >> 16
                };
                rgb.push(byte((part(0) + part(1) + 2) >> 2));
            }
        }
    }
    let rows = nearest(sample.height, size[0], region.top, region.height);
    let columns: Vec<_> = nearest(sample.width, size[1], region.left, region.width).collect();
    let labels = rows.flat_map(|y| columns.iter().map(move |x| y * sample.width + x));
    let labels = labels.map(|at| sample.labels[at]).collect();
    Sample { height: region.height, width: region.width, rgb, labels }
}

/// A weight of 1 in OpenCV's fixed point.
const ONE: i32 = 1 << 11;

/// The two source pixels of a bilinear output and their weights.
#[derive(Clone, Copy, Debug)]
struct Tap {
    pixels: [usize; 2],
    weights: [i32; 2],
}

/// Bilinear taps of outputs `from..from + count` of an axis resized from `len` to `size`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positions are clamped to 0..len, weights lie in 0..=2048"
)]
fn taps(len: usize, size: usize, from: usize, count: usize) -> Vec<Tap> {
    let scale = 1.0 / (size as f64 / len as f64);
    let tap = |i: usize| {
        let at = ((i as f64 + 0.5) * scale - 0.5) as f32;
        let floor = at.floor();
        let pixel = |x: f32| (x.max(0.0) as usize).min(len - 1);
        let weight = |share: f32| (share * ONE as f32).round_ties_even() as i32;
        let share = at - floor;
        Tap {
            pixels: [pixel(floor), pixel(floor + 1.0)],
            weights: [weight(1.0 - share), weight(share)],
        }
    };
    (from..from + count).map(tap).collect()
}

/// Nearest source pixels of outputs `from..from + count` of an axis resized from `len` to `size`.
fn nearest(len: usize, size: usize, from: usize, count: usize) -> impl Iterator<Item = usize> {
    let scale = 1.0 / (size as f64 / len as f64);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounding down")]
    (from..from + count).map(move |i| ((i as f64 * scale) as usize).min(len - 1))
}

/// The sample in the middle of a window: black around the picture, [`IGNORE`] around the labels.
///
/// A side longer than the window's is cut at its end.
fn pad(sample: &Sample, [height, width]: [usize; 2]) -> Sample {
    let top = height.saturating_sub(sample.height) / 2;
    let left = width.saturating_sub(sample.width) / 2;
    let mut rgb = vec![0; height * width * 3];
    let mut labels = vec![IGNORE; height * width];
    let w = sample.width.min(width);
    for y in 0..sample.height.min(height) {
        let (from, to) = (y * sample.width, (top + y) * width + left);
        labels[to..to + w].copy_from_slice(&sample.labels[from..from + w]);
        rgb[to * 3..(to + w) * 3].copy_from_slice(&sample.rgb[from * 3..(from + w) * 3]);
    }
    Sample { height, width, rgb, labels }
}

/// Mirrors left and right.
fn flip(sample: &mut Sample) {
    for row in sample.labels.chunks_exact_mut(sample.width) {
        row.reverse();
    }
    for row in sample.rgb.chunks_exact_mut(sample.width * 3) {
        row.reverse(); // the channels of each pixel, too
        row.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
    }
}

/// Brightness, contrast and saturation by factors of 0.8 to 1.2 and any hue, in random order:
/// albumentations' ColorJitter with its defaults.
fn jitter(rgb: &mut [u8], rng: &mut impl Rng) {
    let mut order = [0, 1, 2, 3];
    order.shuffle(rng);
    let [brightness, contrast, saturation] = std::array::from_fn(|_| rng.gen_range(0.8..=1.2));
    let hue = rng.gen_range(-0.5..=0.5);
    for step in order {
        match step {
            0 => scale_values(rgb, brightness, 0.0),
            1 => adjust_contrast(rgb, contrast),
            2 => adjust_saturation(rgb, saturation),
            _ => shift_hue(rgb, hue),
        }
    }
}

/// Nearest byte of a value that is one already, or clipped.
fn byte(value: i32) -> u8 {
    u8::try_from(value.clamp(0, 255)).unwrap_or(0)
}

/// A byte of a float, rounded as OpenCV does.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn rounded(value: f32) -> u8 {
    value.round_ties_even().clamp(0.0, 255.0) as u8
}

/// `value * factor + offset`, clipped and rounded down.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounding down, clamped"
)]
fn scale_values(rgb: &mut [u8], factor: f64, offset: f64) {
    let (factor, offset) = (factor as f32, offset as f32);
    let table: Vec<u8> =
        (0..=255u8).map(|v| (f32::from(v) * factor + offset).clamp(0.0, 255.0) as u8).collect();
    rgb.iter_mut().for_each(|value| *value = table[usize::from(*value)]);
}

/// OpenCV's 8-bit grey of one pixel.
fn grey(pixel: &[u8]) -> u8 {
    let [r, g, b] = [0, 1, 2].map(|c| i32::from(pixel[c]));
    byte((r * 9798 + g * 19235 + b * 3735 + (1 << 14)) >> 15)
}

/// Moves values away from, or towards, the picture's mean grey, black padding included.
fn adjust_contrast(rgb: &mut [u8], factor: f64) {
    let sum: f64 = rgb.chunks_exact(3).map(|pixel| f64::from(grey(pixel))).sum();
    let mean = sum / (rgb.len() / 3).max(1) as f64;
    scale_values(rgb, factor, mean * (1.0 - factor));
}

/// Moves values away from, or towards, their pixel's grey.
#[expect(clippy::cast_possible_truncation, reason = "factors near 1")]
fn adjust_saturation(rgb: &mut [u8], factor: f64) {
    let (factor, rest) = (factor as f32, (1.0 - factor) as f32);
    for pixel in rgb.chunks_exact_mut(3) {
        let grey = f32::from(grey(pixel)) * rest;
        pixel.iter_mut().for_each(|value| *value = rounded(f32::from(*value) * factor + grey));
    }
}

/// Turns the hue by `shift` of a full circle, through OpenCV's 8-bit HSV with hues of 0 to 179.
fn shift_hue(rgb: &mut [u8], shift: f64) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 180")]
    let turn: Vec<u8> =
        (0..=255u8).map(|h| (f64::from(h) + 180.0 * shift).rem_euclid(180.0) as u8).collect();
    for pixel in rgb.chunks_exact_mut(3) {
        let [h, s, v] = to_hsv([pixel[0], pixel[1], pixel[2]]);
        pixel.copy_from_slice(&to_rgb([turn[usize::from(h)], s, v]));
    }
}

/// Hue of 0 to 179, saturation and value of 0 to 255, in OpenCV's 12-bit fixed point.
#[expect(clippy::cast_possible_truncation, reason = "quotients below 2^20")]
fn to_hsv(rgb: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = rgb.map(i32::from);
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    let range = max - min;
    let inverse = |numerator: f64, n: i32| {
        if n == 0 { 0 } else { (numerator / f64::from(n)).round_ties_even() as i32 }
    };
    let s = (range * inverse(f64::from(255 << 12), max) + (1 << 11)) >> 12;
    let sixth = if max == r {
        g - b
    } else if max == g {
        b - r + 2 * range
    } else {
        r - g + 4 * range
    };
    let h = (sixth * inverse(f64::from(180 << 12) / 6.0, range) + (1 << 11)) >> 12;
    [byte(if h < 0 { h + 180 } else { h }), byte(s), byte(max)]
}

/// The inverse of [`to_hsv`], in float as OpenCV does it: fused, and rounded down at the end.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 255")]
fn to_rgb([h, s, v]: [u8; 3]) -> [u8; 3] {
    let (s, v) = (f32::from(s) * (1.0 / 255.0), f32::from(v) * (1.0 / 255.0));
    let turn = f32::from(h) * (6.0 / 180.0);
    let sector = turn.floor();
    let part = turn - sector;
    let shade = |share: f32| v * (-s).mul_add(share, 1.0);
    let values = [v, shade(1.0), shade(part), shade(1.0 - part)];
    let order = match sector as u8 % 6 {
        0 => [0, 3, 1],
        1 => [2, 0, 1],
        2 => [1, 0, 3],
        3 => [1, 2, 0],
        4 => [3, 1, 0],
        _ => [0, 1, 2],
    };
    order.map(|i| (values[i] * 255.0) as u8)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use safetensors::SafeTensors;

    use super::*;

    /// What albumentations 1.4.24 made of a small picture; `tests/data/golden/augment.py` wrote it.
    fn fixture() -> Vec<u8> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden/augment.safetensors");
        std::fs::read(path).unwrap()
    }

    fn sample(file: &SafeTensors<'_>) -> Sample {
        let (rgb, labels) = (file.tensor("image").unwrap(), file.tensor("labels").unwrap());
        let (height, width) = (rgb.shape()[0], rgb.shape()[1]);
        Sample { height, width, rgb: rgb.data().to_vec(), labels: labels.data().to_vec() }
    }

    #[test]
    fn scaling_and_colours_are_those_of_albumentations() {
        let bytes = fixture();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let sample = sample(&file);
        for (name, expected) in file.iter() {
            let Some((what, number)) = name.split_once('.') else { continue };
            let (mut rgb, mut labels) = (sample.rgb.clone(), Vec::new());
            let number = number.trim_end_matches(".image").trim_end_matches(".labels");
            let number: f64 = number.parse().unwrap();
            match what {
                "brightness" => scale_values(&mut rgb, number, 0.0),
                "contrast" => adjust_contrast(&mut rgb, number),
                "saturation" => adjust_saturation(&mut rgb, number),
                "hue" => shift_hue(&mut rgb, number),
                _ => {
                    let size @ [height, width] = scaled([sample.height, sample.width], number);
                    let whole = Region { top: 0, left: 0, height, width };
                    Sample { rgb, labels, .. } = resize(&sample, size, &whole);
                }
            }
            let got = if name.ends_with("labels") { &labels } else { &rgb };
            assert_eq!(got.len(), expected.data().len(), "{name}");
            let off = got.iter().zip(expected.data()).map(|(a, b)| a.abs_diff(*b));
            let (most, count) = off.fold((0, 0), |(m, n), d| (d.max(m), n + u32::from(d > 0)));
            assert_eq!((most, count), (0, 0), "{name}: largest difference, pixels that differ");
        }
    }

    #[test]
    fn a_crop_is_a_piece_of_the_whole_and_padding_is_black_and_ignored() {
        let bytes = fixture();
        let sample = sample(&SafeTensors::deserialize(&bytes).unwrap());
        let whole = resize(&sample, [40, 58], &Region { top: 0, left: 0, height: 40, width: 58 });
        let piece = resize(&sample, [40, 58], &Region { top: 7, left: 11, height: 5, width: 9 });
        for y in 0..5 {
            let from = (y + 7) * 58 + 11;
            assert_eq!(piece.labels[y * 9..][..9], whole.labels[from..][..9]);
            assert_eq!(piece.rgb[y * 27..][..27], whole.rgb[from * 3..][..27]);
        }
        let mut padded = pad(&piece, [8, 12]); // one row above, two below; one column left, two right
        assert_eq!(padded.labels[..13], [IGNORE; 13]);
        assert_eq!(padded.labels[13], piece.labels[0]);
        assert_eq!(padded.rgb[12 * 3..13 * 3], [0; 3]);
        flip(&mut padded);
        assert_eq!(padded.labels[12 + 10], piece.labels[0]);
        assert_eq!(padded.rgb[(12 + 10) * 3..][..3], piece.rgb[..3]);
    }

    #[test]
    fn one_seed_gives_one_view_of_the_window_whatever_the_sample() {
        let bytes = fixture();
        let sample = sample(&SafeTensors::deserialize(&bytes).unwrap());
        let cfg =
            AugmentConfig { scale: [0.5, 2.0], crop: [24, 30], flip: 0.5, colour_jitter: 0.5 };
        let view = |seed| augment(&sample, &cfg, [28, 42], &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(view(3), view(3));
        assert_ne!(view(3), view(4));
        assert_eq!((view(5).height, view(5).width), (28, 42));
    }
}
