//! One evaluation: frames in, parts on disk, metrics out.
//!
//! Every run writes parts, even an unsharded one, and every result is read from parts: what several
//! machines measure joins to the last bit of what one would have measured. A part is a folder
//!
//! ```text
//! part-0-of-4/
//!   llr.run     exact counts per distinct score (eval::tally)
//!   llr.bins    smiyc bins, one frame a line
//!   llr.f16     the float16 score maps, one frame after the other, for the segment metrics
//!   part.json   what was measured on which frames; written last
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;

use half::f16;
use serde::{Deserialize, Serialize};

use super::metrics::{
    Bin, Confusion, CurvePoint, PixelMetrics, Sweep, pixel_metrics, reference_sigmoid, smiyc_frame,
    smiyc_set,
};
use super::segments::{SegmentMetrics, SegmentTotals, SizeLimits, frame_segments};
use super::tally::{self, Tally};
use crate::data::ood_sets::{Frame, LabelMap, Layout, OodSet};
use crate::data::{IGNORE, Shard};
use crate::{Error, Result, file};

/// What is measured and how. Parts of one evaluation agree in all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocol {
    /// Name of the set.
    pub dataset: String,
    /// Its split.
    pub split: String,
    /// Frames of the whole set that have labels.
    pub frames: usize,
    /// Names of the scores.
    pub scores: Vec<String>,
    /// Inlier classes, for the mIoU; none on sets labelled normal and anomalous.
    pub classes: Vec<String>,
    /// Whether `exact` metrics see scores through the reference's float32 sigmoid.
    pub reference_compatible: bool,
    /// SHA-256 of the weights.
    pub weights: String,
    /// Windows over a frame.
    pub plan: String,
    /// Arithmetic of the network.
    pub precision: String,
}

/// `part.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
    protocol: Protocol,
    shard: usize,
    shards: usize,
    /// Place in the set and pixels of each frame, in the order of the part's files.
    frames: Vec<(usize, usize)>,
    confusion: Confusion,
}

fn part_folder(out: &Path, shard: Shard) -> PathBuf {
    out.join(format!("part-{}-of-{}", shard.index, shard.count))
}

/// A part being measured.
#[derive(Debug)]
pub struct Part {
    folder: PathBuf,
    index: Index,
    sinks: Vec<Sink>,
}

/// What is kept of one score.
#[derive(Debug)]
struct Sink {
    base: PathBuf,
    tally: Tally,
    bins: BufWriter<File>,
    maps: BufWriter<File>,
}

impl Part {
    /// Starts the part of `shard` in `out`; what an earlier attempt left of it goes.
    ///
    /// # Errors
    /// The system's word on the files.
    pub fn create(out: &Path, protocol: Protocol, shard: Shard) -> Result<Self> {
        let folder = part_folder(out, shard);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(Error::io(&folder))?;
        }
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let sinks = protocol.scores.iter().map(|score| Sink::create(folder.join(score)));
        let sinks = sinks.collect::<Result<_>>()?;
        let confusion = Confusion::new(protocol.classes.len());
        let (shard, shards, frames) = (shard.index, shard.count, Vec::new());
        Ok(Self { folder, index: Index { protocol, shard, shards, frames, confusion }, sinks })
    }

    /// Adds the labelled frame at `place` of the set: its labels, and what the network says about
    /// `frame` with the planes in the protocol's order, all of one size.
    ///
    /// # Errors
    /// Every pixel ignored, a score beyond float16, a class that the protocol does not have, each with
    /// the frame's file; the system's word on the part's files.
    pub fn add(
        &mut self,
        (place, frame): (usize, &Frame),
        labels: &LabelMap,
        classes: &[u8],
        scores: &[&[f32]],
    ) -> Result<()> {
        let (labels, path) = (&labels.data, &frame.image);
        if labels.iter().all(|label| *label == IGNORE) {
            return Err(Error::bad_file(path, "every pixel is ignored: nothing to measure"));
        }
        if self.index.confusion.num_classes > 0 {
            self.index.confusion.add(classes, labels).map_err(|id| {
                let classes = self.index.protocol.classes.len();
                Error::bad_file(path, format!("class {id}, the network has {classes}"))
            })?;
        }
        let sigmoid = self.index.protocol.reference_compatible;
        thread::scope(|scope| {
            let tasks = self.sinks.iter_mut().zip(scores).map(|(sink, scores)| {
                let add = move || sink.add(path, scores, labels, sigmoid);
                thread::Builder::new().name("metrics".into()).spawn_scoped(scope, add)
            });
            let tasks = tasks.collect::<std::io::Result<Vec<_>>>();
            for task in tasks.map_err(Error::io("thread"))? {
                task.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            Ok::<_, Error>(())
        })?;
        self.index.frames.push((place, labels.len()));
        Ok(())
    }

    /// Completes the part on disk.
    ///
    /// # Errors
    /// The system's word on the files.
    pub fn finish(self) -> Result<()> {
        for sink in self.sinks {
            sink.finish()?;
        }
        let text = serde_json::to_string(&self.index).unwrap_or_default();
        file::write(&self.folder.join("part.json"), |out| out.write_all(text.as_bytes()))
    }
}

impl Sink {
    fn create(base: PathBuf) -> Result<Self> {
        let open = |end: &str| {
            let path = base.with_extension(end);
            File::create(&path).map(BufWriter::new).map_err(Error::io(path))
        };
        let (bins, maps) = (open("bins")?, open("f16")?);
        Ok(Self { tally: Tally::new(base.with_extension("scratch")), base, bins, maps })
    }

    fn add(&mut self, frame: &Path, scores: &[f32], labels: &[u8], sigmoid: bool) -> Result<()> {
        let map: Vec<f16> = scores.iter().map(|score| f16::from_f32(*score)).collect();
        if let Some(at) = map.iter().position(|score| !score.is_finite()) {
            let problem = format!("a score of {} does not fit into float16", scores[at]);
            return Err(Error::bad_file(frame, problem));
        }
        let bins = smiyc_frame(&map, labels).unwrap_or_default();
        let line = serde_json::to_string(&bins).unwrap_or_default();
        writeln!(self.bins, "{line}").map_err(Error::io(self.base.with_extension("bins")))?;
        let bytes: Vec<u8> = map.iter().flat_map(|score| score.to_le_bytes()).collect();
        self.maps.write_all(&bytes).map_err(Error::io(self.base.with_extension("f16")))?;
        if sigmoid {
            let mut scores = scores.to_vec();
            reference_sigmoid(&mut scores, labels);
            return self.tally.add(&scores, labels);
        }
        self.tally.add(scores, labels)
    }

    fn finish(mut self) -> Result<()> {
        self.bins.flush().map_err(Error::io(self.base.with_extension("bins")))?;
        self.maps.flush().map_err(Error::io(self.base.with_extension("f16")))?;
        self.tally.finish(&self.base.with_extension("run"))
    }
}

/// The result of an evaluation, as its JSON file has it; NaN is `null` there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// What was measured.
    pub protocol: Protocol,
    /// One result per score.
    pub scores: Vec<ScoreResult>,
    /// The inlier classes, on sets that label them.
    pub inliers: Option<Inliers>,
}

/// What one score is worth on the set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreResult {
    /// Its name.
    pub score: String,
    /// The benchmark server's pixel metrics, on float16 maps.
    pub smiyc: PixelMetrics,
    /// Pixel metrics on every distinct float32 score.
    pub exact: PixelMetrics,
    /// Segment metrics at the `smiyc` F1-optimal threshold.
    pub segments: SegmentMetrics,
    /// The `exact` curves, thinned for drawing.
    pub curve: Vec<CurvePoint>,
    /// AP (`smiyc`) of each frame by its id; NaN without anomaly.
    pub frame_ap: Vec<(String, f64)>,
}

/// How well the inlier classes are told apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inliers {
    /// Mean IoU over the classes that occur.
    pub miou: f64,
    /// IoU per class; NaN for one that never occurs.
    pub iou: Vec<(String, f64)>,
}

/// All parts of an evaluation, complete and of one protocol.
#[derive(Debug)]
pub struct Parts {
    folders: Vec<PathBuf>,
    indices: Vec<Index>,
}

impl Parts {
    /// The parts in `out`.
    ///
    /// # Errors
    /// No part, a missing or unfinished one, parts of different protocols: each named.
    pub fn open(out: &Path) -> Result<Self> {
        let mut folders = BTreeMap::new();
        for entry in fs::read_dir(out).map_err(Error::io(out))? {
            let path = entry.map_err(Error::io(out))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let numbers = name.strip_prefix("part-").and_then(|rest| rest.split_once("-of-"));
            if let Some((index, count)) = numbers
                && let (Ok(index), Ok(count)) = (index.parse::<usize>(), count.parse::<usize>())
            {
                folders.insert((count, index), path);
            }
        }
        let Some((&(count, _), _)) = folders.first_key_value() else {
            return Err(Error::bad_file(out, "no part-*-of-* folder: evaluate --shard makes them"));
        };
        if let Some(((other, _), path)) = folders.iter().find(|((n, _), _)| *n != count) {
            let problem = format!("of {other} shards beside parts of {count}: remove one kind");
            return Err(Error::bad_file(path, problem));
        }
        let shards = (0..count).map(|index| part_folder(out, Shard { index, count }));
        let folders: Vec<PathBuf> = shards.collect();
        let indices = folders.iter().map(|folder| read_index(folder));
        let parts = Self { indices: indices.collect::<Result<_>>()?, folders };
        parts.check()?;
        Ok(parts)
    }

    fn check(&self) -> Result<()> {
        let first = &self.indices[0].protocol;
        for (index, folder) in self.indices.iter().zip(&self.folders) {
            if index.protocol != *first {
                let problem = format!("measured {:?}, part 0 {first:?}", index.protocol);
                return Err(Error::bad_file(folder, problem));
            }
        }
        let frames: usize = self.indices.iter().map(|index| index.frames.len()).sum();
        if frames != first.frames {
            let problem = format!("{frames} frames in all parts, the set has {}", first.frames);
            return Err(Error::bad_file(&self.folders[0], problem));
        }
        Ok(())
    }

    /// What all parts measured.
    pub fn protocol(&self) -> &Protocol {
        &self.indices[0].protocol
    }

    /// The metrics of the whole set; labels are read again, once per score.
    ///
    /// # Errors
    /// Another set than the protocol's, damaged part files.
    pub fn join(&self, set: &OodSet) -> Result<Evaluation> {
        let protocol = self.protocol();
        let labelled = set.labelled().count();
        let here = (set.layout.name(), &*set.split, labelled);
        let there = (&*protocol.dataset, &*protocol.split, protocol.frames);
        if here != there {
            let problem = format!("is {here:?}, the parts measured {there:?} (set, split, frames)");
            return Err(Error::bad_file(&set.root, problem));
        }
        let scores = protocol.scores.iter().map(|score| self.join_score(score, set));
        let mut confusion = Confusion::new(protocol.classes.len());
        for index in &self.indices {
            confusion.merge(&index.confusion);
        }
        let iou = protocol.classes.iter().cloned().zip(confusion.iou()).collect();
        let inliers = || Inliers { miou: confusion.miou(), iou };
        Ok(Evaluation {
            protocol: protocol.clone(),
            scores: scores.collect::<Result<_>>()?,
            inliers: set.layout.has_classes().then(inliers),
        })
    }

    fn files(&self, score: &str, end: &str) -> Vec<PathBuf> {
        self.folders.iter().map(|folder| folder.join(score).with_extension(end)).collect()
    }

    fn join_score(&self, score: &str, set: &OodSet) -> Result<ScoreResult> {
        let (positives, negatives, bins) = tally::bins(&self.files(score, "run"))?;
        let mut sweep = Sweep::new(positives, negatives);
        let mut curve = Vec::new();
        for bin in bins {
            let point = sweep.push(bin?);
            if curve.last().is_none_or(|last| is_visible_step(last, &point)) {
                curve.push(point);
            }
        }
        let frames = self.frame_bins(score)?;
        let smiyc = pixel_metrics(&smiyc_set(frames.values().map(Vec::as_slice)));
        let ap = frames.iter().map(|(place, bins)| {
            let id = set.labelled().nth(*place).map(|frame| frame.id.clone());
            (id.unwrap_or_default(), pixel_metrics(bins).ap)
        });
        Ok(ScoreResult {
            score: score.into(),
            exact: sweep.finish(),
            segments: self.segments(score, set, smiyc.best_f1_threshold)?,
            smiyc,
            curve,
            frame_ap: ap.collect(),
        })
    }

    /// The `smiyc` bins of every frame by its place in the set.
    fn frame_bins(&self, score: &str) -> Result<BTreeMap<usize, Vec<Bin>>> {
        let mut frames = BTreeMap::new();
        for (index, path) in self.indices.iter().zip(self.files(score, "bins")) {
            let mut lines = BufReader::new(File::open(&path).map_err(Error::io(&path))?).lines();
            for (place, _) in &index.frames {
                let cut = || Error::bad_file(&path, "has fewer frames than part.json: damaged");
                let line = lines.next().ok_or_else(cut)?.map_err(Error::io(&path))?;
                let bins = serde_json::from_str(&line)
                    .map_err(|error| Error::bad_file(&path, error.to_string()))?;
                frames.insert(*place, bins);
            }
        }
        Ok(frames)
    }

    /// Segment metrics at `threshold`, frames in the set's order.
    fn segments(&self, score: &str, set: &OodSet, threshold: f64) -> Result<SegmentMetrics> {
        let limits = size_limits(set.layout);
        let mut totals = SegmentTotals::default();
        for (place, frame) in set.labelled().enumerate() {
            let labels = set.labels(frame)?;
            let map = self.map(score, place)?;
            if labels.data.len() != map.len() {
                let (now, then) = (labels.data.len(), map.len());
                let problem = format!("has {now} px, {then} when it was measured");
                return Err(Error::bad_file(&frame.image, problem));
            }
            totals.add(frame_segments(&map, &labels.data, labels.width, threshold, limits));
        }
        Ok(totals.metrics())
    }

    /// The float16 map of the labelled frame at `place` of the set, row-major.
    ///
    /// # Errors
    /// No such frame; a damaged part.
    pub fn map(&self, score: &str, place: usize) -> Result<Vec<f16>> {
        for (index, path) in self.indices.iter().zip(self.files(score, "f16")) {
            let mut offset = 0;
            for &(at, pixels) in &index.frames {
                if at == place {
                    return read_map(&path, offset, pixels);
                }
                offset += 2 * pixels as u64;
            }
        }
        Err(Error::bad_file(&self.folders[0], format!("no part measured frame {place}")))
    }

    /// Removes the parts from disk.
    ///
    /// # Errors
    /// The system's word.
    pub fn remove(self) -> Result<()> {
        self.folders.iter().try_for_each(|path| fs::remove_dir_all(path).map_err(Error::io(path)))
    }
}

/// Smallest components that count on a set.
pub fn size_limits(layout: Layout) -> SizeLimits {
    match layout {
        Layout::AnomalyTrack | Layout::RoadAnomaly | Layout::Cityscapes => SizeLimits::ANOMALY,
        Layout::ObstacleTrack
        | Layout::FishyscapesLaf
        | Layout::FishyscapesOfficial
        | Layout::LostAndFound => SizeLimits::OBSTACLE,
    }
}

/// Whether a drawn curve would show the step between two points.
fn is_visible_step(from: &CurvePoint, to: &CurvePoint) -> bool {
    let step = |a: f64, b: f64| (a - b).abs() > 0.001;
    step(from.recall, to.recall) || step(from.fpr, to.fpr) || step(from.precision, to.precision)
}

fn read_index(folder: &Path) -> Result<Index> {
    let path = folder.join("part.json");
    let text = fs::read_to_string(&path).map_err(|error| {
        Error::bad_file(
            &path,
            format!("{error}: this part is missing or unfinished, run its shard"),
        )
    })?;
    serde_json::from_str(&text).map_err(|error| Error::bad_file(&path, error.to_string()))
}

fn read_map(path: &Path, offset: u64, pixels: usize) -> Result<Vec<f16>> {
    let mut bytes = vec![0; 2 * pixels];
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut bytes)
    });
    read.map_err(Error::io(path))?;
    Ok(bytes.chunks_exact(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: u32 = 24;
    const W: u32 = 40;

    /// A set of five frames, obstacles of 10x12 px on the first four, a void column.
    fn set(root: &Path) -> OodSet {
        for i in 0..5u32 {
            let at = |end: &str| {
                let path = root.join(format!("dataset_AnomalyTrack/{end}"));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                path
            };
            let label = image::GrayImage::from_fn(W, H, |x, y| {
                let inside = i < 4 && (4 + i..14 + i).contains(&y) && (8..20).contains(&x);
                image::Luma([if x == 0 { IGNORE } else { u8::from(inside) }])
            });
            let labels = format!("labels_masks/validation000{i}_labels_semantic.png");
            label.save(at(&labels)).unwrap();
            label.save(at(&format!("images/validation000{i}.png"))).unwrap();
        }
        OodSet::open(root, None).unwrap()
    }

    fn protocol(set: &OodSet, scores: &[&str]) -> Protocol {
        Protocol {
            dataset: set.layout.name().into(),
            split: set.split.clone(),
            frames: set.labelled().count(),
            scores: scores.iter().map(|score| (*score).into()).collect(),
            classes: Vec::new(),
            reference_compatible: false,
            weights: "abc".into(),
            plan: "paper".into(),
            precision: "f32".into(),
        }
    }

    /// Noise plus the truth, the same for a frame whoever measures it.
    fn scores(place: usize, labels: &LabelMap, slope: f32) -> Vec<f32> {
        let noise = |i: usize| ((i * 7919 + place * 104_729) % 1009) as f32 / 300.0;
        let of = |(i, label): (usize, &u8)| noise(i) + slope * f32::from(*label == 1);
        labels.data.iter().enumerate().map(of).collect()
    }

    fn measure(out: &Path, set: &OodSet, shard: Shard) {
        let mut part = Part::create(out, protocol(set, &["llr", "ood"]), shard).unwrap();
        for (place, frame) in set.labelled().enumerate().filter(|(place, _)| shard.holds(*place)) {
            let labels = set.labels(frame).unwrap();
            let (llr, ood) = (scores(place, &labels, 2.0), scores(place, &labels, 0.5));
            part.add((place, frame), &labels, &[], &[&llr, &ood]).unwrap();
        }
        part.finish().unwrap();
    }

    #[test]
    fn shards_join_to_the_last_bit_of_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let set = set(folder.path());
        let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
        measure(&whole, &set, Shard::WHOLE);
        for index in [2, 0, 1] {
            measure(&parts, &set, Shard { index, count: 3 });
        }
        let join = |out| Parts::open(out).unwrap().join(&set).unwrap();
        let (whole, parts) = (join(&whole), join(&parts));
        assert_eq!(format!("{whole:?}"), format!("{parts:?}"));
        let [llr, ood] = &whole.scores[..] else { panic!("two scores") };
        assert_eq!((llr.exact.positives, llr.exact.negatives), (480, 5 * 24 * 39 - 480));
        assert!(llr.exact.ap > ood.exact.ap && (llr.exact.ap - llr.smiyc.ap).abs() < 0.01);
        assert!(llr.frame_ap[4].1.is_nan() && llr.frame_ap[0].0 == "validation0000");
        // Four obstacles of 120 px; no prediction reaches 500 px.
        assert_eq!((llr.segments.siou_gt, llr.segments.mean_f1), (0.0, 0.0));
    }

    #[test]
    fn missing_foreign_and_unfinished_parts_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (set, out) = (set(folder.path()), folder.path().join("out"));
        fs::create_dir(&out).unwrap();
        let problem = || Parts::open(&out).unwrap_err().chain();
        assert!(problem().contains("--shard"), "{}", problem());
        measure(&out, &set, Shard { index: 0, count: 2 });
        assert!(problem().contains("part-1-of-2"), "{}", problem());
        let other = protocol(&set, &["llr"]);
        let shard = Shard { index: 1, count: 2 };
        Part::create(&out, other, shard).unwrap().finish().unwrap();
        assert!(problem().contains("part-1-of-2: measured"), "{}", problem());
        Part::create(&out, protocol(&set, &["llr", "ood"]), shard).unwrap().finish().unwrap();
        assert!(problem().contains("3 frames in all parts, the set has 5"), "{}", problem());
        measure(&out, &set, Shard::WHOLE);
        assert!(problem().contains("remove one kind"), "{}", problem());
    }

    #[test]
    fn a_frame_that_cannot_be_measured_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let set = set(folder.path());
        let out = folder.path().join("out");
        let mut part = Part::create(&out, protocol(&set, &["llr"]), Shard::WHOLE).unwrap();
        let frame = (0, &set.frames[0]);
        let mut labels = set.labels(&set.frames[0]).unwrap();
        let huge = vec![1e6; labels.data.len()];
        let error = part.add(frame, &labels, &[], &[&huge]).unwrap_err().chain();
        assert!(error.contains("validation0000") && error.contains("float16"), "{error}");
        labels.data.fill(IGNORE);
        let error = part.add(frame, &labels, &[], &[&huge]).unwrap_err().chain();
        assert!(error.contains("every pixel is ignored"), "{error}");
    }
}
