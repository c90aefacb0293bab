//! A real node process with a camera before it and a viewer behind it, all over DDS.
//!
//! Plays and reads compressed topics below 200 kB, which the kernel's stock socket buffers hold.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use ood_segmentation::image::{Image, encode_jpeg};
use ood_segmentation::msg::{self, CompressedImage, FrameStatus, Stamp};
use ood_segmentation::ros::raw::{ByteOrder, Participant, Qos, RawReader, RawWriter, Sample};
use ood_segmentation::{Error, Result};

use crate::signal::EXIT_CODE;

/// The camera's namespace.
const CAMERA: &str = "demo";
/// Largest message that an untuned host passes on without loss, bytes.
pub(crate) const MAX_JPEG: usize = 200_000;
/// How long a node may take from its start to its first subscription.
const START: Duration = Duration::from_secs(180);
/// Lines of the node's log that are kept to be told with its end.
const LAST_LINES: usize = 20;

/// The node's topics that a session reads: name below the camera's, type, reliable.
pub(crate) const OUTPUTS: [(&str, &str, bool); 4] = [
    ("semantic/image/compressed", msg::COMPRESSED_IMAGE.type_name, false),
    ("ood/image/compressed", msg::COMPRESSED_IMAGE.type_name, false),
    ("ood/probability/compressed", msg::COMPRESSED_IMAGE.type_name, false),
    ("status", msg::FRAME_STATUS, true),
];
/// Index of the OoD mask in [`OUTPUTS`].
pub(crate) const MASK: usize = 1;
/// Index of `status` in [`OUTPUTS`].
pub(crate) const STATUS: usize = 3;

/// A message of the node.
pub(crate) struct Output {
    /// Index into [`OUTPUTS`].
    pub(crate) topic: usize,
    /// Stamp of the picture it belongs to.
    pub(crate) stamp: Stamp,
    /// When it arrived.
    pub(crate) received: Instant,
    /// The message.
    pub(crate) message: Message,
}

/// What a message holds.
pub(crate) enum Message {
    /// A PNG.
    Picture(CompressedImage),
    /// The report on one frame.
    Status(FrameStatus),
}

/// How the node ended by itself.
pub(crate) struct End {
    /// Its exit code or the signal that killed it.
    pub(crate) status: ExitStatus,
    /// The last lines of its log.
    pub(crate) log: Vec<String>,
}

/// The node and both ends of its topics.
pub(crate) struct Session {
    domain: u16,
    node: Child,
    /// Passes the node's log on and comes back with its last lines.
    log: Option<JoinHandle<VecDeque<String>>>,
    camera: RawWriter,
    outputs: Receiver<Result<Output>>,
    stop: Arc<AtomicBool>,
    readers: Vec<JoinHandle<()>>,
    /// When each picture was sent, by its stamp.
    sent: HashMap<Stamp, Instant>,
    /// Its end would be that of the writer and the readers.
    _participant: Participant,
}

impl Session {
    /// Starts the node on `weights` and waits until it listens to the camera.
    ///
    /// # Errors
    /// A node that ends, or does not subscribe within three minutes.
    pub(crate) fn start(weights: &Path, parameters: &[String]) -> Result<Self> {
        let domain = domain()?;
        let participant = Participant::new(domain)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, outputs) = unbounded();
        let mut readers = Vec::new();
        for (index, (name, type_name, reliable)) in OUTPUTS.into_iter().enumerate() {
            let qos = Qos { reliable, transient_local: false, samples: 16 };
            let reader = participant.reader(&topic(name), type_name, qos)?;
            readers.push(read(index, reader, sender.clone(), Arc::clone(&stop))?);
        }
        let qos = Qos { reliable: true, transient_local: false, samples: 2 };
        let kind = msg::COMPRESSED_IMAGE.type_name;
        let camera =
            participant.writer(&topic("image_raw/compressed"), kind, qos, ByteOrder::Little)?;
        let mut session = Self {
            domain,
            node: spawn(domain, weights, parameters)?,
            log: None,
            camera,
            outputs,
            stop,
            readers,
            sent: HashMap::new(),
            _participant: participant,
        };
        session.log = session.node.stderr.take().map(pass_on).transpose()?;
        session.wait_until_listening()?;
        Ok(session)
    }

    fn wait_until_listening(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        while !self.camera.wait_matched(Duration::from_millis(200)) {
            self.check_node()?;
            if Instant::now() > deadline {
                return Err(failed(
                    "the node does not subscribe to the camera after three minutes",
                ));
            }
        }
        Ok(())
    }

    /// An error once the node has ended by itself.
    pub(crate) fn check_node(&mut self) -> Result<()> {
        match self.node.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(failed(&format!("the node ended by itself: {status}"))),
            Err(error) => Err(failed(&error.to_string())),
        }
    }

    /// How the node ended, if it has or does so within `patience`.
    pub(crate) fn end(&mut self, patience: Duration) -> Result<Option<End>> {
        let deadline = Instant::now() + patience;
        loop {
            let ended = self.node.try_wait().map_err(|error| failed(&error.to_string()))?;
            if let Some(status) = ended {
                let log = self.log.take().and_then(|log| log.join().ok()).unwrap_or_default();
                return Ok(Some(End { status, log: log.into() }));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Process id of the node.
    pub(crate) fn node_id(&self) -> u32 {
        self.node.id()
    }

    /// Another program that reads the masks, for as long as it is held.
    pub(crate) fn visitor(&self) -> Result<(RawReader, Participant)> {
        let (name, type_name, reliable) = OUTPUTS[MASK];
        let participant = Participant::new(self.domain)?;
        let qos = Qos { reliable, transient_local: false, samples: 1 };
        Ok((participant.reader(&topic(name), type_name, qos)?, participant))
    }

    /// Sends a picture as the camera would.
    pub(crate) fn send(&mut self, picture: &CompressedImage) -> Result<()> {
        let bytes = msg::encode(picture).map_err(|error| failed(&error.to_string()))?;
        self.sent.insert(picture.header.stamp, Instant::now());
        self.camera.write(bytes)?;
        Ok(())
    }

    /// The next output, waiting at most until `deadline`.
    pub(crate) fn receive(&mut self, deadline: Instant) -> Result<Option<Output>> {
        match self.outputs.recv_deadline(deadline) {
            Ok(output) => output.map(Some),
            Err(_) => {
                self.check_node()?;
                Ok(None)
            }
        }
    }

    /// Milliseconds from sending the picture of an output to receiving the output.
    pub(crate) fn latency_ms(&self, output: &Output) -> Option<f64> {
        let sent = self.sent.get(&output.stamp)?;
        Some(output.received.duration_since(*sent).as_secs_f64() * 1e3)
    }

    /// Ends the node as Ctrl-C does and waits for it.
    ///
    /// # Errors
    /// A node that does not end with status 0. One that the terminal's Ctrl-C reached as well may end
    /// with 130, as after a second one.
    pub(crate) fn finish(mut self) -> Result<()> {
        interrupt(&self.node)?;
        let status = self.node.wait().map_err(|error| failed(&error.to_string()))?;
        if status.success() || status.code() == Some(EXIT_CODE.into()) {
            Ok(())
        } else {
            Err(failed(&format!("the node ended with {status}")))
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Ok(None) = self.node.try_wait() {
            let killed = self.node.kill().and_then(|()| self.node.wait());
            if let Err(error) = killed {
                log::warn!("the node is left running: {error}");
            }
        }
        for reader in self.readers.drain(..) {
            if reader.join().is_err() {
                log::warn!("a reader thread panicked");
            }
        }
        if self.log.take().is_some_and(|log| log.join().is_err()) {
            log::warn!("the thread that passes the node's log on panicked");
        }
    }
}

/// `ROS_DOMAIN_ID`, or a domain where no robot is likely to be, so that nothing else is disturbed.
fn domain() -> Result<u16> {
    if std::env::var_os("ROS_DOMAIN_ID").is_some() {
        return ood_segmentation::ros::raw::domain_id();
    }
    let spread = u16::try_from(std::process::id() % 32).unwrap_or_default();
    Ok(70 + spread)
}

/// Absolute name of a topic of the camera.
pub(crate) fn topic(name: &str) -> String {
    format!("/{CAMERA}/{name}")
}

fn spawn(domain: u16, weights: &Path, parameters: &[String]) -> Result<Child> {
    let here = std::env::current_exe().map_err(Error::io("ood_seg"))?;
    let node = here.with_file_name("ood_segmentation_node");
    let mut command = Command::new(&node);
    command.env("ROS_DOMAIN_ID", domain.to_string()).args(["--ros-args", "--log-level", "warn"]);
    let own = [
        format!("cameras:=[{CAMERA}]"),
        "transport:=compressed".into(),
        "silence_ms:=0".into(), // our camera may wait for the node, and does not fall silent by fault
        format!("model.weights:={}", weights.display()),
    ];
    for parameter in own.iter().chain(parameters) {
        command.args(["-p", parameter]);
    }
    command.stderr(Stdio::piped()).spawn().map_err(Error::io(&node))
}

/// A thread that prints the node's log as it comes and keeps its last lines.
fn pass_on(log: ChildStderr) -> Result<JoinHandle<VecDeque<String>>> {
    let work = move || {
        let mut last = VecDeque::with_capacity(LAST_LINES);
        for line in BufReader::new(log).split(b'\n').map_while(|line| line.ok()) {
            let line = String::from_utf8_lossy(&line).into_owned();
            eprintln!("{line}");
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(line);
        }
        last
    };
    let thread = thread::Builder::new().name("log".into()).spawn(work);
    thread.map_err(|error| failed(&error.to_string()))
}

/// A thread that hands on everything that arrives on one topic.
fn read(
    index: usize,
    reader: RawReader,
    sender: Sender<Result<Output>>,
    stop: Arc<AtomicBool>,
) -> Result<JoinHandle<()>> {
    let work = move || {
        while !stop.load(Ordering::Relaxed) {
            let output = match reader.next(Duration::from_millis(100)) {
                Ok(None) => continue,
                Ok(Some(sample)) => decode(index, &sample),
                Err(error) => Err(error),
            };
            if sender.send(output).is_err() {
                return; // nobody listens any more
            }
        }
    };
    let thread = thread::Builder::new().name(format!("read {index}")).spawn(work);
    thread.map_err(|error| failed(&error.to_string()))
}

fn decode(topic: usize, sample: &Sample) -> Result<Output> {
    let bad = |error: msg::CdrError| failed(&format!("{}: {error}", OUTPUTS[topic].0));
    let (stamp, message) = if topic == STATUS {
        let status: FrameStatus = msg::decode(&sample.data).map_err(bad)?;
        (status.header.stamp, Message::Status(status))
    } else {
        let picture: CompressedImage = msg::decode(&sample.data).map_err(bad)?;
        (picture.header.stamp, Message::Picture(picture))
    };
    Ok(Output { topic, stamp, received: sample.received, message })
}

/// A picture as a camera driver sends it, small enough for an untuned host.
///
/// # Errors
/// A picture that stays above 200 kB in the worst quality.
pub(crate) fn jpeg(image: &Image, rgb: &[u8]) -> Result<CompressedImage> {
    let (h, w) = (image.height as usize, image.width as usize);
    for quality in [90, 75, 50, 25] {
        let data = encode_jpeg(h, w, rgb, quality)?;
        if data.len() <= MAX_JPEG {
            let format = CompressedImage::JPEG_OF_RGB8.into();
            return Ok(CompressedImage { header: image.header.clone(), format, data });
        }
    }
    Err(failed(&format!("a {w}x{h} picture does not fit {MAX_JPEG} bytes as JPEG")))
}

fn interrupt(node: &Child) -> Result<()> {
    let kill = Command::new("kill").args(["-INT", &node.id().to_string()]).status();
    let status = kill.map_err(|error| failed(&error.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed("the node cannot be interrupted")) }
}

/// The value below which a share `q` of the sorted values lies; NaN of none.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 <= q <= 1")]
    let at = (q * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// A failure of the session.
pub(crate) fn failed(problem: &str) -> Error {
    Error::Ros { what: "playing a camera to the node".into(), problem: problem.to_owned() }
}
