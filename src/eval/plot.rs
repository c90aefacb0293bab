//! Pictures of an evaluation: curves, and a sheet of frames with labels and scores.

use crate::data::IGNORE;
use crate::overlay::{PAPER, draw_text, heat};

/// A picture: height, width, RGB.
pub type Picture = (usize, usize, Vec<u8>);

const HEIGHT: usize = 480;
const WIDTH: usize = 640;
/// Left, top, right and bottom of the unit square, px.
const AXES: [usize; 4] = [56, 32, 620, 440];
const GRID: [u8; 3] = [70, 74, 82];
/// Colours of the curves, in order (Okabe and Ito's, told apart by every eye).
const COLOURS: [[u8; 3]; 8] = [
    [230, 159, 0],
    [86, 180, 233],
    [0, 158, 115],
    [240, 228, 66],
    [0, 114, 178],
    [213, 94, 0],
    [204, 121, 167],
    [235, 235, 235],
];

/// Curves in the unit square, `(x, y)` each, with a grid every 0.2 and a legend.
pub fn curves(title: &str, series: &[(String, Vec<(f64, f64)>)]) -> Picture {
    let mut rgb = PAPER.repeat(HEIGHT * WIDTH);
    let [left, top, right, bottom] = AXES;
    for i in 0..=5 {
        let at = f64::from(i) / 5.0;
        line(&mut rgb, [(at, 0.0), (at, 1.0)], GRID);
        line(&mut rgb, [(0.0, at), (1.0, at)], GRID);
        let (x, y) = pixel((at, at));
        let label = format!("{at:.1}");
        text(&mut rgb, (x - 12, bottom + 4), &label);
        text(&mut rgb, (left - 28, y - 6), &label);
    }
    text(&mut rgb, (left, top - 22), title);
    for (i, ((name, points), colour)) in series.iter().zip(COLOURS.iter().cycle()).enumerate() {
        for pair in points.windows(2) {
            line(&mut rgb, [pair[0], pair[1]], *colour);
        }
        let y = bottom - 14 * (series.len() - i);
        for x in right - 110..right - 90 {
            for y in y + 4..y + 7 {
                rgb[3 * (y * WIDTH + x)..][..3].copy_from_slice(colour);
            }
        }
        text(&mut rgb, (right - 86, y), name);
    }
    (HEIGHT, WIDTH, rgb)
}

/// Pixel column and row of a point of the unit square.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "inside the picture"
)]
fn pixel((x, y): (f64, f64)) -> (usize, usize) {
    let [left, top, right, bottom] = AXES;
    let along =
        |share: f64, length: usize| (share.clamp(0.0, 1.0) * length as f64).round() as usize;
    (left + along(x, right - left), bottom - along(y, bottom - top))
}

/// A line of 1 px between two points of the unit square; nothing for a point that is not a number.
fn line(rgb: &mut [u8], [from, to]: [(f64, f64); 2], colour: [u8; 3]) {
    if [from.0, from.1, to.0, to.1].iter().any(|x| x.is_nan()) {
        return;
    }
    let ((x0, y0), (x1, y1)) = (pixel(from), pixel(to));
    let steps = x0.abs_diff(x1).max(y0.abs_diff(y1)).max(1);
    let between = |a: usize, b: usize, i: usize| (a * (steps - i) + b * i + steps / 2) / steps;
    for i in 0..=steps {
        let at = 3 * (between(y0, y1, i) * WIDTH + between(x0, x1, i));
        rgb[at..at + 3].copy_from_slice(&colour);
    }
}

fn text(rgb: &mut [u8], (x, y): (usize, usize), text: &str) {
    let room = (WIDTH - x) / 6;
    draw_text(&mut rgb[3 * (y * WIDTH + x)..], WIDTH, 1, text.chars().take(room.saturating_sub(1)));
}

/// One row of a [`sheet`]; all planes of `width` columns.
#[derive(Clone, Debug, PartialEq)]
pub struct SheetRow {
    /// Printed above it, ASCII.
    pub title: String,
    /// Columns of the frame.
    pub width: usize,
    /// The picture.
    pub rgb: Vec<u8>,
    /// 0 is drawn dark, obstacles white, ignored pixels black.
    pub labels: Vec<u8>,
    /// The score less the threshold: above 0 is drawn red.
    pub scores: Vec<f32>,
}

/// Width of a tile, px.
const TILE: usize = 400;
/// Between tiles, and the title's strip above a row, px.
const GAP: usize = 4;
const STRIP: usize = 13;

/// Frames under each other: picture, labels, score, scaled to tiles of one width.
pub fn sheet(rows: &[SheetRow]) -> Picture {
    let width = 3 * TILE + 2 * GAP;
    let mut rgb = Vec::new();
    for row in rows {
        let start = rgb.len();
        let height = tile_height(row);
        rgb.extend(PAPER.repeat(width * (STRIP + height + GAP)));
        draw_text(&mut rgb[start..], width, 1, row.title.chars().take(width / 6 - 1));
        let labels = row.labels.iter().flat_map(|label| match *label {
            0 => [70; 3],
            IGNORE => [0; 3],
            _ => [255; 3],
        });
        let range = row.scores.iter().fold(0f32, |max, score| max.max(score.abs()));
        let scores = heat(&row.scores, range.max(f32::MIN_POSITIVE));
        for (i, plane) in [&row.rgb, &labels.collect(), &scores].into_iter().enumerate() {
            for y in 0..height {
                let at = start + 3 * ((STRIP + y) * width + i * (TILE + GAP));
                shrink_row(plane, row.width, y, &mut rgb[at..at + 3 * TILE]);
            }
        }
    }
    (rgb.len() / (3 * width), width, rgb)
}

fn tile_height(row: &SheetRow) -> usize {
    (row.labels.len() / row.width * TILE).div_ceil(row.width)
}

/// Row `y` of a tile by the nearest pixels of `rgb`, `width` columns.
fn shrink_row(rgb: &[u8], width: usize, y: usize, tile: &mut [u8]) {
    let line = y * width / TILE;
    for (x, pixel) in tile.chunks_exact_mut(3).enumerate() {
        let from = 3 * (line * width + x * width / TILE);
        pixel.copy_from_slice(&rgb[from..from + 3]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_passes_through_its_points_in_its_colour() {
        let diagonal = vec![(0.0, 0.0), (0.5, 1.0), (f64::NAN, 0.5)];
        let (h, w, rgb) = curves("recall", &[("llr".into(), diagonal)]);
        let at = |x: usize, y: usize| &rgb[3 * (y * w + x)..][..3];
        assert_eq!(rgb.len(), 3 * h * w);
        for (x, y) in [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0)] {
            let (x, y) = pixel((x, y));
            assert_eq!(at(x, y), COLOURS[0]);
        }
        let (x, y) = pixel((1.0, 0.0));
        assert_eq!(at(x, y), GRID);
    }

    #[test]
    fn a_sheet_holds_picture_labels_and_scores_beside_each_other() {
        let row = SheetRow {
            title: "worst".into(),
            width: 800,
            rgb: [1, 2, 3].repeat(800 * 400),
            labels: [vec![0; 800 * 200], vec![1; 800 * 200]].concat(),
            scores: vec![-1.0; 800 * 400],
        };
        let (h, w, rgb) = sheet(&[row.clone(), row]);
        assert_eq!((h, w, rgb.len()), (2 * (STRIP + 200 + GAP), 1208, 3 * h * w));
        let at = |x: usize, y: usize| &rgb[3 * (y * w + x)..][..3];
        let second = STRIP + 200 + GAP + STRIP;
        assert_eq!(at(399, second + 199), [1, 2, 3]);
        assert_eq!(
            (at(TILE + GAP, second), at(TILE + GAP, second + 199)),
            (&[70; 3][..], &[255; 3][..])
        );
        assert_eq!(at(2 * (TILE + GAP), second), &heat(&[-1.0], 1.0)[..]);
    }
}
