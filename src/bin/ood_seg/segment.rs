//! `ood_seg segment`: the node's pipeline on images, folders and bags.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use ood_segmentation::image::Limits;
use ood_segmentation::model::Score;
use ood_segmentation::obstacle::ObstacleConfig;
use ood_segmentation::pipeline::{Pipeline, PipelineConfig, Planes};
use ood_segmentation::window::Plan;
use ood_segmentation::{Error, Result};

use crate::inputs::Inputs;
use crate::model::ModelArgs;
use crate::outputs::{BagOut, Folder, Kind};

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
pub(crate) fn run(args: &Args) -> Result<()> {
    let inputs = Inputs::find(&args.input, &args.topics)?;
    let pipeline = args.pipeline.open(&args.model)?;
    let bar = progress(inputs.count());
    let limits = &pipeline.config().limits;
    let classes = &pipeline.model().config().classes;
    if let Some(path) = &args.bag_out {
        let planes = Planes {
            score: true,
            confidence: true,
            probability: true,
            rgb: true,
            ..Planes::default()
        };
        let mut bag = BagOut::create(path)?;
        inputs.for_each(limits, |frame| {
            let prediction = pipeline.run(&frame.image, planes)?;
            bag.add(&frame, &prediction, classes)?;
            bar.inc(1);
            Ok(())
        })?;
        bag.finish()?;
        bar.finish();
        println!("{} frames in {}", inputs.count(), path.display());
        return Ok(());
    }
    let folder = Folder { path: &args.out, kinds: &args.write, classes };
    inputs.for_each(limits, |frame| {
        let run = pipeline.run(&frame.image, folder.planes());
        let prediction = run.map_err(|error| named(&frame.name, error))?;
        folder.add(&frame.name, &prediction)?;
        bar.inc(1);
        Ok(())
    })?;
    bar.finish();
    println!("{} pictures in {}", inputs.count(), args.out.display());
    Ok(())
}

/// An error of one frame with the frame's name before it.
fn named(name: &std::path::Path, error: Error) -> Error {
    match error {
        Error::Frame(reject) => Error::bad_file(name, reject.to_string()),
        other => other,
    }
}

/// A bar with count, rate and time left; nothing on a pipe.
pub(crate) fn progress(total: usize) -> ProgressBar {
    let template = "{wide_bar} {pos}/{len}  {per_sec}  {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    ProgressBar::new(total as u64).with_style(style)
}
