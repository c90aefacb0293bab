//! One window through the network, or a few at a time.

use std::time::Instant;

use ood_segmentation::Result;
use ood_segmentation::model::cuda::{Event, Plugin};
use ood_segmentation::model::{Fused, Network, Outputs, Score};
use tch::{Kind, Tensor};

use super::{cpu_seconds, memory_mib};
use crate::model::ModelArgs;
use crate::session::quantile;

#[derive(clap::Args)]
pub(super) struct WindowArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Timed forwards after one warm-up
    #[arg(long, default_value_t = 2)]
    repeat: u32,
    /// Windows per forward
    #[arg(long, default_value_t = 1)]
    batch: u32,
    /// Replay recorded passes, as model.cuda_graphs does
    #[arg(long)]
    graphs: bool,
}

/// Wall and CPU seconds per window, on a GPU with the plug-in device time, peak memory, mean score.
pub(super) fn run(args: &WindowArgs) -> Result<()> {
    let mut model = Fused::new(args.model.load()?);
    let _no_grad = tch::no_grad_guard();
    let plugin = match Plugin::open(model.device()) {
        Err(error) if args.graphs => return Err(error),
        plugin => plugin.ok(),
    };
    let x = picture(model.config().window).to_device(model.device());
    let x = x.repeat([args.batch.into(), 1, 1, 1]);
    let score = |outputs: &Outputs| Score::Llr.of(outputs).mean(Kind::Float).double_value(&[]);
    score(&model.forward(&x));
    let deviation = match plugin.filter(|_| args.graphs) {
        Some(plugin) => Some(model.record(&plugin, args.batch as usize)?.deviation()),
        None => None,
    };
    let stopwatch = plugin.as_ref().map(Stopwatch::new).transpose()?;
    let (mut mean, mut device_ms) = (0.0, Vec::new());
    let (start, cpu) = (Instant::now(), cpu_seconds()?);
    for _ in 0..args.repeat {
        let outputs = match &stopwatch {
            None => model.forward(&x),
            Some(stopwatch) => {
                let (outputs, ms) = stopwatch.time(|| model.forward(&x))?;
                device_ms.push(f64::from(ms) / f64::from(args.batch));
                outputs
            }
        };
        mean = score(&outputs);
    }
    let (wall_s, cpu_s) = (start.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    device_ms.sort_by(f64::total_cmp);
    let quantiles = [("p50", 0.5), ("p99", 0.99)].map(|(name, q)| (name, quantile(&device_ms, q)));
    let device_ms = (!device_ms.is_empty()).then(|| {
        serde_json::Map::from_iter(quantiles.map(|(name, ms)| (name.to_owned(), ms.into())))
    });
    let windows = f64::from(args.repeat) * f64::from(args.batch);
    let line = serde_json::json!({
        "wall_s": wall_s / windows,
        "cpu_s": cpu_s / windows,
        "device_ms": device_ms,
        "graphs_deviation": deviation,
        "peak_mib": memory_mib(std::process::id(), "VmHWM:")?,
        "mean_score": mean,
    });
    println!("{line}");
    Ok(())
}

/// Two events on the device.
struct Stopwatch([Event; 2]);

impl Stopwatch {
    fn new(plugin: &Plugin) -> Result<Self> {
        Ok(Self([Event::new(plugin)?, Event::new(plugin)?]))
    }

    /// What `work` makes, and the milliseconds that the device takes for what it queues.
    fn time<T>(&self, work: impl FnOnce() -> T) -> Result<(T, f32)> {
        let [from, to] = &self.0;
        from.now()?;
        let made = work();
        to.now()?;
        to.sync()?;
        Ok((made, from.until(to)?))
    }
}

/// A fixed input of whole thousandths, the same in `benches/peers/eager.py`: `(1, 3, h, w)`.
fn picture([h, w]: [i64; 2]) -> Tensor {
    let ramp = Tensor::arange(3 * h * w, (Kind::Int64, tch::Device::Cpu)) * 7919;
    (ramp.remainder(1000).to_kind(Kind::Float) / 250.0 - 2.0).view([1, 3, h, w])
}
