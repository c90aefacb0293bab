//! Components and outlines against flood filling, on random masks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking and says what it measured or skips"
)]

use ood_segmentation::config::ClassTable;
use ood_segmentation::obstacle::{Maps, Neighbours, ObstacleConfig, components, obstacles};
use rand::{Rng, SeedableRng};

const ANY: ObstacleConfig = ObstacleConfig {
    hysteresis: 0.0,
    mean_margin: 0.0,
    min_area: 1,
    max_area: usize::MAX,
    min_road: 0.0,
    temperature: 1.0,
    offset: 0.0,
    tolerance: 0.0,
};

/// Indices reachable from `start` over `mask`.
fn flood(mask: &[bool], width: usize, start: usize, corners: bool) -> Vec<usize> {
    let (mut seen, mut open) = (vec![start], vec![start]);
    while let Some(i) = open.pop() {
        for (j, _) in mask.iter().enumerate().filter(|(_, set)| **set) {
            let (dx, dy) = ((i % width).abs_diff(j % width), (i / width).abs_diff(j / width));
            if dx.max(dy) == 1 && (corners || dx + dy == 1) && !seen.contains(&j) {
                seen.push(j);
                open.push(j);
            }
        }
    }
    seen.sort_unstable();
    seen
}

#[test]
fn components_and_outlines_agree_with_flood_filling_on_random_masks() {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    for (height, width) in [(1, 9), (7, 13), (12, 5), (9, 1)] {
        for density in [0.2, 0.45, 0.6, 0.9] {
            // A free border, so that the outside of every component is connected.
            let (h, w) = (height + 2, width + 2);
            let inner =
                |i: usize| (1..=width).contains(&(i % w)) && (1..=height).contains(&(i / w));
            let mask: Vec<bool> =
                (0..h * w).map(|i| random.gen_bool(density) && inner(i)).collect();
            for neighbours in [Neighbours::Four, Neighbours::Eight] {
                let (runs, count) = components(&mask, w, neighbours);
                let mut ours = vec![Vec::new(); count];
                for run in &runs {
                    ours[run.component].extend(run.pixels(w));
                }
                let corners = neighbours == Neighbours::Eight;
                let all: Vec<usize> = ours.concat();
                assert_eq!(all.len(), mask.iter().filter(|&&set| set).count());
                for pixels in &ours {
                    assert_eq!(*pixels, flood(&mask, w, pixels[0], corners));
                }
                assert!(ours.is_sorted_by_key(|pixels| pixels[0]));
            }
            let score: Vec<f32> = mask.iter().map(|&set| f32::from(u8::from(set))).collect();
            let table = ClassTable::cityscapes();
            let maps = Maps { score: &score, classes: &[], width: w };
            for obstacle in obstacles(&maps, 0.0, &ANY, &table).list {
                let [x, y] = obstacle.outline[0];
                let own = flood(&mask, w, y * w + x, true);
                let others: Vec<bool> = (0..h * w).map(|i| !own.contains(&i)).collect();
                let enclosed = h * w - flood(&others, w, 0, false).len();
                let edges = obstacle.outline.iter().zip(obstacle.outline.iter().cycle().skip(1));
                let twice: f64 =
                    edges.map(|(a, b)| (a[0] * b[1]) as f64 - (b[0] * a[1]) as f64).sum();
                assert_eq!(twice, 2.0 * enclosed as f64, "area of the outline, clockwise");
            }
        }
    }
}
