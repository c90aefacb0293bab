//! Anomaly-Mix as the paper modifies it: one group of COCO objects pasted hard into a street picture.
//!
//! No scaling, blending or colour matching; the place is uniform over the picture. The draws come
//! through a closure, so that recorded ones can be replayed.

use crate::data::{OOD, Sample};

/// Pastes the pixels of `source` that are labelled [`OOD`] into `sample`, as one group in their
/// bounding box, and labels them [`OOD`]; returns whether anything was pasted.
///
/// `draw(n)` gives a uniform integer of 0 to `n`, both included: first the box's top row, then its left
/// column. Nothing is drawn or pasted where `source` has no such pixel or the box does not fit.
pub fn paste(sample: &mut Sample, source: &Sample, mut draw: impl FnMut(usize) -> usize) -> bool {
    let Some([top, left, bottom, right]) = bounds(source) else { return false };
    let (height, width) = (bottom - top + 1, right - left + 1);
    if height > sample.height || width > sample.width {
        return false;
    }
    let (to_row, to_column) = (draw(sample.height - height), draw(sample.width - width));
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        let from = (top + y) * source.width + left + x;
        if source.labels[from] == OOD {
            let to = (to_row + y) * sample.width + to_column + x;
            sample.labels[to] = OOD;
            sample.rgb[to * 3..][..3].copy_from_slice(&source.rgb[from * 3..][..3]);
        }
    }
    true
}

/// Top, left, bottom and right, all included, of the pixels labelled [`OOD`].
fn bounds(source: &Sample) -> Option<[usize; 4]> {
    let objects = source.labels.iter().enumerate().filter(|&(_, &label)| label == OOD);
    let places = objects.map(|(at, _)| (at / source.width, at % source.width));
    places.fold(None, |bounds, (y, x)| {
        let [top, left, bottom, right] = bounds.unwrap_or([y, x, y, x]);
        Some([top.min(y), left.min(x), bottom.max(y), right.max(x)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(height: usize, width: usize, value: u8, labels: Vec<u8>) -> Sample {
        Sample { height, width, rgb: vec![value; height * width * 3], labels }
    }

    #[test]
    fn only_object_pixels_are_pasted_rows_drawn_first_and_what_does_not_fit_is_left_out() {
        // Two object pixels on a diagonal: a box of 2 x 2 at row 1, column 2.
        let mut labels = vec![0; 12];
        labels[6] = OOD;
        labels[11] = OOD;
        let source = grey(3, 4, 9, labels);
        let mut sample = grey(3, 5, 1, vec![7; 15]);
        let mut drawn = Vec::new();
        let pasted = paste(&mut sample, &source, |n| {
            drawn.push(n);
            1
        });
        assert!(pasted);
        assert_eq!(drawn, [1, 3]);
        let changed: Vec<_> = (0..15).filter(|&i| sample.labels[i] == OOD).collect();
        assert_eq!(changed, [6, 12]);
        assert!((0..15).all(|i| (sample.rgb[3 * i] == 9) == changed.contains(&i)));
        let mut small = grey(1, 5, 1, vec![7; 5]);
        assert!(!paste(&mut small, &source, |_| unreachable!()));
        assert_eq!(small, grey(1, 5, 1, vec![7; 5]));
    }
}
