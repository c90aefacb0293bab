//! `ood_seg train-backbone`, `train-segmentor` and `train-uem`: a configuration file to trained weights.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use indicatif::{ProgressBar, ProgressStyle};
use ood_segmentation::config::{TrainBackboneConfig, TrainSegmentorConfig, TrainUemConfig};
use ood_segmentation::model::{Model, device};
use ood_segmentation::train::log::Row;
use ood_segmentation::train::run::{Outcome, Plan, Watch};
use ood_segmentation::train::{Stage, backbone, segmentor, uem};
use ood_segmentation::{Error, Result, checkpoint};

/// A training run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Configuration; config/ of the source tree holds the published one, every key explained
    #[arg(short, long)]
    config: PathBuf,
    /// Go on from the state in run.out where there is one
    #[arg(long)]
    resume: bool,
}

/// The pre-training; its result, besides the weights of the run, is `backbone.safetensors` for stage 1.
pub(crate) fn backbone(args: &Args) -> Result<()> {
    let config = TrainBackboneConfig::load(&args.config)?;
    let (device, why) = device::select(&config.run.device)?;
    eprintln!("{why}");
    let (mut stage, plan, validation) = backbone::prepare(&config, device)?;
    let mut validate = |model: &Model| validation.mean_iou(model);
    if run(args, &plan, &mut stage, &mut validate)?.stopped {
        return Ok(());
    }
    checkpoint::save_backbone(&stage.model, &config.run.out.join("backbone.safetensors"))
}

/// Stage 1.
pub(crate) fn segmentor(args: &Args) -> Result<()> {
    let config = TrainSegmentorConfig::load(&args.config)?;
    let (device, why) = device::select(&config.run.device)?;
    eprintln!("{why}");
    let (mut stage, plan, frames) = segmentor::prepare(&config, device)?;
    let mut validate = |model: &Model| segmentor::mean_iou(model, &frames);
    run(args, &plan, &mut stage, &mut validate).map(drop)
}

/// Stage 2.
pub(crate) fn uem(args: &Args) -> Result<()> {
    let config = TrainUemConfig::load(&args.config)?;
    let (device, why) = device::select(&config.run.device)?;
    eprintln!("{why}");
    let (mut stage, plan, validation) = uem::prepare(&config, device)?;
    let mut validate = |model: &Model| validation.average_precision(model);
    run(args, &plan, &mut stage, &mut validate).map(drop)
}

fn run(
    args: &Args,
    plan: &Plan,
    stage: &mut dyn Stage,
    validate: &mut dyn FnMut(&Model) -> Result<f64>,
) -> Result<Outcome> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let registered = signal_hook::flag::register(signal, Arc::clone(&stop));
        registered.map_err(Error::io("signal handler"))?;
    }
    let bar = progress(plan.schedule.max_steps);
    let mut report = |row: &Row| {
        bar.set_position(row.step);
        let now =
            format!("loss {:.4}  lr {:.1e}  {:.2} crops/s", row.loss, row.lr, row.crops_per_s);
        bar.set_message(now.clone());
        if let Some(score) = row.score {
            bar.suspend(|| println!("step {}  {now}  {} {score:.4}", row.step, plan.score));
        }
    };
    let mut watch = Watch { stop: &stop, validate, report: &mut report };
    let outcome = plan.run(stage, args.resume, &mut watch)?;
    bar.abandon();
    let out = plan.run.out.display();
    if outcome.stopped {
        println!("stopped after step {}; --resume goes on from {out}", outcome.step);
    } else {
        let best = outcome.best.map_or("none".into(), |best| format!("{best:.4}"));
        println!("{} steps, best {} {best}, weights in {out}", outcome.step, plan.score);
    }
    Ok(outcome)
}

/// A bar with the step's numbers; nothing on a pipe.
fn progress(steps: u64) -> ProgressBar {
    let template = "{wide_bar} {pos}/{len}  {msg}  {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    ProgressBar::new(steps).with_style(style)
}
