//! `ood_seg evaluate-quality`: what the input monitor is worth, on drawn scenes spoilt on purpose, and what
//! it says of pictures that are known to be good.

mod spoil;

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ood_segmentation::config::{NodeConfig, Override, QualityParameters};
use ood_segmentation::data::Shard;
use ood_segmentation::data::synth::{Scene, SceneConfig, scene_seed};
use ood_segmentation::eval::metrics::{Sweep, exact_bins, totals};
use ood_segmentation::eval::plot::curves;
use ood_segmentation::image::{self, Image, Limits};
use ood_segmentation::model::Score;
use ood_segmentation::pipeline::Pipeline;
use ood_segmentation::quality::{Monitor, Quality, bit};
use ood_segmentation::{Error, Result, checkpoint, file};

use crate::evaluate::WindowArgs;
use crate::inputs::Inputs;
use crate::model::ModelArgs;
use spoil::{Shot, Spoil};

/// How many scenes, and where the results go.
#[derive(clap::Args)]
#[command(mut_arg("weights", |weights| weights.required(false)))]
pub(crate) struct Args {
    /// Scenes, each clean and spoilt in every way
    #[arg(long, default_value_t = 60)]
    scenes: u64,
    /// The same seed draws the same scenes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Columns of a picture; rows are 9/16 of it
    #[arg(long, default_value_t = 1280)]
    width: u32,
    /// Images, folders of images and bags of a real camera, all of them good: what is flagged among them
    #[arg(long, num_args = 1..)]
    pictures: Vec<PathBuf>,
    /// A calibrated network, for what is unfamiliar to it; without one that is not measured
    #[command(flatten)]
    model: Option<ModelArgs>,
    /// Folder of results.md, results.json and roc.png
    #[arg(short, long, default_value = "out/quality")]
    out: PathBuf,
}

/// A number of a picture, higher is worse, and the bit that it sets.
type Measure = (&'static str, fn(&Quality) -> f32, u16);

const MEAN_LOW: Measure = ("mean", |q| -q.mean, bit::DARK);
const MEAN_HIGH: Measure = ("mean", |q| q.mean, bit::BRIGHT);
const SATURATED: Measure = ("saturated", |q| q.saturated, bit::SATURATED);
const SHARPNESS: Measure = ("sharpness", |q| -q.sharpness, bit::BLURRED);
const COVERED: Measure = ("covered_blocks", |q| q.covered as f32, bit::COVERED);
const TORN: Measure = ("torn", |q| q.torn, bit::TORN);
const SKEWED: Measure = ("skewed", |q| q.skewed, bit::TORN);
const UNFAMILIARITY: Measure =
    ("unfamiliarity", |q| q.unfamiliarity.unwrap_or(f32::NAN), bit::UNFAMILIAR);

/// Every measure once.
const MEASURES: [Measure; 7] =
    [MEAN_HIGH, SATURATED, SHARPNESS, COVERED, TORN, SKEWED, UNFAMILIARITY];

/// Ways to spoil a picture, with the measure made for each; the last ones are for the network to notice.
const FAULTS: [(&str, Spoil, Option<Measure>); 12] = [
    ("dark", spoil::dark, Some(MEAN_LOW)),
    ("bright", spoil::bright, Some(MEAN_HIGH)),
    ("saturated", spoil::saturated, Some(SATURATED)),
    ("blurred", spoil::blurred, Some(SHARPNESS)),
    ("covered", spoil::covered, Some(COVERED)),
    ("torn", spoil::torn, Some(TORN)),
    ("skewed", spoil::skewed, Some(SKEWED)),
    ("fogged", spoil::fogged, None),
    ("noisy", spoil::noisy, None),
    ("inverted", spoil::inverted, None),
    ("red and blue swapped", spoil::swapped, None),
    ("upside down", spoil::upside_down, None),
];

/// A fault as one measure sees it.
struct Row {
    fault: &'static str,
    measure: &'static str,
    auroc: f64,
    found: f64,
    false_alarms: f64,
    curve: Vec<(f64, f64)>,
}

/// Draws, spoils, measures.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut eye = Eye::open(args)?;
    let mut clean = Vec::new();
    let mut spoilt = vec![Vec::new(); FAULTS.len()];
    for index in 0..args.scenes {
        let shot = draw(args, index)?;
        clean.extend(eye.look(&packed(&shot, shot.now.clone()))?);
        for (found, (_, spoil, _)) in spoilt.iter_mut().zip(FAULTS) {
            found.extend(eye.look(&packed(&shot, spoil(&shot)))?);
        }
    }
    let ms = eye.spent.as_secs_f64() * 1e3 / eye.looks.max(1) as f64;
    let rows = rows(&clean, &spoilt, eye.pipeline.is_some());
    let real = eye.look_at_all(&args.pictures)?;
    let mut text = format!(
        "{} drawn scenes, {} px wide, seed {}; {ms:.2} ms of processor time a picture without the network\n\n{}",
        args.scenes,
        args.width,
        args.seed,
        table(&rows)
    );
    text += &ranges(&clean, &real);
    let report = serde_json::json!({ "scenes": args.scenes, "width": args.width, "seed": args.seed,
        "ms_per_picture": ms, "faults": rows.iter().map(Row::json).collect::<Vec<_>>() });
    write(args, &text, &report, rows)?;
    println!("{text}\nresults in {}", args.out.display());
    Ok(())
}

/// What the node would see a picture with.
struct Eye {
    thresholds: QualityParameters,
    pipeline: Option<Pipeline>,
    spent: Duration,
    looks: u32,
}

impl Eye {
    /// The shipped thresholds, and the network if there is one, through the windows of its calibration.
    fn open(args: &Args) -> Result<Self> {
        let weights = Override::Value { key: "model.weights".into(), yaml: "none".into() };
        let thresholds = NodeConfig::load("/ood_segmentation", &[weights])?.quality;
        let open = |model: &ModelArgs| {
            let found = checkpoint::read_config(&model.weights)?.calibration;
            let found = found.filter(|found| found.familiarity.is_some()).ok_or_else(|| {
                let problem = "does not say what is familiar; `ood_seg calibrate` finds it out";
                Error::bad_file(&model.weights, problem)
            })?;
            WindowArgs { plan: found.plan.parse()?, batch: 4 }.open(model, Score::NegId)
        };
        let pipeline = args.model.as_ref().map(open).transpose()?;
        Ok(Self { thresholds, pipeline, spent: Duration::ZERO, looks: 0 })
    }

    /// `None` for a picture that the node would refuse.
    fn look(&mut self, image: &Image) -> Result<Option<Quality>> {
        let (limits, mut monitor, start) = (Limits::default(), Monitor::default(), on_cpu());
        let quality = monitor.look(image, &limits, &self.thresholds, Instant::now());
        (self.spent, self.looks) = (self.spent + on_cpu().saturating_sub(start), self.looks + 1);
        let (Some(quality), Some(pipeline)) = (quality, &self.pipeline) else { return Ok(quality) };
        let ratio = pipeline.run(image, Default::default())?.unfamiliarity;
        Ok(Some(quality.with_unfamiliarity(ratio, &self.thresholds)))
    }

    fn look_at_all(&mut self, pictures: &[PathBuf]) -> Result<Vec<Quality>> {
        let mut found = Vec::new();
        Inputs::find(pictures, &[], Shard::WHOLE)?.for_each(&Limits::default(), |frame| {
            found.extend(self.look(&frame?.image)?);
            Ok(())
        })?;
        Ok(found)
    }
}

/// How long this thread has been on a processor; what other programs take is not in it.
fn on_cpu() -> Duration {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = spent.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

fn draw(args: &Args, index: u64) -> Result<Shot> {
    let height = args.width * 9 / 16;
    let config = SceneConfig { width: args.width, height, ..SceneConfig::default() };
    let scene = Scene::new(scene_seed(args.seed, 77, index), &config)?;
    let [now, later] = [0, 7].map(|frame| scene.render(frame).rgb);
    let (height, width) = (height as usize, args.width as usize);
    Ok(Shot { height, width, now, later, index: usize::try_from(index).unwrap_or_default() })
}

fn packed(shot: &Shot, rgb: Vec<u8>) -> Image {
    Image::packed(Default::default(), (shot.height, shot.width), "rgb8", rgb)
}

/// Every fault by its own measure, then, with a network, every fault by that.
fn rows(clean: &[Quality], spoilt: &[Vec<Quality>], network: bool) -> Vec<Row> {
    let row = |fault, (measure, of, bit): Measure, spoilt: &[Quality]| {
        let (auroc, curve) = roc(clean, spoilt, of);
        let [found, false_alarms] = [spoilt, clean].map(|all| flagged(all, bit));
        Row { fault, measure, auroc, found, false_alarms, curve }
    };
    let faults = || FAULTS.into_iter().zip(spoilt);
    let own = faults().filter_map(|((name, _, own), spoilt)| Some(row(name, own?, spoilt)));
    let ours = faults().map(|((name, ..), spoilt)| row(name, UNFAMILIARITY, spoilt));
    own.chain(ours.filter(|_| network)).collect()
}

/// Share of the pictures with this bit.
fn flagged(all: &[Quality], bit: u16) -> f64 {
    all.iter().filter(|quality| quality.bits & bit != 0).count() as f64 / all.len().max(1) as f64
}

/// Area under the curve, and the curve as false over true positive rate.
fn roc(clean: &[Quality], spoilt: &[Quality], of: fn(&Quality) -> f32) -> (f64, Vec<(f64, f64)>) {
    let scores: Vec<f32> = clean.iter().chain(spoilt).map(of).collect();
    let labels = [vec![0; clean.len()], vec![1; spoilt.len()]].concat();
    let bins = exact_bins(&scores, &labels);
    let (positives, negatives) = totals(&bins);
    let mut sweep = Sweep::new(positives, negatives);
    let mut curve = vec![(0.0, 0.0)];
    for bin in bins {
        let point = sweep.push(bin);
        curve.push((point.fpr, point.recall));
    }
    (sweep.finish().auroc, curve)
}

impl Row {
    fn json(&self) -> serde_json::Value {
        serde_json::json!({ "fault": self.fault, "measure": self.measure, "auroc": self.auroc,
            "found": self.found, "false_alarms": self.false_alarms })
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| fault | measured by | AUROC | found at the shipped threshold | clean pictures flagged |\n\
         |---|---|--:|--:|--:|\n",
    );
    for Row { fault, measure, auroc, found, false_alarms, .. } in rows {
        let [found, false_alarms] = [found, false_alarms].map(|share| 100.0 * share);
        writeln!(text, "| {fault} | {measure} | {auroc:.4} | {found:.1} % | {false_alarms:.1} % |")
            .unwrap_or_default();
    }
    text
}

/// Least, middle and largest of every measure on good pictures, for thresholds to be set by.
fn ranges(drawn: &[Quality], real: &[Quality]) -> String {
    let mut text = format!(
        "\n| measure on good pictures | {} drawn | flagged | {} given | flagged |\n|---|---|--:|---|--:|\n",
        drawn.len(),
        real.len()
    );
    for (name, of, bit) in MEASURES {
        let columns = [drawn, real].map(|all| {
            let mut values: Vec<f32> = all.iter().map(|quality| of(quality).abs()).collect();
            values.sort_unstable_by(f32::total_cmp);
            let [least, middle, most] = [0, values.len() / 2, values.len().saturating_sub(1)]
                .map(|at| values.get(at).copied().unwrap_or(f32::NAN));
            format!("{least:.2}, {middle:.2}, {most:.2} | {:.1} %", 100.0 * flagged(all, bit))
        });
        writeln!(text, "| {name} | {} |", columns.join(" | ")).unwrap_or_default();
    }
    text
}

fn write(args: &Args, text: &str, report: &serde_json::Value, rows: Vec<Row>) -> Result<()> {
    let json = serde_json::to_string_pretty(report).unwrap_or_default();
    std::fs::create_dir_all(&args.out).map_err(Error::io(&args.out))?;
    file::write(&args.out.join("results.json"), |file| file.write_all(json.as_bytes()))?;
    file::write(&args.out.join("results.md"), |file| file.write_all(text.as_bytes()))?;
    let own = rows.into_iter().filter(|row| row.measure != UNFAMILIARITY.0);
    let series: Vec<_> = own.map(|row| (row.fault.to_owned(), row.curve)).collect();
    let (h, w, rgb) = curves("ROC: faults found over clean pictures flagged", &series);
    image::write_png(&args.out.join("roc.png"), h, w, &rgb)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What the shipped thresholds say of a picture, as far as edges and rows go.
    fn judged(shot: &Shot, rgb: Vec<u8>) -> u16 {
        let weights = Override::Value { key: "model.weights".into(), yaml: "none".into() };
        let thresholds = NodeConfig::load("/ood_segmentation", &[weights]).unwrap().quality;
        let (limits, now) = (Limits::default(), Instant::now());
        let found = Monitor::default().look(&packed(shot, rgb), &limits, &thresholds, now);
        found.unwrap().bits & (bit::BLURRED | bit::TORN)
    }

    /// One scene a size: blurring takes seconds in a development build.
    #[test]
    fn one_threshold_tells_sharp_from_blurred_streets_at_every_size() {
        let (scenes, model, out) = (4, None, PathBuf::new());
        let mut args = Args { scenes, seed: 8, width: 0, pictures: Vec::new(), model, out };
        for (index, width) in (0..).zip([640, 960, 1280, 1920]) {
            args.width = width;
            let shot = draw(&args, index).unwrap();
            let pictures = [shot.now.clone(), spoil::blurred(&shot), spoil::torn(&shot)];
            let bits = pictures.map(|rgb| judged(&shot, rgb));
            assert_eq!(bits, [0, bit::BLURRED, bit::TORN], "{width}");
        }
    }

    #[test]
    fn real_photographs_are_sharp_and_blurred_ones_are_not() {
        let photos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/photos");
        if !photos.exists() {
            eprintln!("skipped: no {}", photos.display());
            return;
        }
        let mut blurred = 0;
        for (index, entry) in std::fs::read_dir(photos).unwrap().enumerate() {
            let path = entry.unwrap().path();
            let decoded = ::image::open(&path).unwrap().to_rgb8();
            let [width, height] = [decoded.width(), decoded.height()].map(|side| side as usize);
            let shot = Shot { height, width, now: decoded.into_raw(), later: Vec::new(), index };
            assert_eq!(judged(&shot, shot.now.clone()), 0, "{}", path.display());
            if width <= 1280 && blurred < 3 {
                blurred += 1;
                assert_eq!(
                    judged(&shot, spoil::blurred(&shot)),
                    bit::BLURRED,
                    "{}",
                    path.display()
                );
            }
        }
        assert!(blurred > 0);
    }
}
