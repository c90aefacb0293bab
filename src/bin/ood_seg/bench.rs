//! `ood_seg bench`: the network and the node, timed; `benches/bench.py` puts them beside their peers.

mod agreement;
mod frame;
mod masks;
mod window;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Subcommand;
use ood_segmentation::data::synth::{Scene, SceneConfig};
use ood_segmentation::image::Image;
use ood_segmentation::msg::{CompressedImage, Stamp};
use ood_segmentation::{Error, Result, checkpoint};

use crate::session::{self, Message, Session, quantile};

/// What to time; each prints one JSON line.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// One window through the network
    Window(window::WindowArgs),
    /// A frame, from the camera's JPEG to the masks' messages, by stage and as a whole
    Frame(frame::FrameArgs),
    /// Another precision beside f32 on a labelled set: classes, scores, average precision
    Agreement(agreement::AgreementArgs),
    /// The node behind a 960x540 camera over DDS: latency at a rate it keeps up with, then overload
    Node(NodeArgs),
    /// Masks over DDS as the node sends them, at a camera's rate
    Masks(masks::MasksArgs),
}

#[derive(clap::Args)]
struct NodeArgs {
    /// Weights; without them the small network with random ones
    #[arg(short, long)]
    weights: Option<PathBuf>,
    /// Frames of each of the two parts; 0: only the time from the node's start to its first mask
    #[arg(long, default_value_t = 100)]
    frames: u32,
}

/// Times what was asked for.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Window(args) => window::run(args),
        What::Frame(args) => frame::run(args),
        What::Agreement(args) => agreement::run(args),
        What::Node(args) => node(args),
        What::Masks(args) => masks::run(args),
    }
}

/// User and system seconds of this process.
fn cpu_seconds() -> Result<f64> {
    Ok(fields(14, 2)? / 100.0) // ticks of 10 ms
}

/// Pages that the kernel has given to this process so far without reading a disk.
fn page_faults() -> Result<f64> {
    fields(10, 1)
}

/// The sum of `count` fields of `/proc/self/stat` from the `first` on, counted from 1.
fn fields(first: usize, count: usize) -> Result<f64> {
    let path = "/proc/self/stat";
    let stat = std::fs::read_to_string(path).map_err(Error::io(path))?;
    // The name in field 2 may hold spaces but ends with `)`.
    let rest = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    Ok(rest.skip(first - 3).take(count).filter_map(|text| text.parse::<f64>().ok()).sum())
}

/// A line of `/proc/<id>/status` in MiB.
pub(crate) fn memory_mib(id: u32, key: &str) -> Result<f64> {
    let path = format!("/proc/{id}/status");
    let status = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    let missing = || Error::bad_file(&path, format!("no line {key}"));
    kib.map(|kib| kib / 1024.0).ok_or_else(missing)
}

/// Latency at a rate that the node keeps up with, and what happens at three times its capacity.
fn node(args: &NodeArgs) -> Result<()> {
    let folder = tempfile::tempdir().map_err(Error::io("a temporary folder"))?;
    let weights = args.weights.clone().map_or_else(|| untrained(folder.path()), Ok)?;
    let pictures = camera(32)?;
    let began = Instant::now();
    let session = Session::start(&weights, &["plan:=single".into()])?;
    let mut node = Node { session, camera: pictures, sent: 0, dropped: 0 };
    let first_mask_s = node.first_mask(began)?;
    if args.frames == 0 {
        println!("{}", serde_json::json!({ "first_mask_s": first_mask_s }));
        return node.session.finish();
    }
    node.play(5, Duration::from_millis(400))?; // warm-up
    let calm = node.play(args.frames, Duration::from_millis(200))?;
    let gap = Duration::from_secs_f64(calm.work_ms / 3e3);
    let overload = node.play(3 * args.frames, gap)?;
    node.session.finish()?;
    let line = serde_json::json!({
        "camera": "960x540 JPEG, plan single",
        "first_mask_s": first_mask_s,
        "work_ms": calm.work_ms,
        "at_5_hz": calm.report,
        "at_3x_capacity": overload.report,
    });
    println!("{line}");
    Ok(())
}

/// The small network with random weights, in a folder.
pub(crate) fn untrained(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("untrained.safetensors");
    checkpoint::save(&checkpoint::init("tiny", "d-d", 0)?, &path)?;
    Ok(path)
}

/// Pictures of the drawn road at 960x540.
pub(crate) fn camera(count: u64) -> Result<Vec<CompressedImage>> {
    let config = SceneConfig { width: 960, height: 540, ..SceneConfig::default() };
    let scene = Scene::new(3, &config)?;
    let shot = |frame| {
        let drawn = scene.render(frame);
        let image = Image { height: drawn.height, width: drawn.width, ..Image::default() };
        session::jpeg(&image, &drawn.rgb)
    };
    (0..count).map(shot).collect()
}

/// How long a node may take from its start to its first mask.
const FIRST_MASK: Duration = Duration::from_secs(240);

/// The running node, its camera, and how far both are.
struct Node {
    session: Session,
    camera: Vec<CompressedImage>,
    sent: u32,
    /// Frames that newer ones replaced so far.
    dropped: u64,
}

/// What came back while pictures were sent at one rate.
struct Part {
    /// Mean milliseconds that the node works on a frame.
    work_ms: f64,
    report: serde_json::Value,
}

impl Node {
    /// Sends pictures as a camera of 30 Hz does, whether the node is ready or not; seconds from `began` to
    /// the first mask.
    fn first_mask(&mut self, began: Instant) -> Result<f64> {
        while began.elapsed() < FIRST_MASK {
            self.send()?;
            let next = Instant::now() + Duration::from_millis(33);
            while let Some(output) = self.session.receive(next)? {
                if output.topic == session::MASK {
                    return Ok(output.received.duration_since(began).as_secs_f64());
                }
            }
        }
        Err(session::failed("no mask within four minutes"))
    }

    /// Sends `count` pictures, one every `gap`, and gathers what comes back.
    fn play(&mut self, count: u32, gap: Duration) -> Result<Part> {
        let resident = |node: &Self| memory_mib(node.session.node_id(), "VmRSS:");
        let (before, start) = (resident(self)?, Instant::now());
        let (mut masks, mut work_ms) = (Vec::new(), Vec::new());
        let mut dropped = self.dropped;
        for i in 0..=count {
            // The last round waits for stragglers.
            let due = start + gap * i;
            let deadline = if i < count { due } else { Instant::now() + Duration::from_secs(2) };
            while let Some(output) = self.session.receive(deadline)? {
                match &output.message {
                    Message::Status(status) => {
                        dropped = status.dropped;
                        let before = status.decode_ms + status.preprocess_ms;
                        let after = status.inference_ms + status.postprocess_ms;
                        work_ms.push(f64::from(before + after));
                    }
                    Message::Picture(_) if output.topic == session::MASK => {
                        masks.extend(self.session.latency_ms(&output));
                    }
                    Message::Picture(_) => {}
                }
            }
            if i < count {
                self.send()?;
            }
        }
        masks.sort_by(f64::total_cmp);
        let report = serde_json::json!({
            "sent": count,
            "masks": masks.len(),
            "dropped": dropped - self.dropped,
            "mask_ms": { "p50": quantile(&masks, 0.5), "p99": quantile(&masks, 0.99) },
            "node_mib": { "before": before, "after": resident(self)? },
        });
        self.dropped = dropped;
        let frames = work_ms.len().max(1) as f64;
        Ok(Part { work_ms: work_ms.iter().sum::<f64>() / frames, report })
    }

    /// The next picture, with a stamp of its own.
    fn send(&mut self) -> Result<()> {
        self.sent += 1;
        let mut picture = self.camera[self.sent as usize % self.camera.len()].clone();
        picture.header.stamp = Stamp { sec: 0, nanosec: self.sent };
        self.session.send(&picture)
    }
}
