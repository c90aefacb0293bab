//! Pictures for people: class colours and OoD outlines over the camera's picture, a heat map of the
//! score, and the four of them on one panel. Planes in, `rgb8` out, rows from the top, no padding.

use crate::config::ClassTable;

/// Fill of out-of-distribution pixels; no class of Cityscapes' table is near it when outlined.
const OOD_FILL: [u8; 3] = [255, 30, 0];
/// Outline of out-of-distribution regions.
const OOD_OUTLINE: [u8; 3] = [255, 255, 255];
/// Anchors of the heat map from `-range` to `range`: Moreland's diverging "cool to warm" (2009), even
/// steps of which look even, with grey in the middle.
const COOL_WARM: [[f32; 3]; 5] = [
    [59.0, 76.0, 192.0],
    [141.0, 176.0, 254.0],
    [221.0, 221.0, 221.0],
    [244.0, 154.0, 123.0],
    [180.0, 4.0, 38.0],
];
/// Background and text of a panel.
pub(crate) const PAPER: [u8; 3] = [28, 30, 34];
const INK: [u8; 3] = [235, 235, 235];

/// The table's colour for each train id of `classes`; ids without a row, such as 255, are black.
pub fn colours(classes: &[u8], table: &ClassTable) -> Vec<u8> {
    classes.iter().flat_map(|&id| colour(id, table).unwrap_or_default()).collect()
}

/// The picture `rgb` of `width` columns with a share `alpha` (0 to 1) of its class's colour where
/// `classes` has one; pixels with a non-zero `ood_mask` take it of red instead, and every region of them
/// has a white outline.
pub fn overlay(
    rgb: &[u8],
    width: usize,
    classes: &[u8],
    ood_mask: &[u8],
    (table, alpha): (&ClassTable, f64),
) -> Vec<u8> {
    #[expect(clippy::cast_possible_truncation, reason = "0 to 256")]
    let share = (alpha.clamp(0.0, 1.0) * 256.0).round() as u16;
    let line = (width / 640).max(1); // px
    let mut mixed = rgb.to_vec();
    for (i, pixel) in mixed.as_chunks_mut().0.iter_mut().enumerate() {
        let id = classes.get(i).copied().unwrap_or(u8::MAX);
        if ood_mask.get(i).is_none_or(|&ood| ood == 0) {
            mix(pixel, colour(id, table).unwrap_or(*pixel), share);
        } else if is_outline(ood_mask, width, i, line) {
            *pixel = OOD_OUTLINE;
        } else {
            mix(pixel, OOD_FILL, share);
        }
    }
    mixed
}

/// A score as a heat map: `-range` and below dark blue, 0 (undecided, for a log-likelihood ratio)
/// light grey, `range` and above dark red, NaN (no score) black.
#[expect(clippy::cast_possible_truncation, reason = "0 to 4 and 0 to 255 by construction")]
pub fn heat(score: &[f32], range: f32) -> Vec<u8> {
    let shade = |&value: &f32| {
        if value.is_nan() {
            return [0; 3];
        }
        let at = ((value / range).clamp(-1.0, 1.0) + 1.0) * 2.0; // 0 to 4
        let below = (at as usize).min(3);
        let part = at - below as f32;
        let (low, high) = (COOL_WARM[below], COOL_WARM[below + 1]);
        [0, 1, 2].map(|c| (low[c] + part * (high[c] - low[c]) + 0.5) as u8)
    };
    score.iter().flat_map(shade).collect()
}

/// A one-channel plane, such as a mask, as a grey picture.
pub fn grey(plane: &[u8]) -> Vec<u8> {
    plane.iter().flat_map(|&value| [value; 3]).collect()
}

/// Four titled pictures of `width` columns and one height as two rows of two.
///
/// Returns height and width of the panel and its RGB. Titles are ASCII; what the built-in font lacks
/// stays blank, what a tile is too narrow for is left out.
pub fn panel(width: usize, tiles: [(&str, &[u8]); 4]) -> (usize, usize, Vec<u8>) {
    let height = tiles[0].1.len() / (3 * width);
    let dot = (width / 320).max(1); // px of one dot of the font
    let (gap, strip) = (2 * dot, 11 * dot);
    let (full_height, full_width) = (2 * (strip + height) + gap, 2 * width + 3 * gap);
    let mut panel = PAPER.repeat(full_height * full_width);
    for (i, (title, rgb)) in tiles.into_iter().enumerate() {
        let (top, left) = (i / 2 * (strip + height), gap + i % 2 * (width + gap));
        let offset = 3 * (top * full_width + left);
        let fits = title.chars().take(width / dot / 6);
        draw_text(&mut panel[offset..], full_width, dot, fits);
        for (y, row) in rgb.chunks_exact(3 * width).take(height).enumerate() {
            let start = offset + 3 * (strip + y) * full_width;
            panel[start..start + row.len()].copy_from_slice(row);
        }
    }
    (full_height, full_width, panel)
}

fn colour(id: u8, table: &ClassTable) -> Option<[u8; 3]> {
    table.0.get(usize::from(id)).map(|class| class.colour)
}

/// `share` of 256 parts of `colour`, the others of `pixel`.
fn mix(pixel: &mut [u8; 3], colour: [u8; 3], share: u16) {
    let part = |c: usize| u16::from(pixel[c]) * (256 - share) + u16::from(colour[c]) * share;
    *pixel = [0, 1, 2].map(|c| u8::try_from(part(c) >> 8).unwrap_or(u8::MAX));
}

/// Whether pixel `i` of a region has the region's outside within `line` pixels, left, right, above or
/// below. The picture's border is no outside.
fn is_outline(mask: &[u8], width: usize, i: usize, line: usize) -> bool {
    let x = i % width;
    let outside = |at: Option<usize>| at.and_then(|at| mask.get(at)).is_some_and(|&ood| ood == 0);
    (1..=line).any(|n| {
        (x >= n && outside(i.checked_sub(n)))
            || (x + n < width && outside(Some(i + n)))
            || outside(i.checked_sub(n * width))
            || outside(Some(i + n * width))
    })
}

/// Writes `text` into the strip that begins at the start of `rgb`, 2 dots from its left and top.
pub(crate) fn draw_text(
    rgb: &mut [u8],
    width: usize,
    dot: usize,
    text: impl Iterator<Item = char>,
) {
    for (n, character) in text.enumerate() {
        let glyph = CHARACTERS.find(character).map_or(0, |at| GLYPHS[at]);
        for bit in (0..35).filter(|bit| glyph >> (34 - bit) & 1 == 1) {
            let (top, left) = ((2 + bit / 5) * dot, (2 + 6 * n + bit % 5) * dot);
            for y in top..top + dot {
                let start = 3 * (y * width + left);
                for pixel in rgb[start..start + 3 * dot].as_chunks_mut().0 {
                    *pixel = INK;
                }
            }
        }
    }
}

/// The characters of the built-in font; each is one byte, so that a position is an index of `GLYPHS`.
const CHARACTERS: &str =
    " %()+,-./0123456789:<=>ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz";
/// Their dots, 5 columns by 7 rows, row by row from the top left, the first in bit 34.
const GLYPHS: [u64; 76] = [
    0x000000000,
    0x674222173,
    0x088842082,
    0x208210888,
    0x0084f9080,
    0x000003088,
    0x0000f8000,
    0x00000018c,
    0x042222210,
    0x3a33ae62e,
    0x11842108e,
    0x3a213221f,
    0x7c460862e,
    0x08ca97c42,
    0x7e1e0862e,
    0x1910f462e,
    0x7c2221108,
    0x3a317462e,
    0x3a317844c,
    0x018c03180,
    0x088882082,
    0x001f07c00,
    0x208208888,
    0x11518fe31,
    0x7a31f463e,
    0x3a308422e,
    0x72518c65c,
    0x7e10f421f,
    0x7e10f4210,
    0x3a30bc62f,
    0x4631fc631,
    0x38842108e,
    0x1c4210a4c,
    0x4654c5251,
    0x42108421f,
    0x4775ac631,
    0x4739ace71,
    0x3a318c62e,
    0x7a31f4210,
    0x3a318d64d,
    0x7a31f5251,
    0x3e107043e,
    0x7c8421084,
    0x46318c62e,
    0x46318a944,
    0x4631ad771,
    0x462a22a31,
    0x462a21084,
    0x7c222221f,
    0x00000001f,
    0x000e0be2f,
    0x4216cc63e,
    0x000e8422e,
    0x042d9c62f,
    0x000e8fe0e,
    0x1908e2108,
    0x000f8bc2e,
    0x4216cc631,
    0x100c2108e,
    0x080610a4c,
    0x4212a6292,
    0x30842108e,
    0x001aad6b1,
    0x0016cc631,
    0x000e8c62e,
    0x001e8fa10,
    0x000f8bc21,
    0x0016cc210,
    0x000f8383e,
    0x211c42126,
    0x00118c66d,
    0x00118c544,
    0x00118d6aa,
    0x001151151,
    0x00118bc2e,
    0x001f1111f,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_mixed_in_and_regions_of_ood_have_an_outline() {
        let table = ClassTable::cityscapes();
        let (height, width) = (5, 7);
        let mut mask = vec![0; height * width];
        for y in 1..4 {
            mask[y * width + 4..y * width + 7].fill(255); // touches the right border
        }
        let mut classes = vec![0; height * width]; // road: 128, 64, 128
        classes[0] = 255;
        let mixed =
            overlay(&[100; 3].repeat(height * width), width, &classes, &mask, (&table, 0.5));
        let at = |y: usize, x: usize| &mixed[3 * (y * width + x)..][..3];
        assert_eq!(at(0, 0), [100; 3], "unlabelled pixels stay");
        assert_eq!(at(2, 3), [114, 82, 114]);
        assert_eq!([at(2, 4), at(1, 5), at(3, 6)], [[255; 3]; 3]);
        assert_eq!([at(2, 5), at(2, 6)], [[177, 65, 50]; 2], "the picture's border is no outline");
    }

    #[test]
    fn heat_is_grey_at_zero_and_saturates_at_both_ends() {
        let shades = heat(&[0.0, -9.0, 4.0, 1.0, f32::NAN], 2.0);
        let expected =
            [[221, 221, 221], [59, 76, 192], [180, 4, 38], [244, 154, 123], [0, 0, 0]].concat();
        assert_eq!(shades, expected);
    }

    #[test]
    fn unknown_ids_are_black() {
        let shades = colours(&[1, 19, 255], &ClassTable::cityscapes());
        assert_eq!(shades, [244, 35, 232, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_panel_holds_its_tiles_unchanged_and_its_titles() {
        let (height, width) = (3, 40);
        let tiles = [10, 20, 30, 40].map(|value| vec![value; 3 * height * width]);
        let titles = ["T", "b", "LLR", "~"];
        let (h, w, rgb) = panel(width, std::array::from_fn(|i| (titles[i], tiles[i].as_slice())));
        assert_eq!((h, w, rgb.len()), (2 * (11 + 3) + 2, 86, 3 * 30 * 86));
        let at = |y: usize, x: usize| &rgb[3 * (y * w + x)..][..3];
        for (y, x, value) in [(11, 2, 10), (13, 41, 10), (11, 44, 20), (25, 2, 30), (27, 83, 40)] {
            assert_eq!(at(y, x), [value; 3], "{y} {x}");
        }
        let bar: Vec<_> = (0..9).map(|x| at(2, 2 + x) == INK).collect(); // of the T
        assert_eq!(bar, [false, false, true, true, true, true, true, false, false]);
        assert_eq!(at(16, 46), PAPER, "a character the font lacks is blank");
    }

    #[test]
    fn a_title_longer_than_its_tile_is_cut() {
        let tile = [0; 3 * 8];
        let (_, _, rgb) = panel(4, ["a long title"; 4].map(|title| (title, tile.as_slice())));
        assert!(rgb.len() > 3 * 8);
    }
}
