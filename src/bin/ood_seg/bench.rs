//! `ood_seg bench`: one window through the network, timed; `benches/bench.py` puts it beside PyTorch.

use std::time::Instant;

use ood_segmentation::Result;
use ood_segmentation::model::Score;
use tch::{Kind, Tensor};

use crate::model::ModelArgs;

/// What to time.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Timed forwards after one warm-up
    #[arg(long, default_value_t = 2)]
    repeat: u32,
}

/// Prints one JSON line: wall and CPU seconds per window, peak memory, mean LLR.
pub(crate) fn run(args: &Args) -> Result<()> {
    let model = args.model.load()?;
    let _no_grad = tch::no_grad_guard();
    let x = picture(model.config().window).to_device(model.device());
    model.forward(&x);
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let mut mean = 0.0;
    for _ in 0..args.repeat {
        mean = Score::Llr.of(&model.forward(&x)).mean(Kind::Float).double_value(&[]);
    }
    let line = serde_json::json!({
        "wall_s": start.elapsed().as_secs_f64() / f64::from(args.repeat),
        "cpu_s": (cpu_seconds() - cpu) / f64::from(args.repeat),
        "peak_mib": peak_mib(),
        "mean_score": mean,
    });
    println!("{line}");
    Ok(())
}

/// A fixed input of whole thousandths, the same in `benches/peers/eager.py`: `(1, 3, h, w)`.
fn picture([h, w]: [i64; 2]) -> Tensor {
    let ramp = Tensor::arange(3 * h * w, (Kind::Int64, tch::Device::Cpu)) * 7919;
    (ramp.remainder(1000).to_kind(Kind::Float) / 250.0 - 2.0).view([1, 3, h, w])
}
