//! Ways to spoil a picture.

/// A picture of the drawn world: rows, columns, RGB, and the same scene 0.7 s later.
pub(super) struct Shot {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) now: Vec<u8>,
    pub(super) later: Vec<u8>,
    pub(super) index: usize,
}

/// Makes a picture worse.
pub(super) type Spoil = fn(&Shot) -> Vec<u8>;

pub(super) fn dark(shot: &Shot) -> Vec<u8> {
    each(shot, |v| v / 25.0)
}

pub(super) fn bright(shot: &Shot) -> Vec<u8> {
    each(shot, |v| 4.0 * v + 160.0)
}

pub(super) fn saturated(shot: &Shot) -> Vec<u8> {
    each(shot, |v| 2.5 * v)
}

pub(super) fn inverted(shot: &Shot) -> Vec<u8> {
    each(shot, |v| 255.0 - v)
}

/// Fog: a quarter of the contrast.
pub(super) fn fogged(shot: &Shot) -> Vec<u8> {
    each(shot, |v| 0.25 * v + 150.0)
}

/// Red and blue swapped, as behind a wrong encoding.
pub(super) fn swapped(shot: &Shot) -> Vec<u8> {
    shot.now.chunks_exact(3).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]).collect()
}

/// The camera hangs upside down.
pub(super) fn upside_down(shot: &Shot) -> Vec<u8> {
    shot.now.rchunks_exact(3).flatten().copied().collect()
}

/// Sensor noise of 60 grey levels to either side.
pub(super) fn noisy(shot: &Shot) -> Vec<u8> {
    let pixels = shot.now.iter().enumerate();
    let add = |(i, &v): (usize, &u8)| i16::from(v) + i16::from(noise(i, 121)) - 60;
    pixels.map(add).map(|v| u8::try_from(v.clamp(0, 255)).unwrap_or_default()).collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn each(shot: &Shot, change: fn(f32) -> f32) -> Vec<u8> {
    shot.now.iter().map(|&v| change(f32::from(v)) as u8).collect()
}

/// Out of focus: three box blurs of about a 200th of the width to either side, with sensor noise after.
pub(super) fn blurred(shot: &Shot) -> Vec<u8> {
    let (w, h, radius) = (shot.width, shot.height, shot.width / 200);
    let mut rgb = shot.now.clone();
    for _ in 0..3 {
        for (step, count, lines) in [(3, w, h), (3 * w, h, w)] {
            for line in 0..lines {
                let start = if step == 3 { 3 * w * line } else { 3 * line };
                for c in 0..3 {
                    let at = |i: usize| start + c + i * step;
                    let row: Vec<u32> = (0..count).map(|i| u32::from(rgb[at(i)])).collect();
                    let mut sum: u32 = row[..radius].iter().sum();
                    for i in 0..count {
                        sum += row.get(i + radius).copied().unwrap_or_default();
                        sum -= if i > radius { row[i - radius - 1] } else { 0 };
                        let many = (i + radius + 1).min(count) - i.saturating_sub(radius);
                        rgb[at(i)] = u8::try_from(sum as usize / many).unwrap_or(255);
                    }
                }
            }
        }
    }
    let noisy = rgb.into_iter().enumerate().map(|(i, v)| v.saturating_add(noise(i, 7)));
    noisy.collect()
}

/// Something dark before a third of the lens.
pub(super) fn covered(shot: &Shot) -> Vec<u8> {
    let hidden = |i: usize| {
        let (y, x) = (i / 3 / shot.width, i / 3 % shot.width);
        3 * x < 2 * shot.width && 2 * y > shot.height
    };
    let pixels = shot.now.iter().enumerate();
    pixels.map(|(i, &v)| if hidden(i) { 8 + noise(i, 5) } else { v }).collect()
}

/// The lower part is that of a later picture.
pub(super) fn torn(shot: &Shot) -> Vec<u8> {
    let row = shot.height / 4 + shot.index * 37 % (shot.height / 2);
    let at = 3 * shot.width * row;
    [&shot.now[..at], &shot.later[at..]].concat()
}

/// Read with a step that is 12 bytes off.
pub(super) fn skewed(shot: &Shot) -> Vec<u8> {
    let step = 3 * shot.width + 12;
    let all = shot.now.len();
    let rows = (0..shot.height).map(|y| (y * step) % (all - step));
    rows.flat_map(|start| &shot.now[start..start + 3 * shot.width]).copied().collect()
}

/// A number below `most` that looks random.
#[expect(clippy::cast_possible_truncation, reason = "below 256")]
fn noise(i: usize, most: u32) -> u8 {
    let mixed = (i as u32).wrapping_mul(0x9e37_79b1);
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca77);
    ((mixed ^ mixed >> 13) % most) as u8
}
