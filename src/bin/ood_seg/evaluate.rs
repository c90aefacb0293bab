//! `ood_seg evaluate`: what the scores are worth on a labelled set.

use std::io::Write;
use std::path::{Path, PathBuf};

use ood_segmentation::data::Shard;
use ood_segmentation::data::ood_sets::{Frame, LabelMap, OodSet};
use ood_segmentation::eval::benchmark::{Evaluation, Part, Parts, Protocol, ScoreResult};
use ood_segmentation::eval::plot::{SheetRow, curves, sheet};
use ood_segmentation::eval::{hdf5, table};
use ood_segmentation::image::{self, Image, Limits};
use ood_segmentation::model::{ModelConfig, Score};
use ood_segmentation::obstacle::ObstacleConfig;
use ood_segmentation::pipeline::{Pipeline, PipelineConfig, ScoreMaps};
use ood_segmentation::window::Plan;
use ood_segmentation::{Error, Result, file};

use crate::model::ModelArgs;
use crate::segment::progress;

/// Which set, which scores, and where the results go.
#[derive(clap::Args)]
#[command(mut_arg("weights", |weights| weights.required(false).required_unless_present("merge")))]
pub(crate) struct Args {
    #[command(flatten)]
    set: SetArgs,
    #[command(flatten)]
    model: Option<ModelArgs>,
    #[command(flatten)]
    windows: WindowArgs,
    /// Scores, all from one pass of the network: llr, ood, neg_id, msp, max_logit, entropy, energy, rba
    #[arg(long, value_delimiter = ',', default_value = "llr")]
    scores: Vec<Score>,
    /// `exact` metrics on scores put through a float32 sigmoid, as the reference's RoadAnomaly and
    /// Fishyscapes numbers were made
    #[arg(long)]
    reference_compatible: bool,
    /// Folder of the results. While it works, about 5 bytes per pixel and score lie there
    #[arg(short, long, default_value = "out/evaluate")]
    out: PathBuf,
    /// Measure only this share of the frames, i from 0 to n - 1, for --merge to join
    #[arg(long, value_name = "i/n", conflicts_with = "merge")]
    shard: Option<Shard>,
    /// Join the parts that --shard left in OUT; the network is not run
    #[arg(long)]
    merge: bool,
    /// Write the first score of every frame, labelled or not, as the benchmark's submission files
    /// DIR/anomaly_p/METHOD/SET/FRAME.hdf5
    #[arg(long, value_name = "DIR", conflicts_with = "merge")]
    submission: Option<PathBuf>,
    /// METHOD in the submission's path
    #[arg(long, default_value = "ood_segmentation")]
    method: String,
}

/// Which labelled set.
#[derive(clap::Args)]
pub(crate) struct SetArgs {
    /// Folder of a set in its published layout (see `dataset check`)
    #[arg(short, long)]
    pub(crate) dataset: PathBuf,
    /// Split, such as validation, test, testNoKnown; by default the whole set
    #[arg(long)]
    pub(crate) split: Option<String>,
}

impl SetArgs {
    /// The set, whole and readable.
    pub(crate) fn open(&self) -> Result<OodSet> {
        OodSet::open(&self.dataset, self.split.as_deref())
    }

    /// As [`SetArgs::open`], of a set that has what `purpose` needs.
    pub(crate) fn open_anomalies(&self, purpose: &str) -> Result<OodSet> {
        let set = self.open()?;
        if set.layout.has_classes() {
            let problem =
                format!("labels inlier classes; {purpose} needs normal and anomalous pixels");
            return Err(Error::bad_file(&set.root, problem));
        }
        Ok(set)
    }
}

/// How the network sees a frame. The published numbers are those of the paper's plan.
#[derive(clap::Args)]
pub(crate) struct WindowArgs {
    /// Windows over the picture: paper (stride 140), tiles (fewest that cover it), single
    #[arg(long, default_value = "paper")]
    pub(crate) plan: Plan,
    /// Windows per forward pass
    #[arg(long, default_value_t = 1)]
    pub(crate) batch: usize,
}

impl WindowArgs {
    /// The pipeline over a loaded model.
    pub(crate) fn open(&self, model: &ModelArgs, score: Score) -> Result<Pipeline> {
        let (plan, batch, limits) = (self.plan, self.batch, Limits::default());
        let obstacle = ObstacleConfig::default();
        let config = PipelineConfig { plan, batch, score, ood_threshold: 0.0, obstacle, limits };
        Pipeline::new(model.load()?, config)
    }
}

/// Scores the frames, then joins the parts, unless only one of the two is asked for.
pub(crate) fn run(args: &Args) -> Result<()> {
    let set = args.set.open()?;
    match &args.model {
        _ if args.merge => {}
        Some(model) => measure(args, model, &set)?,
        None => return Err(Error::setting("weights", "missing", "a file, or --merge")),
    }
    if args.shard.is_some() || set.labelled().next().is_none() {
        return Ok(());
    }
    let parts = Parts::open(&args.out)?;
    let evaluation = parts.join(&set)?;
    let text = table::markdown(&evaluation);
    write(&args.out, &evaluation, &text)?;
    if let Some(first) = evaluation.scores.first() {
        let (h, w, rgb) = best_and_worst(&parts, &set, first)?;
        image::write_png(&args.out.join("frames.png"), h, w, &rgb)?;
    }
    println!("{text}\nresults in {}", args.out.display());
    // The parts of several machines cost hours, so the user removes them; our own go.
    if args.merge { Ok(()) } else { parts.remove() }
}

fn measure(args: &Args, model: &ModelArgs, set: &OodSet) -> Result<()> {
    let scores = scores(args, set);
    let first = *scores.first().unwrap_or(&Score::NegId);
    let pipeline = args.windows.open(model, first)?;
    let shard = args.shard.unwrap_or(Shard::WHOLE);
    let config = pipeline.model().config();
    let precision = model.precision.to_string();
    let mut part = Part::create(&args.out, protocol(args, precision, set, config), shard)?;
    let without_labels = args.submission.is_some();
    for_each(set, &pipeline, scores, (shard, without_labels), |frame, labels, maps| {
        if let Some(folder) = &args.submission {
            let path = submission(folder, &args.method, set, frame);
            hdf5::write_map(&path, &maps.scores[0].1, maps.width)?;
        }
        let Some((place, labels)) = labels else { return Ok(()) };
        let planes: Vec<&[f32]> = maps.scores.iter().map(|(_, plane)| &**plane).collect();
        part.add((place, frame), labels, &maps.classes, &planes)
    })?;
    part.finish()
}

/// The scores to measure: none on a set that labels inlier classes.
fn scores<'a>(args: &'a Args, set: &OodSet) -> &'a [Score] {
    if set.layout.has_classes() { &[] } else { &args.scores }
}

/// What is measured and how, for the parts to agree in.
fn protocol(args: &Args, precision: String, set: &OodSet, model: &ModelConfig) -> Protocol {
    let classes = if set.layout.has_classes() { &*model.classes.0 } else { &[] };
    Protocol {
        dataset: set.layout.name().into(),
        split: set.split.clone(),
        frames: set.labelled().count(),
        scores: scores(args, set).iter().map(ToString::to_string).collect(),
        classes: classes.iter().map(|class| class.name.clone()).collect(),
        reference_compatible: args.reference_compatible,
        weights: model.sha256.clone(),
        plan: args.windows.plan.to_string(),
        precision,
    }
}

/// Runs the network on the frames of a shard; those without labels only where they are wanted.
///
/// `visit` gets the labels with the frame's place among the labelled ones.
pub(crate) fn for_each(
    set: &OodSet,
    pipeline: &Pipeline,
    scores: &[Score],
    (shard, without_labels): (Shard, bool),
    mut visit: impl FnMut(&Frame, Option<(usize, &LabelMap)>, &ScoreMaps) -> Result<()>,
) -> Result<()> {
    let labelled = set.labelled().enumerate().map(|(place, frame)| (Some(place), frame));
    let others = set.frames.iter().filter(|frame| without_labels && frame.label.is_none());
    let all = labelled.chain(others.map(|frame| (None, frame))).enumerate();
    let ours: Vec<_> = all.filter(|(at, _)| shard.holds(*at)).map(|(_, frame)| frame).collect();
    let bar = progress(ours.len());
    for (place, frame) in ours {
        let labels = place.map(|_| set.labels(frame)).transpose()?;
        let picture = Image::read_file(&frame.image, &pipeline.config().limits)?;
        let maps = maps(pipeline, &picture, frame, scores)?;
        visit(frame, place.zip(labels.as_ref()), &maps)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// The scores of the picture of a frame, whose file is named where it is refused.
pub(crate) fn maps(
    pipeline: &Pipeline,
    picture: &Image,
    frame: &Frame,
    scores: &[Score],
) -> Result<ScoreMaps> {
    pipeline.scores(picture, scores).map_err(|error| match error {
        Error::Frame(reject) => Error::bad_file(&frame.image, reject.to_string()),
        other => other,
    })
}

/// Where the benchmark looks for a frame's map.
fn submission(folder: &Path, method: &str, set: &OodSet, frame: &Frame) -> PathBuf {
    let split = if set.split == "testNoKnown" { "test" } else { &set.split };
    let name = format!("{}-{split}", set.layout.name());
    folder.join("anomaly_p").join(method).join(name).join(format!("{}.hdf5", frame.id))
}

/// `results.json`, `results.md` and the curves of the scores.
fn write(out: &Path, evaluation: &Evaluation, text: &str) -> Result<()> {
    let json = serde_json::to_string_pretty(evaluation).unwrap_or_default();
    file::write(&out.join("results.json"), |file| file.write_all(json.as_bytes()))?;
    file::write(&out.join("results.md"), |file| file.write_all(text.as_bytes()))?;
    if evaluation.scores.is_empty() {
        return Ok(());
    }
    let of = |axes: fn(&ood_segmentation::eval::metrics::CurvePoint) -> (f64, f64), start| {
        let series = evaluation.scores.iter().map(|result| {
            let points = std::iter::once(start).chain(result.curve.iter().map(axes));
            (result.score.clone(), points.collect())
        });
        series.collect::<Vec<_>>()
    };
    let roc = of(|point| (point.fpr, point.recall), (0.0, 0.0));
    let pr = of(|point| (point.recall, point.precision), (0.0, f64::NAN));
    for (name, title, series) in [
        ("roc.png", "ROC: true over false positive rate", roc),
        ("pr.png", "precision over recall", pr),
    ] {
        let (h, w, rgb) = curves(title, &series);
        image::write_png(&out.join(name), h, w, &rgb)?;
    }
    Ok(())
}

/// Up to three frames of the highest AP and three of the lowest, with labels and score.
#[expect(clippy::cast_possible_truncation, reason = "a threshold on float16 scores")]
fn best_and_worst(
    parts: &Parts,
    set: &OodSet,
    result: &ScoreResult,
) -> Result<(usize, usize, Vec<u8>)> {
    let mut order: Vec<(usize, f64)> = result
        .frame_ap
        .iter()
        .map(|(_, ap)| *ap)
        .enumerate()
        .filter(|(_, ap)| !ap.is_nan())
        .collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    let few = (order.len() / 2).clamp(1, 3).min(order.len());
    let best = order[..few].iter().map(|frame| ("best", frame));
    let worst = order[order.len() - few..].iter().map(|frame| ("worst", frame));
    let threshold = result.smiyc.best_f1_threshold as f32;
    let mut rows = Vec::new();
    for (kind, &(place, ap)) in best.chain(worst) {
        let Some(frame) = set.labelled().nth(place) else { continue };
        let labels = set.labels(frame)?;
        let map = parts.map(&result.score, place)?;
        rows.push(SheetRow {
            title: format!("{kind}: {}  AP {:.1} %", frame.id, 100.0 * ap),
            width: labels.width,
            rgb: rgb(Image::read_file(&frame.image, &Limits::default())?),
            labels: labels.data,
            scores: map.iter().map(|score| score.to_f32() - threshold).collect(),
        });
    }
    Ok(sheet(&rows))
}

/// Three bytes per pixel of a decoded file, which is rgb8 or mono8.
fn rgb(picture: Image) -> Vec<u8> {
    if picture.encoding == "mono8" {
        return picture.data.iter().flat_map(|grey| [*grey; 3]).collect();
    }
    picture.data.into()
}
