//! `ood_seg demo`: a camera in, two masks out, and pictures of both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use ood_segmentation::bag::{BagReader, Message as BagMessage};
use ood_segmentation::config::ClassTable;
use ood_segmentation::data::synth::{Scene, SceneConfig, Unknowns};
use ood_segmentation::image::{Image, Limits, write_png};
use ood_segmentation::model::ModelConfig;
use ood_segmentation::msg::{self, CompressedImage, Stamp};
use ood_segmentation::window::Plan;
use ood_segmentation::{Error, Result, checkpoint, overlay, preprocess};
use tch::Device;

use crate::session::{self, Message, OUTPUTS, Output, STATUS, Session, quantile};
use crate::signal::stop_on_signal;

/// What the camera shows and where the pictures go.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Play the camera of this bag instead of the drawn road
    #[arg(long)]
    bag: Option<PathBuf>,
    /// Weights; without them the model in `models/`, or a small one with random weights
    #[arg(short, long)]
    weights: Option<PathBuf>,
    /// Folder of the pictures
    #[arg(short, long, default_value = "out/demo")]
    out: PathBuf,
    /// Frames of the drawn road
    #[arg(long, default_value_t = 30)]
    frames: u64,
    /// Which road is drawn
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Windows over the picture: paper, tiles or single
    #[arg(long, default_value = "tiles")]
    plan: Plan,
}

/// Frames per second of the drawn road.
const RATE: f32 = 5.0;
/// The trained demo model.
const DEMO_MODEL: &str = "models/demo.safetensors";
/// How long a frame's results may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How far the camera may fall behind its time by waiting for the node.
const WAITS: Duration = Duration::from_secs(60);
/// When the first frame is sent again.
const AGAIN: Duration = Duration::from_secs(2);
/// A camera that much behind its time is said to be slow.
const LATE: Duration = Duration::from_secs(1);
/// Range of the heat map about the threshold; the 8 bits of ood/probability resolve an LLR of -5 to 5.
const HEAT: f32 = 5.0;

/// One picture of the camera.
struct Shot {
    /// When, from the first picture.
    at: Duration,
    picture: CompressedImage,
    height: usize,
    width: usize,
    rgb: Vec<u8>,
}

/// A frame's picture and the results that have come back so far, in the order of [`OUTPUTS`].
struct Sheet {
    index: usize,
    shot: Shot,
    planes: [Option<Vec<u8>>; STATUS],
}

/// Plays, collects, draws, and says what happened.
pub(crate) fn run(args: &Args) -> Result<()> {
    let weights = weights(args)?;
    let ModelConfig { classes, calibration, .. } = checkpoint::read_config(&weights)?;
    let threshold = calibration.map_or(0.0, |calibration| calibration.ood_threshold);
    let (count, shots) = match &args.bag {
        Some(bag) => from_bag(bag)?,
        None => drawn(args.seed, args.frames)?,
    };
    println!("starting the node and playing {count} frames to it over DDS");
    let stop = stop_on_signal()?;
    let session = Session::start(&weights, &[format!("plan:={}", args.plan)])?;
    let mut demo = Demo::new(session, (classes, threshold), &args.out, count);
    demo.play(shots, &stop)?;
    if stop.load(Ordering::Relaxed) {
        println!("interrupted");
    }
    demo.end()
}

/// The weights to run with; a line says so when they know nothing.
fn weights(args: &Args) -> Result<PathBuf> {
    if let Some(weights) = &args.weights {
        return Ok(weights.clone());
    }
    if Path::new(DEMO_MODEL).exists() {
        return Ok(DEMO_MODEL.into());
    }
    println!(
        "no trained weights here: a small network with random weights, its classes mean nothing"
    );
    let path = args.out.join("model/untrained.safetensors");
    checkpoint::save(&checkpoint::init("tiny", "d-d", 0)?, &path)?;
    Ok(path)
}

type Shots = Box<dyn Iterator<Item = Result<Shot>>>;

/// A drive along the drawn road, past obstacles that belong to no class.
fn drawn(seed: u64, frames: u64) -> Result<(usize, Shots)> {
    let config = SceneConfig { fps: RATE, unknowns: Unknowns::Along, ..SceneConfig::default() };
    let scene = Scene::new(seed, &config)?;
    let shot = move |frame: u64| {
        let drawn = scene.render(frame);
        let at = Duration::from_nanos(drawn.stamp_ns);
        let (height, width) = (drawn.height as usize, drawn.width as usize);
        let mut image = Image { height: drawn.height, width: drawn.width, ..Image::default() };
        image.header.frame_id = "demo_camera_optical".into();
        image.header.stamp = Stamp {
            sec: i32::try_from(at.as_secs()).unwrap_or(i32::MAX),
            nanosec: at.subsec_nanos(),
        };
        let picture = session::jpeg(&image, &drawn.rgb)?;
        Ok(Shot { at, picture, height, width, rgb: drawn.rgb })
    };
    // A stamp of zero means "not set" to ROS.
    let shots = (1..=frames).map(shot);
    Ok((usize::try_from(frames).unwrap_or(usize::MAX), Box::new(shots)))
}

/// The first camera of a bag, its compressed topic if it has one.
fn from_bag(path: &Path) -> Result<(usize, Shots)> {
    let bag = BagReader::open(path)?;
    let cameras = || bag.topics().iter().filter(|topic| topic.is_image());
    let compressed = cameras().find(|topic| topic.type_name == msg::COMPRESSED_IMAGE.type_name);
    let Some(topic) = compressed.or(cameras().next()) else {
        return Err(Error::bad_file(
            path,
            "no topic of type sensor_msgs/msg/Image or CompressedImage",
        ));
    };
    println!("{}: {}", path.display(), topic.name);
    let count = topic.message_count;
    let messages = bag.messages(std::slice::from_ref(&topic.name))?;
    let mut first = None;
    let shots = messages.map(move |message| {
        let message = message?;
        let first = *first.get_or_insert(message.log_time_ns);
        recorded(&message, Duration::from_nanos(message.log_time_ns.saturating_sub(first)))
    });
    Ok((count, Box::new(shots)))
}

/// A recorded picture; a JPEG that an untuned host can carry is played as it is.
fn recorded(message: &BagMessage, at: Duration) -> Result<Shot> {
    let limits = Limits::default();
    let image = message.image(&limits)?;
    let encoding = image.validate(&limits)?;
    let rgb = preprocess::to_rgb(&image, encoding, Device::Cpu)?.permute([1, 2, 0]).contiguous();
    let mut bytes = vec![0; rgb.numel()];
    rgb.copy_data(&mut bytes, rgb.numel());
    let picture = match msg::decode::<CompressedImage>(&message.data) {
        Ok(picture)
            if message.type_name == msg::COMPRESSED_IMAGE.type_name
                && picture.data.len() <= session::MAX_JPEG =>
        {
            picture
        }
        _ => session::jpeg(&image, &bytes)?,
    };
    let (height, width) = (image.height as usize, image.width as usize);
    Ok(Shot { at, picture, height, width, rgb: bytes })
}

/// The running demo.
struct Demo<'a> {
    session: Session,
    classes: ClassTable,
    threshold: f32,
    out: &'a Path,
    bar: ProgressBar,
    sheets: BTreeMap<Stamp, Sheet>,
    /// Per output: arrival and latency in milliseconds.
    seen: [Vec<(Instant, f64)>; OUTPUTS.len()],
    sent: usize,
    drawn: usize,
    refused: BTreeMap<String, usize>,
    last: Option<Stamp>,
    /// Nothing of the last frame sent is awaited.
    finished: bool,
    /// Of the last frame sent: when it was due, and when it was sent.
    played: (Duration, Duration),
}

impl<'a> Demo<'a> {
    fn new(
        session: Session,
        (classes, threshold): (ClassTable, f32),
        out: &'a Path,
        count: usize,
    ) -> Self {
        Self {
            session,
            classes,
            threshold,
            out,
            bar: crate::segment::progress(count),
            sheets: BTreeMap::new(),
            seen: Default::default(),
            sent: 0,
            drawn: 0,
            refused: BTreeMap::new(),
            last: None,
            finished: true,
            played: Default::default(),
        }
    }

    /// Sends every picture when it is due, and not before the node is done with the last one, so that
    /// every picture is shown; a computer so slow that a minute is lost this way misses some then.
    fn play(&mut self, shots: Shots, stop: &AtomicBool) -> Result<()> {
        let start = Instant::now();
        for shot in shots {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let shot = match shot {
                Err(Error::Frame(reject)) => {
                    *self.refused.entry(reject.to_string()).or_default() += 1;
                    continue;
                }
                shot => shot?,
            };
            self.collect_until(start + shot.at, false)?;
            if start.elapsed() < shot.at + WAITS {
                self.await_last()?;
            }
            self.session.send(&shot.picture)?;
            self.sent += 1;
            self.last = Some(shot.picture.header.stamp);
            self.finished = false;
            self.played = (shot.at, start.elapsed());
            let sheet = Sheet { index: self.sent, shot, planes: Default::default() };
            self.sheets.insert(sheet.shot.picture.header.stamp, sheet);
            while self.sheets.len() > 64 {
                self.sheets.pop_first(); // frames without masks
            }
            self.bar.inc(1);
        }
        self.await_last()?;
        // The pictures of the last frame may come after its status.
        self.collect_until(Instant::now() + Duration::from_millis(500), false)?;
        self.bar.finish();
        Ok(())
    }

    /// Waits for the node's report on the last frame sent. Until a first report comes the frame is sent
    /// again: discovery ends on one side first, and what is said before it ends on the other is lost.
    fn await_last(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.finished && Instant::now() < deadline {
            self.collect_until(deadline.min(Instant::now() + AGAIN), true)?;
            if self.seen[STATUS].is_empty()
                && let Some(sheet) = self.sheets.values().next()
            {
                self.session.send(&sheet.shot.picture)?;
            }
        }
        Ok(())
    }

    fn collect_until(&mut self, deadline: Instant, until_last: bool) -> Result<()> {
        while !(until_last && self.finished) {
            let Some(output) = self.session.receive(deadline)? else { return Ok(()) };
            self.take(output)?;
        }
        Ok(())
    }

    fn take(&mut self, output: Output) -> Result<()> {
        let latency = self.session.latency_ms(&output).unwrap_or(f64::NAN);
        self.seen[output.topic].push((output.received, latency));
        match output.message {
            Message::Status(status) => {
                self.finished |= Some(output.stamp) == self.last;
                if !status.reason.is_empty() {
                    *self.refused.entry(status.reason).or_default() += 1;
                }
            }
            Message::Picture(picture) => self.add(output.topic, output.stamp, &picture)?,
        }
        Ok(())
    }

    /// Keeps a plane, and draws the frame's sheet once all are there.
    fn add(&mut self, topic: usize, stamp: Stamp, picture: &CompressedImage) -> Result<()> {
        let Some(sheet) = self.sheets.get_mut(&stamp) else { return Ok(()) };
        sheet.planes[topic] =
            Some(Image::from_compressed(picture, &Limits::default())?.data.into());
        if sheet.planes.iter().any(Option::is_none) {
            return Ok(());
        }
        if let Some(sheet) = self.sheets.remove(&stamp) {
            self.draw(&sheet)?;
            self.drawn += 1;
        }
        Ok(())
    }

    fn draw(&self, sheet: &Sheet) -> Result<()> {
        let [classes, mask, probability] =
            sheet.planes.each_ref().map(|plane| plane.as_deref().unwrap_or_default());
        let llr: Vec<f32> = probability.iter().map(|&p| logit(p) - self.threshold).collect();
        let tiles = [
            ("camera", sheet.shot.rgb.as_slice()),
            ("classes", &overlay::colours(classes, &self.classes)),
            ("LLR, grey at the threshold, +-5", &overlay::heat(&llr, HEAT)),
            ("OoD mask", &overlay::grey(mask)),
        ];
        let (height, width, panel) = overlay::panel(sheet.shot.width, tiles);
        debug_assert_eq!(sheet.shot.rgb.len(), sheet.shot.height * sheet.shot.width * 3);
        write_png(&self.out.join(format!("frame_{:04}.png", sheet.index)), height, width, &panel)
    }

    /// Ends the node and prints the table.
    fn end(self) -> Result<()> {
        let Self { session, seen, sent, drawn, refused, out, played: (due, took), .. } = self;
        session.finish()?;
        println!("\n{:32} {:>8} {:>8}   latency ms p50 / p99", "topic", "messages", "rate Hz");
        for ((name, ..), seen) in OUTPUTS.iter().zip(&seen) {
            let mut latencies: Vec<f64> = seen.iter().map(|(_, ms)| *ms).collect();
            latencies.sort_by(f64::total_cmp);
            let (p50, p99) = (quantile(&latencies, 0.5), quantile(&latencies, 0.99));
            let name = session::topic(name);
            println!("{name:32} {:8} {:8.1}   {p50:.0} / {p99:.0}", seen.len(), rate(seen));
        }
        for (reason, count) in &refused {
            println!("{count} frames refused: {reason}");
        }
        if drawn == 0 {
            let problem = format!("{sent} frames were sent and no masks came back");
            return Err(session::failed(&problem));
        }
        println!("\n{sent} frames sent, {drawn} shown in {}", out.display());
        if took > due + LATE {
            println!(
                "this computer is slower than the camera, which waited for it: {:.1} s took {:.1} s",
                due.as_secs_f64(),
                took.as_secs_f64()
            );
        }
        println!("next: make demo BAG=<your bag>, or ood_seg segment --help for your own pictures");
        Ok(())
    }
}

/// The LLR behind a pixel of ood/probability, which is 255 sigmoid(LLR).
fn logit(probability: u8) -> f32 {
    let p = (f32::from(probability) + 0.5) / 256.0;
    (p / (1.0 - p)).ln()
}

fn rate(seen: &[(Instant, f64)]) -> f64 {
    match (seen.first(), seen.last()) {
        (Some((first, _)), Some((last, _))) if last > first => {
            (seen.len() - 1) as f64 / last.duration_since(*first).as_secs_f64()
        }
        _ => 0.0,
    }
}
