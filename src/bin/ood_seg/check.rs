//! `ood_seg check`: are these weights whole, and do they run here?

use std::time::Instant;

use ood_segmentation::image::Limits;
use ood_segmentation::model::{Model, Precision, Score};
use ood_segmentation::obstacle::ObstacleConfig;
use ood_segmentation::pipeline::{Pipeline, PipelineConfig};
use ood_segmentation::selftest::{self, SelfTest};
use ood_segmentation::window::Plan;
use ood_segmentation::{Error, Result, checkpoint};
use tch::{Device, Kind, Tensor};

use crate::model::ModelArgs;

/// Which weights.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Write the network's answer to the self-test's pictures into the sidecar: every node that runs
    /// these weights compares with it before it publishes
    #[arg(long)]
    write: bool,
}

/// Loads the weights strictly, runs one window and says what it saw.
pub(crate) fn run(args: &Args) -> Result<()> {
    let model = args.model.load()?;
    let config = model.config();
    let [h, w] = config.window;
    let _no_grad = tch::no_grad_guard();
    let start = Instant::now();
    let outputs = model.forward(&Tensor::zeros([1, 3, h, w], (Kind::Float, model.device())));
    let score = if config.uem.is_some() { Score::Llr } else { Score::NegId };
    let score = score.of(&outputs);
    if score.isfinite().all().int64_value(&[]) == 0 {
        let problem = "the score of a grey window is not finite: these weights cannot be used";
        return Err(Error::bad_file(&args.model.weights, problem));
    }
    println!("weights   {} (sha256 {})", args.model.weights.display(), config.sha256);
    println!("network   {} {}", config.architecture, config.variant());
    println!("classes   {}", config.classes.0.len());
    println!("window    {h}x{w} px, first pass {:.2} s", start.elapsed().as_secs_f64());
    for file in &config.source.from {
        let digest = if file.sha256.is_empty() { "" } else { " sha256 " };
        println!("made by   {} from {}{digest}{}", config.source.tool, file.name, file.sha256);
    }
    self_test(args, model)
}

/// Compares the answer to the self-test's pictures with the sidecar's, or writes it there.
fn self_test(args: &Args, model: Model) -> Result<()> {
    let score = if model.config().uem.is_some() { Score::Llr } else { Score::NegId };
    let config = PipelineConfig {
        plan: Plan::Single,
        batch: 1,
        score,
        ood_threshold: 0.0,
        obstacle: ObstacleConfig::default(),
        limits: Limits::default(),
    };
    let pipeline = Pipeline::new(model, config)?;
    if !args.write {
        let stored = SelfTest::start(&pipeline)?.stored();
        let said =
            if stored { "that of the sidecar" } else { "none in the sidecar: check --write" };
        println!("answer    {said}");
        return Ok(());
    }
    let model = pipeline.model();
    if (model.device(), model.precision()) != (Device::Cpu, Precision::F32) {
        let found = format!("{:?}, {}", model.device(), model.precision());
        return Err(Error::setting("--write", &found, "--device cpu --precision f32"));
    }
    checkpoint::set_answer(&args.model.weights, selftest::answer(&pipeline)?)?;
    println!("answer    written into the sidecar");
    Ok(())
}
