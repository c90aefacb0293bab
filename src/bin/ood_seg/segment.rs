//! `ood_seg segment`: the node's pipeline on images, folders and bags.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use ood_segmentation::image::Limits;
use ood_segmentation::model::Score;
use ood_segmentation::obstacle::ObstacleConfig;
use ood_segmentation::pipeline::{Pipeline, PipelineConfig, Planes, Prediction};
use ood_segmentation::window::Plan;
use ood_segmentation::{Error, Result};

use crate::bag_out::BagOut;
use crate::inputs::{Frame, Inputs};
use crate::model::ModelArgs;
use crate::outputs::{Folder, Kind};
use crate::signal::{interrupted, stop_on_signal};

/// What to segment, how, and where the results go.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Images (jpg, png, webp), folders of images, or rosbag2 bags
    #[arg(required = true)]
    input: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Folder of the results
    #[arg(short, long, default_value = "out/segment")]
    out: PathBuf,
    /// What to write per picture
    #[arg(long, value_enum, value_delimiter = ',', default_value = "labels,ood,score,overlay")]
    write: Vec<Kind>,
    /// Of a bag, only these image topics
    #[arg(long, value_delimiter = ',')]
    topics: Vec<String>,
    /// Write one bag (mcap) with every output of every frame instead of files; inputs must be bags
    #[arg(long)]
    bag_out: Option<PathBuf>,
    /// Write one MCAP file that Foxglove, Lichtblick and Rerun open: pictures and every output
    #[arg(long, value_name = "FILE.mcap", conflicts_with = "bag_out")]
    foxglove: Option<PathBuf>,
    /// Pictures per second in that file, of those that were not recorded in a bag
    #[arg(long, default_value_t = 1.0, value_parser = frames_per_second)]
    fps: f64,
}

/// How the pipeline works on a frame.
#[derive(clap::Args)]
pub(crate) struct PipelineArgs {
    /// Windows over the picture: paper (stride 140), tiles (fewest that cover it), single
    #[arg(long, default_value = "tiles")]
    plan: Plan,
    /// Windows per forward pass
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Score of the OoD mask: llr, ood, neg_id, msp, max_logit, entropy, energy, rba
    #[arg(long, default_value = "llr")]
    score: Score,
    /// A pixel is out of distribution when its score is above this
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    ood_threshold: f32,
    /// An obstacle reaches from there as far as scores are above the threshold less this
    #[arg(long, default_value_t = 0.0)]
    hysteresis: f32,
    /// Least mean score of an obstacle, above the lower threshold
    #[arg(long, default_value_t = 0.0)]
    mean_margin: f32,
    /// Fewest pixels of an obstacle
    #[arg(long, default_value_t = 1)]
    min_area: usize,
    /// Most pixels of an obstacle
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    max_area: usize,
    /// Least share of an obstacle, or of its lower edge, on the drivable area, 0 to 1
    #[arg(long, default_value_t = 0.0)]
    min_road: f32,
}

impl PipelineArgs {
    /// The pipeline over a loaded model.
    pub(crate) fn open(&self, model: &ModelArgs) -> Result<Pipeline> {
        let config = PipelineConfig {
            plan: self.plan,
            batch: self.batch,
            score: self.score,
            ood_threshold: self.ood_threshold,
            obstacle: ObstacleConfig {
                hysteresis: self.hysteresis,
                mean_margin: self.mean_margin,
                min_area: self.min_area,
                max_area: self.max_area,
                min_road: self.min_road,
                ..ObstacleConfig::default()
            },
            limits: Limits::default(),
        };
        Pipeline::new(model.load()?, config)
    }
}

/// Segments every input with a progress bar.
///
/// # Errors
/// What stops the work: an argument, the model, a place that cannot be written to; and at its end
/// that some pictures could not be segmented.
pub(crate) fn run(args: &Args) -> Result<()> {
    let inputs = Inputs::find(&args.input, &args.topics)?;
    let pipeline = args.pipeline.open(&args.model)?;
    let job = Job { inputs, pipeline, stop: stop_on_signal()? };
    match (&args.bag_out, &args.foxglove) {
        (Some(path), _) => job.write_bag(path, BagOut::create(path)?),
        (_, Some(path)) => job.write_bag(path, BagOut::with_pictures(path, args.fps)?),
        _ => job.write_folder(args),
    }
}

/// What to do, until Ctrl-C.
struct Job {
    inputs: Inputs,
    pipeline: Pipeline,
    stop: Arc<AtomicBool>,
}

impl Job {
    fn write_folder(&self, args: &Args) -> Result<()> {
        let classes = &self.pipeline.model().config().classes;
        let folder = Folder { path: &args.out, kinds: &args.write, classes };
        folder.create()?;
        let write = |frame: &Frame, prediction: &_| folder.add(&frame.name, prediction);
        let done = self.segment(&args.out, folder.planes(), write)?;
        let endings: Vec<_> = args.write.iter().map(|kind| kind.ending()).collect();
        println!("{done} pictures in {}: NAME{}", args.out.display(), endings.join(", NAME"));
        self.all(done, &args.out)
    }

    fn write_bag(&self, path: &Path, mut bag: BagOut) -> Result<()> {
        let classes = &self.pipeline.model().config().classes;
        let planes =
            Planes { score: true, confidence: true, probability: true, rgb: true, obstacles: true };
        let write = |frame: &_, prediction: &_| bag.add(frame, prediction, classes);
        let done = self.segment(path, planes, write)?;
        if done > 0 {
            bag.finish()?;
            println!("{done} frames in {}", path.display());
        }
        self.all(done, path)
    }

    /// Hands what the network says about every picture to `write`, which puts it into `place`. One
    /// that cannot be segmented is named and the next ones are not concerned; returns how many there
    /// were of the others.
    fn segment(
        &self,
        place: &Path,
        planes: Planes,
        mut write: impl FnMut(&Frame, &Prediction) -> Result<()>,
    ) -> Result<usize> {
        let total = self.inputs.count();
        let bar = progress(total);
        let mut done = 0;
        self.inputs.for_each(&self.pipeline.config().limits, |frame| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(interrupted(place, done, total));
            }
            let segmented = frame.and_then(|frame| {
                let prediction = self.pipeline.run(&frame.image, planes);
                let named = |error: Error| Error::bad_file(&frame.source, error.chain());
                Ok((prediction.map_err(named)?, frame))
            });
            match segmented {
                Ok((prediction, frame)) => {
                    write(&frame, &prediction)?;
                    done += 1;
                }
                Err(error) if total == 1 => return Err(error),
                Err(error) => bar.suspend(|| eprintln!("ood_seg: {}", error.chain())),
            }
            bar.inc(1);
            Ok(())
        })?;
        bar.finish();
        Ok(done)
    }

    /// An error when some pictures are not among the results in `place`.
    fn all(&self, done: usize, place: &Path) -> Result<()> {
        let total = self.inputs.count();
        if done == total {
            return Ok(());
        }
        let problem = format!("{done} of {total} pictures, the others could not be segmented");
        Err(Error::bad_file(place, problem))
    }
}

/// A rate that gives every picture a time of its own.
fn frames_per_second(text: &str) -> std::result::Result<f64, String> {
    let rate = text.parse().map_err(|error: std::num::ParseFloatError| error.to_string())?;
    if (0.001..=1000.0).contains(&rate) { Ok(rate) } else { Err("not 0.001 to 1000".to_owned()) }
}

/// A bar with count, rate and time left; nothing on a pipe.
pub(crate) fn progress(total: usize) -> ProgressBar {
    let template = "{wide_bar} {pos}/{len}  {per_sec}  {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    ProgressBar::new(total as u64).with_style(style)
}
