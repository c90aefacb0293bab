//! `ood_seg check`: are these weights whole, and do they run here?

use std::time::Instant;

use ood_segmentation::model::Score;
use ood_segmentation::{Error, Result};
use tch::{Kind, Tensor};

use crate::model::ModelArgs;

/// Which weights.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
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
    Ok(())
}
