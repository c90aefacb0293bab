//! Evaluation sets in their published folder layouts, recognised from what the folder holds.
//!
//! Layouts and label values as in the loaders of road-anomaly-benchmark (AnomalyTrack, ObstacleTrack,
//! LostAndFound, official Fishyscapes) and of UEM and RbA (RoadAnomaly, Fishyscapes).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::IGNORE;
use crate::{Error, Result};

/// A published folder layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// SMIYC AnomalyTrack: `images/{id}.jpg`, `labels_masks/{id}_labels_semantic.png`.
    AnomalyTrack,
    /// SMIYC ObstacleTrack: the same with `.webp` pictures and scenes in the ids.
    ObstacleTrack,
    /// RoadAnomaly: `frame_list.json`, `frames/{id}.jpg`, `frames/{id}.labels/labels_semantic.png`.
    RoadAnomaly,
    /// Fishyscapes Lost-and-Found as UEM and RbA unpack it: `fishyscapes_lostandfound/`, `laf_images/`.
    FishyscapesLaf,
    /// Official Fishyscapes: `labels/val/{id}_fishy-labels.png`, pictures in LostAndFound beside it.
    FishyscapesOfficial,
    /// Lost and Found: `leftImg8bit/{split}/{scene}/`, `gtCoarse/{split}/{scene}/`.
    LostAndFound,
    /// Cityscapes val, for the inlier mIoU: `leftImg8bit/val/{city}/`, `gtFine/val/{city}/`.
    Cityscapes,
}

impl Layout {
    /// Name of the set in tables, and in the path of a submission.
    pub fn name(self) -> &'static str {
        match self {
            Self::AnomalyTrack => "AnomalyTrack",
            Self::ObstacleTrack => "ObstacleTrack",
            Self::RoadAnomaly => "RoadAnomaly",
            Self::FishyscapesLaf | Self::FishyscapesOfficial => "FishyscapesLaF",
            Self::LostAndFound => "LostAndFound",
            Self::Cityscapes => "Cityscapes",
        }
    }

    /// The splits one can ask for, the default first.
    pub fn splits(self) -> &'static [&'static str] {
        match self {
            Self::AnomalyTrack => &["all", "test", "validation"],
            Self::ObstacleTrack => &["all", "test", "validation", "night", "snowstorm", "noNight"],
            Self::LostAndFound => &["testNoKnown", "test", "train"],
            Self::RoadAnomaly => &["all"],
            Self::FishyscapesLaf | Self::FishyscapesOfficial | Self::Cityscapes => &["val"],
        }
    }

    /// Frames of the published set in a split, where that number is known.
    pub fn published_frames(self, split: &str) -> Option<usize> {
        match (self, split) {
            (Self::AnomalyTrack, "all") => Some(110),
            (Self::AnomalyTrack, "test") => Some(100),
            (Self::AnomalyTrack, "validation") => Some(10),
            (Self::ObstacleTrack, "test") => Some(327),
            (Self::ObstacleTrack, "validation" | "night") => Some(30),
            (Self::ObstacleTrack, "snowstorm") => Some(55),
            (Self::ObstacleTrack, "noNight") => Some(382),
            (Self::LostAndFound, "testNoKnown") => Some(1043),
            (Self::LostAndFound, "test") => Some(1203),
            (Self::RoadAnomaly, _) => Some(60),
            (Self::FishyscapesLaf | Self::FishyscapesOfficial, _) => Some(100),
            (Self::Cityscapes, _) => Some(500),
            _ => None,
        }
    }

    /// Whether the labels are train ids of inlier classes instead of 0, 1 and ignore.
    pub fn has_classes(self) -> bool {
        self == Self::Cityscapes
    }

    /// What a stored label value means: 0 normal, 1 anomaly, [`IGNORE`] (for Cityscapes the train id
    /// itself); `None` for a value outside the set's table.
    pub fn label(self, stored: u8) -> Option<u8> {
        match (self, stored) {
            (Self::LostAndFound, 1) => Some(0),
            (Self::LostAndFound, 2..=200) => Some(1),
            (Self::LostAndFound, _) => Some(IGNORE),
            (Self::RoadAnomaly, 0) => Some(0),
            (Self::RoadAnomaly, 2) => Some(1),
            (Self::RoadAnomaly, _) => None,
            (Self::Cityscapes, 0..=18 | IGNORE) | (_, 0 | 1 | IGNORE) => Some(stored),
            _ => None,
        }
    }

    fn values(self) -> &'static str {
        match self {
            Self::LostAndFound => "0 to 255",
            Self::RoadAnomaly => "0 and 2",
            Self::Cityscapes => "0 to 18 and 255",
            _ => "0, 1 and 255",
        }
    }
}

/// One frame of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The set's own name of it.
    pub id: String,
    /// The picture.
    pub image: PathBuf,
    /// The label map; `None` where the publisher holds it back.
    pub label: Option<PathBuf>,
}

/// A label map as the metrics read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelMap {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `(height, width)`: 0, 1, [`IGNORE`], or train ids.
    pub data: Vec<u8>,
}

/// A set found on disk.
#[derive(Clone, Debug)]
pub struct OodSet {
    /// Its layout.
    pub layout: Layout,
    /// Its folder.
    pub root: PathBuf,
    /// The split read.
    pub split: String,
    /// Its frames in the set's order.
    pub frames: Vec<Frame>,
    /// What is missing or left over, in words; [`OodSet::open`] refuses a set that has any.
    pub problems: Vec<String>,
}

impl OodSet {
    /// The set at `path`, which is its folder or one above a single set; `split` by default the layout's
    /// first.
    ///
    /// # Errors
    /// No set, several sets, an unknown split, missing or left-over files: each named.
    pub fn open(path: &Path, split: Option<&str>) -> Result<Self> {
        let set = match &mut *Self::find(path, split)? {
            [set] => set.clone(),
            several => {
                let names: Vec<_> =
                    several.iter().map(|set| set.root.display().to_string()).collect();
                let problem = format!("holds several sets, name one: {}", names.join(", "));
                return Err(Error::bad_file(path, problem));
            }
        };
        if !set.problems.is_empty() {
            return Err(Error::bad_file(&set.root, set.problems.join("; ")));
        }
        Ok(set)
    }

    /// Every set at `path` or in the folders directly below it, with its problems.
    ///
    /// # Errors
    /// No known layout, or a split that the layout does not have.
    pub fn find(path: &Path, split: Option<&str>) -> Result<Vec<Self>> {
        let mut roots = vec![path.to_path_buf()];
        if recognise(path).is_none() {
            roots = entries(path)?.into_iter().filter(|entry| entry.is_dir()).collect();
        }
        let sets =
            roots.into_iter().filter_map(|root| recognise(&root).map(|layout| (layout, root)));
        let sets = sets.map(|(layout, root)| Self::read(layout, root, split));
        let sets = sets.collect::<Result<Vec<_>>>()?;
        if sets.is_empty() {
            let problem = "no known data set: expected the published layout of AnomalyTrack or \
                           ObstacleTrack (images/, labels_masks/), RoadAnomaly (frame_list.json, frames/), \
                           Fishyscapes (fishyscapes_lostandfound/, laf_images/, or labels/val/), \
                           LostAndFound (leftImg8bit/, gtCoarse/) or Cityscapes (leftImg8bit/, gtFine/)";
            return Err(Error::bad_file(path, problem));
        }
        Ok(sets)
    }

    fn read(layout: Layout, root: PathBuf, split: Option<&str>) -> Result<Self> {
        let splits = layout.splits();
        let split = split.unwrap_or(splits[0]);
        if !splits.contains(&split) {
            let allowed = format!("{} for {}", splits.join(", "), layout.name());
            return Err(Error::setting("split", split, allowed));
        }
        let mut set =
            Self { layout, root, split: split.into(), frames: Vec::new(), problems: Vec::new() };
        match layout {
            Layout::AnomalyTrack | Layout::ObstacleTrack => set.read_smiyc()?,
            Layout::RoadAnomaly => set.read_road_anomaly()?,
            Layout::FishyscapesLaf => set.read_fishyscapes()?,
            Layout::FishyscapesOfficial => set.read_fishyscapes_official()?,
            Layout::LostAndFound => set.read_scenes("gtCoarse", "_gtCoarse_labelIds.png")?,
            Layout::Cityscapes => set.read_scenes("gtFine", "_gtFine_labelTrainIds.png")?,
        }
        let in_split = |frame: &Frame| in_split(layout, split, &frame.id);
        set.frames.retain(in_split);
        if split == "testNoKnown" {
            set.frames = without_known(std::mem::take(&mut set.frames));
        }
        if set.frames.is_empty() && set.problems.is_empty() {
            set.problems.push(format!("no frame in split {split}"));
        }
        Ok(set)
    }

    /// The frames that have labels.
    pub fn labelled(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter().filter(|frame| frame.label.is_some())
    }

    /// The label map of a frame in the metrics' values, checked against the picture's size.
    ///
    /// # Errors
    /// No labels, a file that does not decode, a value outside the set's table, another size than the
    /// picture's.
    pub fn labels(&self, frame: &Frame) -> Result<LabelMap> {
        let Some(path) = &frame.label else {
            return Err(Error::bad_file(&frame.image, "has no public labels"));
        };
        let mut map = read_labels(path)?;
        let (width, height) = image::image_dimensions(&frame.image)
            .map_err(|error| Error::bad_file(&frame.image, error.to_string()))?;
        if (map.height, map.width) != (height as usize, width as usize) {
            let problem = format!(
                "labels are {}x{} px (height, width), {} is {height}x{width}",
                map.height,
                map.width,
                frame.image.display()
            );
            return Err(Error::bad_file(path, problem));
        }
        for value in &mut map.data {
            *value = self.layout.label(*value).ok_or_else(|| {
                let (set, allowed) = (self.layout.name(), self.layout.values());
                Error::bad_file(path, format!("label value {value}, {set} has {allowed}"))
            })?;
        }
        Ok(map)
    }

    /// Pairs each id of `images` with its label; what lies on one side only is a problem.
    fn pair(&mut self, images: BTreeMap<String, PathBuf>, mut labels: BTreeMap<String, PathBuf>) {
        for (id, image) in images {
            let label = labels.remove(&id);
            if label.is_none() {
                self.problems.push(format!("{} has no labels", image.display()));
            }
            self.frames.push(Frame { id, image, label });
        }
        let left = labels.values().map(|label| format!("{} has no picture", label.display()));
        self.problems.extend(left);
    }

    /// Labels of test frames are held back by the publisher: none at all is no problem.
    fn read_smiyc(&mut self) -> Result<()> {
        let images = by_id(&self.root.join("images"), |name| {
            let (id, end) = name.rsplit_once('.')?;
            ["jpg", "png", "webp"].contains(&end).then_some(id)
        })?;
        let labels = by_id(&self.root.join("labels_masks"), |name| {
            name.strip_suffix("_labels_semantic.png")
        })?;
        let is_test = |id: &String| !id.starts_with("validation");
        let held_back = !labels.keys().any(is_test) && !labels.is_empty();
        let (test, rest) = images.into_iter().partition(|(id, _)| held_back && is_test(id));
        let test: BTreeMap<String, PathBuf> = test;
        let unlabelled = test.into_iter().map(|(id, image)| Frame { id, image, label: None });
        self.frames.extend(unlabelled);
        self.pair(rest, labels);
        Ok(())
    }

    fn read_road_anomaly(&mut self) -> Result<()> {
        let list = self.root.join("frame_list.json");
        let text = fs::read_to_string(&list).map_err(Error::io(&list))?;
        let names: Vec<String> = serde_json::from_str(&text).map_err(|error| {
            Error::bad_file(&list, format!("is not a JSON list of file names: {error}"))
        })?;
        let folder = self.root.join("frames");
        for name in names {
            let id = name.rsplit_once('.').map_or(&*name, |(id, _)| id);
            // The list says .jpg; a later release ships the same pictures as .webp.
            let files =
                [&*name, &format!("{id}.webp"), &format!("{id}.jpg")].map(|f| folder.join(f));
            let Some(image) = files.into_iter().find(|file| file.is_file()) else {
                self.problems
                    .push(format!("{} is listed and missing", folder.join(&name).display()));
                continue;
            };
            let label = folder.join(format!("{id}.labels/labels_semantic.png"));
            if !label.is_file() {
                self.problems.push(format!("{} is missing", label.display()));
            }
            self.frames.push(Frame { id: id.into(), image, label: Some(label) });
        }
        Ok(())
    }

    /// `NNNN_{id}_labels.png` with `{id}_leftImg8bit.png`, in the order of the labels.
    fn read_fishyscapes(&mut self) -> Result<()> {
        let labels = by_id(&self.root.join("fishyscapes_lostandfound"), |name| {
            name.strip_suffix("_labels.png")
        })?;
        let images = by_id(&self.root.join("laf_images"), picture_id)?;
        self.match_labels(labels, &images, |id| id.get(5..).unwrap_or_default())
    }

    fn read_fishyscapes_official(&mut self) -> Result<()> {
        let labels =
            by_id(&self.root.join("labels/val"), |name| name.strip_suffix("_fishy-labels.png"))?;
        let beside = self.root.with_file_name("dataset_LostAndFound").join("leftImg8bit");
        let folders = [self.root.join("leftImg8bit"), beside];
        let Some(pictures) = folders.iter().find(|folder| folder.is_dir()) else {
            let problem = format!(
                "no pictures: neither {} nor {}",
                folders[0].display(),
                folders[1].display()
            );
            self.problems.push(problem);
            return Ok(());
        };
        let mut images = BTreeMap::new();
        for folder in below(pictures, 2)? {
            images.extend(by_id(&folder, picture_id)?);
        }
        self.match_labels(labels, &images, |id| id)
    }

    /// Frames in the order of their labels; pictures without label are another set's.
    fn match_labels(
        &mut self,
        labels: BTreeMap<String, PathBuf>,
        images: &BTreeMap<String, PathBuf>,
        picture: fn(&str) -> &str,
    ) -> Result<()> {
        for (id, label) in labels {
            let id = picture(&id).to_string();
            match images.get(&id) {
                Some(image) => {
                    self.frames.push(Frame { id, image: image.clone(), label: Some(label) });
                }
                None => self.problems.push(format!("{} has no picture", label.display())),
            }
        }
        Ok(())
    }

    /// `leftImg8bit/{split}/{scene}/` against a label folder of the same shape.
    fn read_scenes(&mut self, label_folder: &str, label_end: &str) -> Result<()> {
        let split = if self.split == "testNoKnown" { "test" } else { &self.split };
        let (mut images, mut labels) = (BTreeMap::new(), BTreeMap::new());
        for scene in below(&self.root.join("leftImg8bit").join(split), 1)? {
            images.extend(by_id(&scene, picture_id)?);
        }
        for scene in below(&self.root.join(label_folder).join(split), 1)? {
            labels.extend(by_id(&scene, |name| name.strip_suffix(label_end))?);
        }
        if labels.is_empty() {
            self.problems.push(format!(
                "{}: no *{label_end} (Cityscapes' are made by cityscapesScripts)",
                self.root.join(label_folder).join(split).display()
            ));
            return Ok(());
        }
        self.pair(images, labels);
        Ok(())
    }
}

fn recognise(root: &Path) -> Option<Layout> {
    let has = |name: &str| root.join(name).exists();
    if has("images") && has("labels_masks") {
        let name = root.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let webp = entries(&root.join("images")).is_ok_and(|files| {
            files.first().is_some_and(|file| file.extension().is_some_and(|end| end == "webp"))
        });
        let obstacle = name.contains("obstacle") || webp && !name.contains("anomaly");
        return Some(if obstacle { Layout::ObstacleTrack } else { Layout::AnomalyTrack });
    }
    let layouts = [
        (has("frame_list.json") && has("frames"), Layout::RoadAnomaly),
        (has("fishyscapes_lostandfound"), Layout::FishyscapesLaf),
        (has("labels/val"), Layout::FishyscapesOfficial),
        (has("gtCoarse") && has("leftImg8bit/test"), Layout::LostAndFound),
        (has("gtFine") && has("leftImg8bit/val"), Layout::Cityscapes),
    ];
    layouts.into_iter().find(|(found, _)| *found).map(|(_, layout)| layout)
}

/// Whether the benchmark counts a frame to a split.
fn in_split(layout: Layout, split: &str, id: &str) -> bool {
    let scene = id.split('_').next().unwrap_or_default();
    let validation = id.starts_with("validation");
    match (layout, split) {
        (Layout::AnomalyTrack, "test") => !validation,
        (Layout::AnomalyTrack, "validation") => validation,
        (Layout::ObstacleTrack, "test") => {
            !["snowstorm1", "snowstorm2", "driveway", "validation"].contains(&scene)
        }
        (Layout::ObstacleTrack, "noNight") => !["driveway", "validation"].contains(&scene),
        (Layout::ObstacleTrack, "night") => scene == "driveway",
        (Layout::ObstacleTrack, "snowstorm") => scene.starts_with("snowstorm"),
        // Near-duplicates of other frames.
        (Layout::ObstacleTrack, "validation") => {
            let dropped = |prefix: u8| id.starts_with(&format!("validation_{prefix}"));
            scene == "validation" && !dropped(19) && !(21..=29).any(dropped)
        }
        _ => true,
    }
}

/// Places of frames, in the sorted test list, that show objects known from Cityscapes.
const KNOWN_PLACES: [usize; 17] =
    [17, 37, 55, 72, 91, 110, 129, 153, 174, 197, 218, 353, 490, 618, 686, 792, 793];
/// Scenes and sequences with more of them.
const KNOWN_PREFIXES: [&str; 4] = [
    "15_Rechbergstr_Deckenpfronn",
    "01_Hanns_Klemm_Str_45_000006",
    "01_Hanns_Klemm_Str_45_000007",
    "10_Schlossberg_9_000004",
];

/// LostAndFound-NoKnown: the test frames in order of their ids without those showing known objects.
fn without_known(mut frames: Vec<Frame>) -> Vec<Frame> {
    frames.sort_by(|a, b| a.id.cmp(&b.id));
    let frames = frames.into_iter().enumerate().filter(|(place, frame)| {
        let named = KNOWN_PREFIXES.iter().any(|prefix| frame.id.starts_with(prefix));
        !KNOWN_PLACES.contains(place) && !named
    });
    frames.map(|(_, frame)| frame).collect()
}

fn picture_id(name: &str) -> Option<&str> {
    ["png", "webp", "jpg"]
        .into_iter()
        .find_map(|end| name.strip_suffix(end)?.strip_suffix("_leftImg8bit."))
}

/// The stored values of a label map: its grey levels, or the first channel of a colour picture.
fn read_labels(path: &Path) -> Result<LabelMap> {
    let decoded = image::open(path).map_err(|error| Error::bad_file(path, error.to_string()))?;
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    let data = match decoded {
        image::DynamicImage::ImageLuma8(grey) => grey.into_raw(),
        image::DynamicImage::ImageLumaA8(picture) => picture.pixels().map(|p| p.0[0]).collect(),
        image::DynamicImage::ImageRgb8(picture) => picture.pixels().map(|p| p.0[0]).collect(),
        image::DynamicImage::ImageRgba8(picture) => picture.pixels().map(|p| p.0[0]).collect(),
        other => {
            let problem =
                format!("a label map has 8 bits per channel, this is {:?}", other.color());
            return Err(Error::bad_file(path, problem));
        }
    };
    Ok(LabelMap { height, width, data })
}

/// Entries of a folder, sorted by name, hidden ones left out.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut paths = Vec::new();
    for entry in listed {
        let entry = entry.map_err(Error::io(folder))?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Folders `depth` levels below `folder`.
fn below(folder: &Path, depth: usize) -> Result<Vec<PathBuf>> {
    let mut folders = vec![folder.to_path_buf()];
    for _ in 0..depth {
        let mut next = Vec::new();
        for folder in folders {
            next.extend(entries(&folder)?.into_iter().filter(|entry| entry.is_dir()));
        }
        folders = next;
    }
    Ok(folders)
}

/// Files of a folder by the id that `id` sees in their names.
fn by_id(folder: &Path, id: impl Fn(&str) -> Option<&str>) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for path in entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(id) = id(&name) {
            files.insert(id.to_string(), path);
        }
    }
    Ok(files)
}

/// What a set holds, after reading every label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Frames per picture size `(height, width)`.
    pub sizes: BTreeMap<(u32, u32), usize>,
    /// Pixels per label value as the metrics read it.
    pub values: BTreeMap<u8, u64>,
    /// Missing, left over, unreadable, of another size, or outside the table.
    pub problems: Vec<String>,
}

/// Reads every picture's size and every label of a set.
pub fn census(set: &OodSet) -> Census {
    let mut census = Census { problems: set.problems.clone(), ..Census::default() };
    for frame in &set.frames {
        match image::image_dimensions(&frame.image) {
            Ok((width, height)) => *census.sizes.entry((height, width)).or_default() += 1,
            Err(error) => {
                census.problems.push(format!("{}: {error}", frame.image.display()));
                continue;
            }
        }
        if !frame.label.as_ref().is_some_and(|label| label.is_file()) {
            continue;
        }
        match set.labels(frame) {
            Ok(map) => {
                for value in map.data {
                    *census.values.entry(value).or_default() += 1;
                }
            }
            Err(error) => census.problems.push(error.chain()),
        }
    }
    census
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture file of 2x3 px (height, width) with one grey level.
    fn picture(path: &Path, level: u8) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::GrayImage::from_pixel(3, 2, image::Luma([level])).save(path).unwrap();
    }

    #[test]
    fn stored_values_become_zero_one_and_ignore() {
        let by_layout = |layout: Layout| [0, 1, 2, 18, 201, 255].map(|value| layout.label(value));
        let (n, a, i) = (Some(0), Some(1), Some(IGNORE));
        assert_eq!(by_layout(Layout::LostAndFound), [i, n, a, a, i, i]);
        assert_eq!(by_layout(Layout::RoadAnomaly), [n, None, a, None, None, None]);
        assert_eq!(by_layout(Layout::ObstacleTrack), [n, a, None, None, None, i]);
        assert_eq!(by_layout(Layout::Cityscapes), [n, a, Some(2), Some(18), None, i]);
    }

    #[test]
    fn obstacle_track_splits_follow_the_scenes() {
        let ids = [
            "curvy_1",
            "driveway_1",
            "snowstorm1_1",
            "validation_3",
            "validation_19",
            "validation_25",
        ];
        let of = |split| {
            ids.into_iter()
                .filter(|id| in_split(Layout::ObstacleTrack, split, id))
                .collect::<Vec<_>>()
        };
        assert_eq!(of("test"), ["curvy_1"]);
        assert_eq!(of("noNight"), ["curvy_1", "snowstorm1_1"]);
        assert_eq!(of("night"), ["driveway_1"]);
        assert_eq!(of("snowstorm"), ["snowstorm1_1"]);
        assert_eq!(of("validation"), ["validation_3"]);
        assert_eq!(of("all").len(), 6);
    }

    #[test]
    fn no_known_drops_places_of_the_sorted_list_then_prefixes() {
        let frame = |id: String| Frame { id, image: PathBuf::new(), label: None };
        let mut frames: Vec<_> = (0..20).rev().map(|i| frame(format!("02_a_{i:02}"))).collect();
        frames.push(frame("10_Schlossberg_9_000004_1".into()));
        let left = without_known(frames);
        assert_eq!(left.len(), 19);
        assert!(!left.iter().any(|frame| frame.id == "02_a_17" || frame.id.starts_with("10_")));
    }

    #[test]
    fn every_layout_is_recognised_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let road = root.join("RoadAnomaly_jpg");
        picture(&road.join("frames/a.png"), 9);
        picture(&road.join("frames/a.labels/labels_semantic.png"), 2);
        fs::write(road.join("frame_list.json"), r#"["a.png"]"#).unwrap();
        picture(&root.join("F/fishyscapes_lostandfound/0003_x_1_labels.png"), 255);
        picture(&root.join("F/laf_images/x_1_leftImg8bit.png"), 9);
        picture(&root.join("O/labels/val/x_2_fishy-labels.png"), 1);
        picture(&root.join("dataset_LostAndFound/leftImg8bit/test/x/x_2_leftImg8bit.png"), 9);
        picture(&root.join("dataset_LostAndFound/gtCoarse/test/x/x_2_gtCoarse_labelIds.png"), 7);
        picture(&root.join("C/leftImg8bit/val/ulm/u_leftImg8bit.png"), 9);
        picture(&root.join("C/gtFine/val/ulm/u_gtFine_labelTrainIds.png"), 18);
        for (path, layout, id, label) in [
            ("RoadAnomaly_jpg", Layout::RoadAnomaly, "a", 1),
            ("F", Layout::FishyscapesLaf, "x_1", IGNORE),
            ("O", Layout::FishyscapesOfficial, "x_2", 1),
            ("dataset_LostAndFound", Layout::LostAndFound, "x_2", 1),
            ("C", Layout::Cityscapes, "u", 18),
        ] {
            let set = OodSet::open(&root.join(path), None).unwrap();
            assert_eq!((set.layout, set.frames.len(), &*set.frames[0].id), (layout, 1, id));
            let labels = set.labels(&set.frames[0]).unwrap();
            assert_eq!((labels.height, labels.width, labels.data), (2, 3, vec![label; 6]));
        }
        assert_eq!(OodSet::find(root, None).unwrap().len(), 5);
        let several = OodSet::open(root, None).unwrap_err().chain();
        assert!(several.contains("name one"), "{several}");
    }

    #[test]
    fn half_sets_foreign_values_and_other_sizes_are_errors_with_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("dataset_AnomalyTrack");
        let label = |id: &str| root.join(format!("labels_masks/{id}_labels_semantic.png"));
        picture(&root.join("images/validation0000.png"), 9);
        picture(&root.join("images/held_back.png"), 9);
        picture(&label("validation0000"), 1);
        let set = OodSet::open(&root, None).unwrap();
        assert_eq!((set.frames.len(), set.labelled().count()), (2, 1));
        assert_eq!(census(&set).values, BTreeMap::from([(1, 6)]));

        picture(&label("validation0000"), 7);
        let problems = census(&set).problems;
        assert!(
            problems[0].contains("label value 7, AnomalyTrack has 0, 1 and 255"),
            "{problems:?}"
        );
        image::GrayImage::new(2, 3).save(label("validation0000")).unwrap();
        let problems = census(&set).problems;
        assert!(problems[0].contains("labels are 3x2"), "{problems:?}");

        picture(&label("validation0009"), 0);
        let error = OodSet::open(&root, None).unwrap_err().chain();
        assert!(error.contains("validation0009") && error.contains("no picture"), "{error}");
        fs::remove_file(label("validation0000")).unwrap();
        let error = OodSet::open(&root, None).unwrap_err().chain();
        assert!(error.contains("validation0000.png has no labels"), "{error}");
        assert!(OodSet::open(&root, Some("night")).unwrap_err().to_string().contains("validation"));
        let error = OodSet::open(&root.join("images"), None).unwrap_err().chain();
        assert!(error.contains("no known data set"), "{error}");
    }
}
