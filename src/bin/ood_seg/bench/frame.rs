//! One frame from the camera's bytes to the masks' bytes, stage by stage and as a whole.

use std::cell::RefCell;
use std::time::Instant;

use ood_segmentation::data::synth::{Scene, SceneConfig};
use ood_segmentation::image::{Image, Limits};
use ood_segmentation::model::{Fused, ModelConfig, Network, Outputs, Score, classes};
use ood_segmentation::msg::{self, CompressedImage, Header};
use ood_segmentation::obstacle::ObstacleConfig;
use ood_segmentation::pipeline::{Pipeline, PipelineConfig, Planes};
use ood_segmentation::window::{self, Plan};
use ood_segmentation::{Result, preprocess};
use tch::{Device, Kind, Tensor};

use super::{cpu_seconds, memory_mib, page_faults};
use crate::model::ModelArgs;
use crate::session::{failed, jpeg};

#[derive(clap::Args)]
pub(super) struct FrameArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Windows over the picture: paper, tiles, single
    #[arg(long, default_value = "tiles")]
    plan: Plan,
    /// Windows per forward pass
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Width of the picture, px
    #[arg(long, default_value_t = 1920)]
    width: u32,
    /// Height of the picture, px
    #[arg(long, default_value_t = 1080)]
    height: u32,
    /// Timed frames after one warm-up
    #[arg(long, default_value_t = 2)]
    repeat: u32,
    /// Whole frames, not their stages, as with model.cuda_graphs
    #[arg(long)]
    graphs: bool,
}

/// Times every stage by itself, then whole frames as the node runs them; one JSON line.
pub(super) fn run(args: &FrameArgs) -> Result<()> {
    let camera = camera(args)?;
    let _no_grad = tch::no_grad_guard();
    let network = Watched { fused: Fused::new(args.model.load()?), clock: RefCell::default() };
    for round in 0..=args.repeat {
        if round == 1 {
            network.clock.take();
        }
        stages(&network, args, &camera)?;
    }
    let stages = network.clock.take().0;
    let mean = |seconds: f64| seconds * 1e3 / f64::from(args.repeat);
    let stages: serde_json::Map<_, _> =
        stages.into_iter().map(|(name, seconds)| (name.into(), mean(seconds).into())).collect();
    drop(network);

    let config = PipelineConfig {
        plan: args.plan,
        batch: args.batch,
        score: Score::Llr,
        ood_threshold: 0.0,
        obstacle: ObstacleConfig::default(),
        limits: Limits::default(),
    };
    let mut pipeline = Pipeline::new(args.model.load()?, config)?;
    if args.graphs {
        pipeline.warm_up()?;
        pipeline.accelerate();
    }
    let whole = || -> Result<()> {
        let image = Image::from_compressed(&camera, &pipeline.config().limits)?;
        let prediction = pipeline.run(&image, Planes::default())?;
        publish(&prediction.header, (prediction.height, prediction.width), prediction.classes)?;
        publish(&prediction.header, (prediction.height, prediction.width), prediction.ood_mask)
    };
    whole()?;
    let id = std::process::id();
    let resident = memory_mib(id, "VmRSS:")?;
    let (start, cpu, faults) = (Instant::now(), cpu_seconds()?, page_faults()?);
    for _ in 0..args.repeat {
        whole()?;
    }
    let per_frame = |x: f64| x / f64::from(args.repeat);
    let line = serde_json::json!({
        "stages_ms": stages,
        "way": pipeline.way(),
        "wall_s": per_frame(start.elapsed().as_secs_f64()),
        "cpu_s": per_frame(cpu_seconds()? - cpu),
        "page_faults": per_frame(page_faults()? - faults),
        "grown_mib": memory_mib(id, "VmRSS:")? - resident,
        "peak_mib": memory_mib(id, "VmHWM:")?,
    });
    println!("{line}");
    Ok(())
}

/// What the camera sends: a JPEG of the drawn road.
fn camera(args: &FrameArgs) -> Result<CompressedImage> {
    let (width, height) = (args.width, args.height);
    let drawn = Scene::new(3, &SceneConfig { width, height, ..SceneConfig::default() })?.render(0);
    let image = Image { height: drawn.height, width: drawn.width, ..Image::default() };
    jpeg(&image, &drawn.rgb)
}

/// A mono8 picture as it goes to the transport.
fn publish(header: &Header, size: (usize, usize), plane: Vec<u8>) -> Result<()> {
    let image = Image::packed(header.clone(), size, "mono8", plane);
    msg::encode(&image).map(drop).map_err(|error| failed(&error.to_string()))
}

/// Every stage of a frame on its own; those inside the windows are timed by [`Watched`].
fn stages(network: &Watched, args: &FrameArgs, camera: &CompressedImage) -> Result<()> {
    let device = network.fused.device();
    let image = network.timed("decode", || Image::from_compressed(camera, &Limits::default()))?;
    let encoding = image.validate(&Limits::default())?;
    let rgb = network.timed("upload", || preprocess::to_rgb(&image, encoding, device))?;
    let picture = network.timed("preprocess", || preprocess::normalise(&rgb));
    let (start, inside) = (Instant::now(), network.seconds());
    let outputs = window::segment(network, &[picture.shallow_clone()], args.plan, args.batch);
    network.synchronise();
    let outside = start.elapsed().as_secs_f64() - (network.seconds() - inside);
    network.clock.borrow_mut().add("windows", outside);
    let size = [picture.size()[2], picture.size()[3]];
    let (classes, mask) = network.timed("score", || {
        let raised = outputs[0].logits.size()[2..] == size;
        let outputs = if raised { &outputs[0] } else { &window::raise(&outputs[0], size) };
        let mask = Score::Llr.of(outputs).gt(0.0).to_kind(Kind::Uint8) * 255;
        (classes(&outputs.logits), mask)
    });
    let download = |plane: &Tensor| Vec::<u8>::try_from(plane.to_device(Device::Cpu).view(-1));
    let planes = network.timed("download", || [&classes, &mask].map(download));
    network.timed("publish", || {
        planes.into_iter().try_for_each(|plane| {
            let plane = plane.map_err(|error| failed(&error.to_string()))?;
            publish(&Header::default(), (args.height as usize, args.width as usize), plane)
        })
    })
}

/// The network with a clock in it.
struct Watched {
    fused: Fused,
    clock: RefCell<Clock>,
}

/// Seconds by stage, in the order met.
#[derive(Default)]
struct Clock(Vec<(&'static str, f64)>);

impl Clock {
    fn add(&mut self, stage: &'static str, seconds: f64) {
        match self.0.iter_mut().find(|(name, _)| *name == stage) {
            Some((_, sum)) => *sum += seconds,
            None => self.0.push((stage, seconds)),
        }
    }
}

impl Watched {
    fn timed<T>(&self, stage: &'static str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let made = work();
        self.synchronise();
        self.clock.borrow_mut().add(stage, start.elapsed().as_secs_f64());
        made
    }

    /// Waits for what a GPU has been given to do.
    fn synchronise(&self) {
        if let Device::Cuda(index) = self.fused.device() {
            tch::Cuda::synchronize(i64::try_from(index).unwrap_or(0));
        }
    }

    fn seconds(&self) -> f64 {
        self.clock.borrow().0.iter().map(|(_, seconds)| seconds).sum()
    }
}

impl Network for Watched {
    fn config(&self) -> &ModelConfig {
        self.fused.config()
    }

    fn forward(&self, x: &Tensor) -> Outputs {
        let size = [x.size()[2], x.size()[3]];
        let raise = |y: Tensor| y.upsample_bilinear2d(size, false, None, None);
        let features = self.timed("backbone", || self.fused.features(x));
        let logits = self.timed("decoder", || self.fused.logits(&features));
        let uem = self.timed("heads", || self.fused.uem(&features));
        let descriptor = features.descriptor();
        self.timed("windows", || Outputs { logits: raise(logits), uem: uem.map(raise), descriptor })
    }
}
