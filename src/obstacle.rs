//! From score to obstacles: two thresholds, connected components, limits, the drivable area.
//!
//! Boxes and outlines count pixel corners, `(x, y)`: (0, 0) is the top left corner of the top left
//! pixel, (width, height) the bottom right corner of the last one, as in Foxglove's annotations.
//! A pixel whose score is NaN lies outside the valid area and belongs to no obstacle.

use crate::config::ClassTable;
use crate::msg::{
    BoundingBox2D, ColorRgba, Detection2D, Detection2DArray, Header, ImageMarker, ObjectHypothesis,
    ObjectHypothesisWithPose, Point, Point2D, Pose2D,
};
use crate::{Error, Result};

/// What counts as an obstacle, given the threshold that one of its pixels must be above. The default
/// is every pixel above it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ObstacleConfig {
    /// From that pixel it reaches as far as scores are above the threshold less this.
    pub hysteresis: f32,
    /// How far its mean score must lie above the lower of the two thresholds; 0 accepts any.
    pub mean_margin: f32,
    /// Fewest pixels, at least 1.
    pub min_area: usize,
    /// Most pixels.
    pub max_area: usize,
    /// Least [`Obstacle::road_overlap`] or [`Obstacle::road_contact`], 0 to 1; 0 accepts obstacles
    /// anywhere.
    pub min_road: f32,
    /// Scale of the probability `sigmoid((score - offset) / temperature)`; 1 without calibration.
    pub temperature: f32,
    /// Score whose probability is one half; 0 without calibration.
    pub offset: f32,
    /// How far an outline may run from the pixels' edges, px; 0 keeps every corner.
    pub tolerance: f32,
}

impl Default for ObstacleConfig {
    fn default() -> Self {
        Self {
            hysteresis: 0.0,
            mean_margin: 0.0,
            min_area: 1,
            max_area: usize::MAX,
            min_road: 0.0,
            temperature: 1.0,
            offset: 0.0,
            tolerance: 1.0,
        }
    }
}

impl ObstacleConfig {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// [`Error::Setting`] with the key.
    pub fn validate(&self) -> Result<()> {
        let Self { min_area, max_area, temperature, .. } = *self;
        let finite = (f32::MIN..=f32::MAX, "a finite number");
        let positive = (0.0..=f32::MAX, "0 or more");
        let rules = [
            ("obstacle.hysteresis", self.hysteresis, positive.clone()),
            ("obstacle.mean_margin", self.mean_margin, positive.clone()),
            ("obstacle.min_road", self.min_road, (0.0..=1.0, "0 to 1")),
            ("obstacle.temperature", temperature, (f32::MIN_POSITIVE..=f32::MAX, "above 0")),
            ("obstacle.offset", self.offset, finite),
            ("obstacle.tolerance", self.tolerance, positive),
        ];
        for (key, value, (range, allowed)) in rules {
            if !range.contains(&value) {
                return Err(Error::setting(key, &value, allowed));
            }
        }
        if min_area == 0 || min_area > max_area {
            let allowed = format!("1 to `obstacle.max_area`, {max_area}");
            return Err(Error::setting("obstacle.min_area", &min_area, allowed));
        }
        Ok(())
    }

    /// Whether every pixel above the threshold is part of an obstacle, in a frame of so many.
    pub fn accepts_all(&self, pixels: usize) -> bool {
        let Self { hysteresis, mean_margin, min_area, max_area, min_road, .. } = *self;
        let limits = [hysteresis, mean_margin, min_road];
        limits.iter().all(|&limit| limit <= 0.0) && min_area <= 1 && max_area >= pixels
    }
}

/// Colour of outlines: red, as obstacles are in the overlay.
pub const OUTLINE: [f32; 3] = [1.0, 0.0, 0.0];

/// One obstacle.
#[derive(Clone, Debug, PartialEq)]
pub struct Obstacle {
    /// Top left corner of the box around it.
    pub min: [usize; 2],
    /// Bottom right corner of that box.
    pub max: [usize; 2],
    /// Pixels.
    pub area: usize,
    /// Highest score.
    pub peak: f32,
    /// Mean score.
    pub mean: f32,
    /// Mean of the pixels' probabilities.
    pub probability: f32,
    /// Share of its pixels inside the drivable area, whose holes are closed.
    pub road_overlap: f32,
    /// Share of its lower edge that stands on the drivable area. An edge out of sight, at the
    /// picture's end or at the valid area's, counts as standing: what is cut off there is near.
    pub road_contact: f32,
    /// Its outer contour as a closed polygon, clockwise, the first corner not repeated. Holes are not
    /// part of it.
    pub outline: Vec<[usize; 2]>,
}

/// Row-major planes of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Maps<'a> {
    /// Score per pixel, NaN outside the valid area.
    pub score: &'a [f32],
    /// Train id per pixel.
    pub classes: &'a [u8],
    /// Columns.
    pub width: usize,
}

/// The obstacles of a frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Obstacles {
    /// In reading order of their first pixels.
    pub list: Vec<Obstacle>,
    /// 255 on their pixels, else 0, row-major.
    pub mask: Vec<u8>,
}

/// Obstacles of a frame: 8-connected regions of scores above `threshold - config.hysteresis` with a
/// score above `threshold`, within the limits.
///
/// The drivable area is where a class of `table` is `drivable`, and whatever it encloses: unknown
/// objects punch holes into "road".
pub fn obstacles(
    maps: &Maps<'_>,
    threshold: f32,
    config: &ObstacleConfig,
    table: &ClassTable,
) -> Obstacles {
    let (score, width) = (maps.score, maps.width.max(1));
    let low = threshold - config.hysteresis;
    let above: Vec<bool> = score.iter().map(|&value| value > low).collect();
    let road = road(maps.classes, width, table);
    let frame = Frame { score, above: &above, road: &road, width };
    let (mut runs, count) = components(&above, width, Neighbours::Eight);
    let mut areas = vec![0; count];
    for run in &runs {
        areas[run.component] += run.end - run.start;
    }
    let limits = config.min_area..=config.max_area;
    runs.retain(|run| limits.contains(&areas[run.component])); // noise never gets to the sort
    runs.sort_by_key(|run| run.component);
    let mut found = Obstacles { list: Vec::new(), mask: vec![0; score.len()] };
    for runs in runs.chunk_by(|a, b| a.component == b.component) {
        let obstacle = frame.measure(runs, config);
        let Obstacle { peak, mean, road_overlap, road_contact, .. } = obstacle;
        if peak > threshold
            && mean >= low + config.mean_margin
            && road_overlap.max(road_contact) >= config.min_road
        {
            let start = [runs[0].start, runs[0].row];
            let outline = simplify(&frame.contour(start), f64::from(config.tolerance));
            found.list.push(Obstacle { outline, ..obstacle });
            for run in runs {
                found.mask[run.pixels(width)].fill(255);
            }
        }
    }
    found
}

/// One detection per obstacle, class `unknown`, its score the probability; the pose is not known.
pub fn detections(obstacles: &[Obstacle], header: &Header) -> Detection2DArray {
    let detection = |obstacle: &Obstacle| {
        let ([left, top], [right, bottom]) = (obstacle.min, obstacle.max);
        let position = Point2D { x: (left + right) as f64 / 2.0, y: (top + bottom) as f64 / 2.0 };
        let score = f64::from(obstacle.probability);
        let hypothesis = ObjectHypothesis { class_id: "unknown".into(), score };
        Detection2D {
            header: header.clone(),
            results: vec![ObjectHypothesisWithPose { hypothesis, ..Default::default() }],
            bbox: BoundingBox2D {
                center: Pose2D { position, theta: 0.0 },
                size_x: (right - left) as f64,
                size_y: (bottom - top) as f64,
            },
            id: String::new(),
        }
    };
    let detections = obstacles.iter().map(detection).collect();
    Detection2DArray { header: header.clone(), detections }
}

/// All outlines as one list of line segments, an outline's last ending where its first began.
///
/// Without obstacles it has no segments, which takes the last frame's off the viewer's picture.
pub fn outlines(obstacles: &[Obstacle], header: &Header, colour: [f32; 3]) -> ImageMarker {
    let point = |&[x, y]: &[usize; 2]| Point { x: x as f64, y: y as f64, z: 0.0 };
    let segments = |outline: &Vec<[usize; 2]>| -> Vec<Point> {
        let next = outline.iter().cycle().skip(1);
        outline.iter().zip(next).flat_map(|(a, b)| [point(a), point(b)]).collect()
    };
    let [r, g, b] = colour;
    ImageMarker {
        header: header.clone(),
        ns: "obstacles".into(),
        kind: ImageMarker::LINE_LIST,
        scale: 2.0,
        outline_color: ColorRgba { r, g, b, a: 1.0 },
        points: obstacles.iter().flat_map(|obstacle| segments(&obstacle.outline)).collect(),
        ..Default::default()
    }
}

/// Pixels of a row side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Row.
    pub row: usize,
    /// First column.
    pub start: usize,
    /// Column after the last one.
    pub end: usize,
    /// The component it belongs to.
    pub component: usize,
}

impl Run {
    /// Its pixels' indices in a plane `width` columns wide.
    pub fn pixels(&self, width: usize) -> std::ops::Range<usize> {
        self.row * width + self.start..self.row * width + self.end
    }
}

/// Which pixels are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbours {
    /// Those that share an edge.
    Four,
    /// Those that share an edge or a corner.
    Eight,
}

/// The runs of `true` in a mask `width` columns wide, in reading order, and the number of connected
/// components, which are counted in reading order of their first pixels. Linear time.
pub fn components(mask: &[bool], width: usize, neighbours: Neighbours) -> (Vec<Run>, usize) {
    let reach = usize::from(neighbours == Neighbours::Eight);
    // Until all runs are known, a run's component is an earlier run of it, or itself: a forest.
    let mut runs: Vec<Run> = Vec::new();
    let mut above = 0..0; // runs of the row above that may still touch
    for (row, line) in mask.chunks_exact(width.max(1)).enumerate() {
        let (first, mut start) = (runs.len(), 0);
        for equal in line.chunk_by(|a, b| a == b) {
            let end = start + equal.len();
            if equal[0] {
                let this = runs.len();
                runs.push(Run { row, start, end, component: this });
                while !above.is_empty() && runs[above.start].end + reach <= start {
                    above.start += 1;
                }
                let mut upper = above.start;
                while upper < above.end && runs[upper].start < end + reach {
                    join(&mut runs, upper, this);
                    upper += 1;
                }
            }
            start = end;
        }
        above = first..runs.len();
    }
    let mut count = 0;
    for i in 0..runs.len() {
        let earlier = runs[i].component;
        runs[i].component = if earlier == i { count } else { runs[earlier].component };
        count += usize::from(earlier == i);
    }
    (runs, count)
}

/// Makes the later root of two runs point to the earlier one.
fn join(runs: &mut [Run], a: usize, b: usize) {
    let (a, b) = (root(runs, a), root(runs, b));
    runs[a.max(b)].component = a.min(b);
}

/// The first run known of a run's component; paths are halved on the way.
fn root(runs: &mut [Run], mut at: usize) -> usize {
    while runs[at].component != at {
        runs[at].component = runs[runs[at].component].component;
        at = runs[at].component;
    }
    at
}

/// The drivable area with its holes closed.
fn road(classes: &[u8], width: usize, table: &ClassTable) -> Vec<bool> {
    let mut drivable = [false; 256];
    for class in table.0.iter().filter(|class| class.drivable) {
        drivable[usize::from(class.id)] = true;
    }
    let mut road: Vec<bool> = classes.iter().map(|&id| drivable[usize::from(id)]).collect();
    let elsewhere: Vec<bool> = road.iter().map(|&drivable| !drivable).collect();
    // A road joined by corners holds a hole in, so the rest is joined by edges alone.
    let (runs, count) = components(&elsewhere, width, Neighbours::Four);
    let bottom = (classes.len() / width).saturating_sub(1);
    let mut is_hole = vec![true; count];
    for run in &runs {
        let at_border = run.start == 0 || run.end == width || run.row == 0 || run.row == bottom;
        is_hole[run.component] &= !at_border;
    }
    for run in runs.iter().filter(|run| is_hole[run.component]) {
        road[run.pixels(width)].fill(true);
    }
    road
}

/// The planes of one frame.
struct Frame<'a> {
    score: &'a [f32],
    /// Scores above the lower threshold.
    above: &'a [bool],
    road: &'a [bool],
    width: usize,
}

impl Frame<'_> {
    /// All but the outline of the obstacle of these runs.
    #[expect(clippy::cast_possible_truncation, reason = "shares and means need no more digits")]
    fn measure(&self, runs: &[Run], config: &ObstacleConfig) -> Obstacle {
        let (mut min, mut max) = ([usize::MAX; 2], [0; 2]);
        let (mut area, mut peak, mut sum, mut probability) = (0, f32::MIN, 0.0, 0.0);
        let (mut inside, mut feet, mut standing) = (0, 0, 0);
        for run in runs {
            min = [min[0].min(run.start), min[1].min(run.row)];
            max = [max[0].max(run.end), max[1].max(run.row + 1)];
            area += run.end - run.start;
            for i in run.pixels(self.width) {
                let score = self.score[i];
                peak = peak.max(score);
                sum += f64::from(score);
                probability += f64::from(sigmoid((score - config.offset) / config.temperature));
                inside += usize::from(self.is_road(i));
                let below = i + self.width;
                if !self.above.get(below).is_some_and(|&above| above) {
                    let unseen = self.score.get(below).is_none_or(|score| score.is_nan());
                    feet += 1;
                    standing += usize::from(unseen || self.is_road(below));
                }
            }
        }
        Obstacle {
            min,
            max,
            area,
            peak,
            mean: (sum / area as f64) as f32,
            probability: (probability / area as f64) as f32,
            road_overlap: inside as f32 / area as f32,
            road_contact: standing as f32 / feet as f32, // every component has a lowest pixel
            outline: Vec::new(),
        }
    }

    fn is_road(&self, pixel: usize) -> bool {
        self.road.get(pixel).is_some_and(|&road| road)
    }

    /// Corners of the outer contour, clockwise, of the component whose first pixel has its top left
    /// corner at `start`. It follows the pixels' edges with the component on its right hand.
    ///
    /// All pixels above the lower threshold around a pixel are of its component, so that the
    /// thresholded plane is all there is to look at.
    fn contour(&self, start: [usize; 2]) -> Vec<[usize; 2]> {
        let height = self.above.len() / self.width;
        let is_above = |x: usize, y: usize| {
            x < self.width && y < height && self.above[y * self.width + x] // 0 - 1 wraps far beyond
        };
        let mut corners = Vec::new();
        let ([mut x, mut y], mut heading) = (start, 0); // right, down, left, up
        loop {
            match heading {
                0 => x += 1,
                1 => y += 1,
                2 => x -= 1,
                _ => y -= 1,
            }
            let (left, up) = (x.wrapping_sub(1), y.wrapping_sub(1));
            let around = [(x, up), (x, y), (left, y), (left, up)]; // clockwise from the north-east
            let ahead = |side: usize| {
                let (x, y) = around[(heading + side) % 4];
                is_above(x, y)
            };
            // To the left where a pixel touches by its corner, else straight on, else to the right.
            let turn = match (ahead(0), ahead(1)) {
                (true, _) => 3,
                (false, true) => 0,
                (false, false) => 1,
            };
            if turn != 0 {
                corners.push([x, y]);
                heading = (heading + turn) % 4;
            }
            if [x, y] == start {
                corners.rotate_right(1); // begin with the start
                return corners;
            }
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// A closed polygon with the corners left out whose absence moves no edge by more than `tolerance` px
/// (Douglas and Peucker 1973); a triangle stays of a polygon thinner than that.
fn simplify(corners: &[[usize; 2]], tolerance: f64) -> Vec<[usize; 2]> {
    /// Corners between two that stay: bounds the time, which is quadratic in it, on ragged outlines.
    const STRETCH: usize = 128;
    let n = corners.len();
    let cuts: Vec<usize> = (0..n).step_by(STRETCH).chain([n]).collect(); // `n` is the first again
    let mut kept = cuts[..cuts.len() - 1].to_vec();
    let mut stretches: Vec<_> = cuts.windows(2).map(|pair| (pair[0], pair[1])).collect();
    while let Some((from, to)) = stretches.pop() {
        let off = |i: usize| distance(corners[i], corners[from], corners[to % n]);
        let farthest = (from + 1..to).map(|i| (i, off(i))).max_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((middle, _)) = farthest.filter(|&(_, off)| off > tolerance || kept.len() < 3) {
            kept.push(middle);
            stretches.extend([(from, middle), (middle, to)]);
        }
    }
    kept.sort_unstable();
    kept.into_iter().map(|i| corners[i]).collect()
}

/// Distance of `p` from the segment from `a` to `b`, which may be one point.
fn distance(p: [usize; 2], a: [usize; 2], b: [usize; 2]) -> f64 {
    let [px, py, ax, ay, bx, by] = [p[0], p[1], a[0], a[1], b[0], b[1]].map(|side| side as f64);
    let (dx, dy) = (bx - ax, by - ay);
    let along = (px - ax) * dx + (py - ay) * dy;
    let t = (along / (dx * dx + dy * dy).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
    (px - ax - t * dx).hypot(py - ay - t * dy)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// A plane of one value per character; digits are scores, `.` is -1, `?` NaN.
    fn scores(rows: &[&str]) -> (Vec<f32>, usize) {
        let value = |c: char| match c {
            '.' => -1.0,
            '?' => f32::NAN,
            digit => digit.to_digit(10).unwrap() as f32,
        };
        (rows.iter().flat_map(|row| row.chars().map(value)).collect(), rows[0].len())
    }

    /// `r` is road, `b` building.
    fn classes(rows: &[&str]) -> Vec<u8> {
        rows.iter().flat_map(|row| row.chars().map(|c| if c == 'r' { 0 } else { 2 })).collect()
    }

    fn find(rows: &[&str], ground: &[&str], config: ObstacleConfig) -> Obstacles {
        find_above(0.0, rows, ground, config)
    }

    fn find_above(
        threshold: f32,
        rows: &[&str],
        ground: &[&str],
        config: ObstacleConfig,
    ) -> Obstacles {
        config.validate().unwrap();
        let (score, width) = scores(rows);
        let maps = Maps { score: &score, classes: &classes(ground), width };
        obstacles(&maps, threshold, &config, &ClassTable::cityscapes())
    }

    #[test]
    fn an_obstacle_starts_above_high_and_grows_above_low_across_corners() {
        let rows = [
            "3..1.22", ".1.....",
            "..2.1?9", // the 9 at the border, behind a pixel outside the valid area
            ".......",
        ];
        let found = find_above(2.0, &rows, &[], ObstacleConfig { hysteresis: 1.5, ..ANY });
        let boxes: Vec<_> = found.list.iter().map(|o| (o.min, o.max, o.area)).collect();
        assert_eq!(boxes, [([0, 0], [3, 3], 3), ([6, 2], [7, 3], 1)]);
        assert_eq!((found.list[0].peak, found.list[0].mean), (3.0, 2.0));
        let on: Vec<_> = (0..28).filter(|&i| found.mask[i] == 255).collect();
        assert_eq!(on, [0, 8, 16, 20]);
    }

    #[test]
    fn limits_hold_on_area_and_mean() {
        let rows = ["44..9.", "11..9.", "....9."]; // means 2.5 and 9, areas 4 and 3
        let areas = |config| find(&rows, &[], config).list.iter().map(|o| o.area).sum::<usize>();
        assert_eq!(areas(ANY), 7);
        assert_eq!(areas(ObstacleConfig { min_area: 4, ..ANY }), 4);
        assert_eq!(areas(ObstacleConfig { max_area: 3, ..ANY }), 3);
        assert_eq!(areas(ObstacleConfig { mean_margin: 2.5, ..ANY }), 7);
        assert_eq!(areas(ObstacleConfig { mean_margin: 2.6, ..ANY }), 3);
        let raised = ObstacleConfig { hysteresis: 9.0, ..ANY };
        assert!(find_above(9.0, &rows, &[], raised).list.is_empty(), "strictly above");
    }

    #[test]
    fn the_probability_is_the_mean_of_calibrated_sigmoids() {
        let found = find(&["13."], &[], ObstacleConfig { temperature: 2.0, offset: 1.0, ..ANY });
        let by_hand = (0.5 + 1.0 / (1.0 + (-1f32).exp())) / 2.0;
        assert!((found.list[0].probability - by_hand).abs() < 1e-6);
    }

    #[test]
    fn an_obstacle_counts_on_the_road_in_its_holes_or_standing_on_it() {
        let ground = ["bbbbbbbbb", "brrrrbbbb", "brbbrrbbb", "brbbrrrbb", "brrrrrrrb"];
        let at = |rows: [&str; 5]| {
            let found = find(&rows, &ground, ANY);
            assert_eq!(found.list.len(), 1);
            (found.list[0].road_overlap, found.list[0].road_contact)
        };
        let empty = ".........";
        assert_eq!(at([empty, empty, "..11.....", "..11.....", empty]), (1.0, 1.0), "a hole");
        assert_eq!(at([".1.......", empty, empty, empty, empty]), (0.0, 1.0), "stands on it");
        assert_eq!(at([empty, "....1111.", empty, empty, empty]), (0.25, 0.5), "feet at 4, 5");
        assert_eq!(at(["......111", empty, empty, empty, empty]), (0.0, 0.0), "in the air");
        assert_eq!(at([empty, empty, empty, empty, "........1"]), (0.0, 1.0), "cut off, near");
        let hood = [empty, empty, "........1", "........?", "........."];
        assert_eq!(at(hood), (0.0, 1.0), "behind the bonnet");
        let ring = find(&["...", ".1.", "..."], &["brb", "rbr", "brb"], ANY);
        assert_eq!(ring.list[0].road_overlap, 1.0, "a road joined by corners holds it in");
        let gated = ObstacleConfig { min_road: 0.5, ..ANY };
        assert_eq!(find(&["1..111..."], &["r.r......"], gated).list.len(), 2);
        let air = [".......1.", empty, empty, empty, empty];
        assert!(find(&air, &ground, gated).list.is_empty());
        assert!(find(&air, &ground, gated).mask.iter().all(|&pixel| pixel == 0));
    }

    #[test]
    fn outlines_go_around_pixels_clockwise_over_diagonal_links_and_not_into_holes() {
        let found = find(&["11..", "1.1.", ".1.."], &[], ANY);
        #[rustfmt::skip]
        let around = [
            [0, 0], [2, 0], [2, 1], [3, 1], [3, 2], [2, 2], [2, 3], [1, 3], [1, 2], [0, 2],
        ];
        assert_eq!(found.list[0].outline, around);
    }

    #[test]
    fn simplified_outlines_stay_within_the_tolerance_and_are_polygons() {
        let rows = ["1111111", "1111111", "1111111", "111.111"]; // a notch of one pixel
        let outline = |rows: &[&str], tolerance| {
            find(rows, &[], ObstacleConfig { tolerance, ..ANY }).list[0].outline.clone()
        };
        assert_eq!(outline(&rows, 0.4).len(), 8);
        assert_eq!(outline(&rows, 1.0), [[0, 0], [7, 0], [7, 4], [0, 4]]);
        let diagonal = ["1.....", ".1....", "..1...", "...1..", "....1."];
        assert_eq!(outline(&diagonal, 0.0).len(), 20);
        assert_eq!(outline(&diagonal, 2.0).len(), 3);
        assert_eq!(outline(&["1"], 9.0).len(), 3);
        let long = "1.".repeat(300); // ragged: a comb of 300 teeth on a ridge
        let comb = outline(&[&long, &"1".repeat(600)], 1.5);
        assert!(comb.len() < 20, "{}", comb.len());
    }

    #[test]
    fn messages_hold_box_probability_and_outline() {
        let header = Header { frame_id: "cam".into(), ..Header::default() };
        let found = find_above(-0.5, &["....", ".00.", ".0.."], &[], ANY);
        let array = detections(&found.list, &header);
        let detection = &array.detections[0];
        assert_eq!([&array.header, &detection.header], [&header; 2]);
        assert_eq!(detection.bbox.center.position, Point2D { x: 2.0, y: 2.0 });
        assert_eq!((detection.bbox.size_x, detection.bbox.size_y), (2.0, 2.0));
        let ObjectHypothesis { class_id, score } = &detection.results[0].hypothesis;
        assert_eq!((class_id.as_str(), *score), ("unknown", 0.5));
        let marker = outlines(&found.list, &header, [1.0, 0.0, 0.0]);
        let ends: Vec<_> = marker.points.iter().map(|p| [p.x, p.y]).collect();
        assert_eq!(ends.len(), 12);
        assert_eq!(ends[..3], [[1.0, 1.0], [3.0, 1.0], [3.0, 1.0]]);
        assert_eq!(ends[11], ends[0]);
        assert!(outlines(&[], &header, [0.0; 3]).points.is_empty());
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused_by_name() {
        for (config, key) in [
            (ObstacleConfig { hysteresis: -0.1, ..ANY }, "hysteresis"),
            (ObstacleConfig { mean_margin: f32::INFINITY, ..ANY }, "mean_margin"),
            (ObstacleConfig { min_area: 0, ..ANY }, "min_area"),
            (ObstacleConfig { max_area: 0, ..ANY }, "min_area"),
            (ObstacleConfig { min_road: 1.1, ..ANY }, "min_road"),
            (ObstacleConfig { temperature: 0.0, ..ANY }, "temperature"),
            (ObstacleConfig { offset: f32::NAN, ..ANY }, "offset"),
            (ObstacleConfig { tolerance: f32::NAN, ..ANY }, "tolerance"),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`obstacle.{key}`")), "{error}");
        }
        let all = |score: &[f32], classes: &[u8], width| {
            let maps = Maps { score, classes, width };
            obstacles(&maps, 0.0, &ANY, &ClassTable::cityscapes())
        };
        let odd = all(&[1.0; 7], &[0; 3], 3);
        assert_eq!((odd.list[0].area, odd.mask.len()), (6, 7), "an incomplete row is left out");
        assert_eq!(all(&[1.0; 2], &[], 0).list.len(), 1);
    }

    #[test]
    fn by_default_the_obstacles_are_the_pixels_above_the_threshold() {
        let rows = ["3..1.22", ".1.....", "..2.1?9"];
        for threshold in [-1.5, 0.5, 1.0, 2.0, 9.0] {
            let config = ObstacleConfig::default();
            assert!(config.accepts_all(21));
            let above: Vec<u8> =
                scores(&rows).0.iter().map(|&s| if s > threshold { 255 } else { 0 }).collect();
            assert_eq!(find_above(threshold, &rows, &[], config).mask, above, "{threshold}");
        }
        for limited in [
            ObstacleConfig { hysteresis: 0.1, ..ANY },
            ObstacleConfig { mean_margin: 0.1, ..ANY },
            ObstacleConfig { min_area: 2, ..ANY },
            ObstacleConfig { max_area: 20, ..ANY },
            ObstacleConfig { min_road: 0.1, ..ANY },
        ] {
            assert!(!limited.accepts_all(21), "{limited:?}");
        }
    }
}
