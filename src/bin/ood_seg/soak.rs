//! `ood_seg soak`: the node behind a camera three times as fast as it is, with bad pictures in between and
//! readers that come and go, for as long as asked; what it took and what it lost, in numbers and a picture.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ood_segmentation::eval::plot::curves;
use ood_segmentation::image::{self, encode_jpeg};
use ood_segmentation::msg::{CompressedImage, FrameStatus, Stamp};
use ood_segmentation::{Error, Result, file};
use serde_json::{Value, json};

use crate::bench::{camera, memory_mib, untrained};
use crate::session::{End, Message, Session, failed, quantile};

/// How long, on which weights, and where the results go.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Minutes
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Weights; without them the small network with random ones
    #[arg(short, long)]
    weights: Option<PathBuf>,
    /// Folder of soak.json and soak.png
    #[arg(short, long, default_value = "out/soak")]
    out: PathBuf,
}

/// A bad picture comes this often.
const FAULT_EVERY: Duration = Duration::from_secs(5);
/// A reader of the masks leaves this often, and another one comes.
const VISIT_EVERY: Duration = Duration::from_secs(30);
/// A PNG of 65500x65500 pixels, says its header.
const BOMB: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xdc\0\0\xff\xdc\x08\x02\0\0\0\x1c\x35\x81\x4c\
    \0\0\0\x11IDATx\x9cc`\x18\x05\xa3`\x14\x0cw\0\0\x03\xe8\0\x01\xb3\xa6\xd3F\0\0\0\0IEND\xaeB`\x82";
/// How often the process is looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// How long a node that does not answer may take to be gone.
const DYING: Duration = Duration::from_secs(5);
/// Share of the run that does not count as steady.
const WARM_UP: f64 = 0.2;
/// Seconds that the heap takes to settle, if the run is twice as long.
const SETTLING: f64 = 60.0;

/// The node's process at one moment.
struct Sample {
    seconds: f64,
    memory_mib: f64,
    threads: f64,
    descriptors: f64,
    /// Of the masks since the last sample.
    latency_p99_ms: f64,
    /// So far: received, segmented, replaced by newer ones, refused.
    counts: [f64; 4],
}

/// The run so far.
struct Soak {
    session: Session,
    /// When the pictures began, at first those that show how fast the node is.
    start: Instant,
    /// From picture to picture; zero until it is known how fast the node is.
    gap: Duration,
    pictures: Vec<CompressedImage>,
    sent: usize,
    bad: usize,
    statuses: u64,
    /// The node's counts in its newest status, and those of its first.
    newest: FrameStatus,
    before: Option<u64>,
    reasons: BTreeMap<String, u64>,
    work_ms: Vec<f64>,
    latency_ms: Vec<f64>,
    all_ms: Vec<f64>,
    age_ms: Vec<f64>,
    samples: Vec<Sample>,
}

/// Runs the node for the time asked for. What was measured is written whatever happens to the node.
///
/// # Errors
/// A node that ends before its time.
pub(crate) fn run(args: &Args) -> Result<()> {
    let folder = tempfile::tempdir().map_err(Error::io("a temporary folder"))?;
    let weights = args.weights.clone().map_or_else(|| untrained(folder.path()), Ok)?;
    std::fs::create_dir_all(&args.out).map_err(Error::io(&args.out))?;
    let mut soak = Soak {
        session: Session::start(&weights, &["plan:=single".into()])?,
        start: Instant::now(),
        gap: Duration::ZERO,
        pictures: camera(32)?,
        sent: 0,
        bad: 0,
        statuses: 0,
        newest: FrameStatus::default(),
        before: None,
        reasons: BTreeMap::new(),
        work_ms: Vec::new(),
        latency_ms: Vec::new(),
        all_ms: Vec::new(),
        age_ms: Vec::new(),
        samples: Vec::new(),
    };
    let played = soak.play(args.minutes);
    let second = soak.start.elapsed().as_secs_f64();
    let end = if played.is_err() { soak.session.end(DYING)? } else { None };
    let mut report = soak.report();
    report["ended_early"] =
        played.as_ref().err().map(|error| early(second, error, end.as_ref())).into();
    soak.draw(&args.out.join("soak.png"))?;
    let text = serde_json::to_string_pretty(&report).unwrap_or_default();
    let path = args.out.join("soak.json");
    file::write(&path, |file| file.write_all(text.as_bytes()))?;
    println!("{text}");
    if let Some(End { status, .. }) = end {
        let path = path.display();
        let problem = format!("the node ended at second {second:.0}: {status}; see {path}");
        return Err(failed(&problem));
    }
    played?;
    soak.session.finish()
}

/// What ended a run before its time, for the report: the second, and of a node that ended how it did.
fn early(second: f64, error: &Error, end: Option<&End>) -> Value {
    json!({
        "second": second,
        "problem": error.chain(),
        "exit_code": end.and_then(|end| end.status.code()),
        "signal": end.and_then(|end| end.status.signal()),
        "log": end.map(|end| &end.log),
    })
}

impl Soak {
    /// Ten pictures that show how fast the node is, then the run.
    fn play(&mut self, minutes: f64) -> Result<()> {
        let pause = Duration::from_millis(400);
        (0..10).try_for_each(|_| {
            self.send(false).and_then(|()| self.listen(Instant::now() + pause))
        })?;
        let work_ms = self.work_ms.iter().sum::<f64>() / self.work_ms.len().max(1) as f64;
        self.gap = Duration::from_secs_f64((work_ms / 3e3).max(1e-3));
        self.start = Instant::now();
        eprintln!("{minutes} minutes at {:.1} pictures a second", 1.0 / self.gap.as_secs_f64());
        self.overload(Duration::from_secs_f64(60.0 * minutes))
    }

    /// Pictures at a fixed rate, a bad one and another reader now and then, and a look at the process every
    /// second.
    fn overload(&mut self, time: Duration) -> Result<()> {
        let start = self.start;
        let (mut due, mut fault, mut look) = (start, start + FAULT_EVERY, start);
        let (mut visit, mut visitor) = (start + VISIT_EVERY, self.session.visitor()?);
        while start.elapsed() < time {
            let now = Instant::now();
            self.send(now >= fault)?;
            if now >= fault {
                fault += FAULT_EVERY;
            }
            if now >= visit {
                visit += VISIT_EVERY;
                drop(std::mem::replace(&mut visitor, self.session.visitor()?));
            }
            if now >= look {
                look += SAMPLE_EVERY;
                self.sample()?;
            }
            due = (due + self.gap).max(now); // a camera does not catch up
            self.listen(due)?;
        }
        self.listen(Instant::now() + Duration::from_secs(3)) // stragglers
    }

    fn send(&mut self, bad: bool) -> Result<()> {
        self.sent += 1;
        let mut picture = self.pictures[self.sent % self.pictures.len()].clone();
        picture.header.stamp = Stamp::now();
        if bad {
            self.bad += 1;
            spoil(&mut picture, self.bad);
        }
        self.session.send(&picture)
    }

    /// Hears what the node says until `deadline`.
    fn listen(&mut self, deadline: Instant) -> Result<()> {
        while let Some(output) = self.session.receive(deadline)? {
            let latency = self.session.latency_ms(&output);
            let Message::Status(status) = output.message else { continue };
            self.statuses += 1;
            // Those before the first were sent before we listened.
            self.before.get_or_insert(status.sequence - status.dropped - status.limited - 1);
            if status.state == FrameStatus::OK {
                self.work_ms.push(f64::from(status.decode_ms + status.inference_ms));
                self.latency_ms.extend(latency);
                self.age_ms.push(status.age_ms.into());
            } else {
                *self.reasons.entry(status.reason.clone()).or_default() += 1;
            }
            self.newest = status;
        }
        Ok(())
    }

    fn sample(&mut self) -> Result<()> {
        let id = self.session.node_id();
        let count = |what: &str| -> Result<f64> {
            let path = format!("/proc/{id}/{what}");
            Ok(std::fs::read_dir(&path).map_err(Error::io(&path))?.count() as f64)
        };
        self.latency_ms.sort_by(f64::total_cmp);
        let FrameStatus { sequence, dropped, .. } = self.newest;
        let counts = [sequence, self.work_ms.len() as u64, dropped, self.reasons.values().sum()];
        self.samples.push(Sample {
            seconds: self.start.elapsed().as_secs_f64(),
            memory_mib: memory_mib(id, "VmRSS:")?,
            threads: count("task")?,
            descriptors: count("fd")?,
            latency_p99_ms: quantile(&self.latency_ms, 0.99),
            counts: counts.map(|count| count as f64),
        });
        self.all_ms.append(&mut self.latency_ms);
        Ok(())
    }

    /// The samples after the warm-up.
    fn steady(&self) -> &[Sample] {
        let end = self.samples.last().map_or(0.0, |sample| sample.seconds);
        let warm_up = (WARM_UP * end).max(SETTLING.min(end / 2.0));
        &self.samples[self.samples.partition_point(|sample| sample.seconds < warm_up)..]
    }

    fn report(&mut self) -> Value {
        self.all_ms.append(&mut self.latency_ms);
        self.all_ms.sort_by(f64::total_cmp);
        self.age_ms.sort_by(f64::total_cmp);
        let steady = self.steady();
        let tenth = (steady.len() / 10).max(1);
        let mean = |part: &[Sample]| {
            part.iter().map(|sample| sample.memory_mib).sum::<f64>() / part.len().max(1) as f64
        };
        let first = mean(&steady[..tenth.min(steady.len())]);
        let last = mean(&steady[steady.len().saturating_sub(tenth)..]);
        let hours = steady.last().map_or(0.0, |end| end.seconds - steady[0].seconds) / 3600.0;
        let range = |of: fn(&Sample) -> f64| {
            let least = steady.iter().map(of).fold(f64::INFINITY, f64::min);
            [least, steady.iter().map(of).fold(0.0, f64::max)]
        };
        let FrameStatus { sequence, dropped, limited, .. } = self.newest;
        let looked_at = sequence - dropped - limited - self.before.unwrap_or_default();
        json!({
            "camera": "960x540 JPEG, plan single",
            "minutes": self.samples.last().map_or(0.0, |sample| sample.seconds / 60.0),
            "rate_hz": 1.0 / self.gap.as_secs_f64(),
            "sent": self.sent,
            "bad": self.bad,
            "received": sequence,
            "segmented": self.work_ms.len(),
            "replaced_by_newer": dropped,
            "drop_share": dropped as f64 / sequence.max(1) as f64,
            "statuses": self.statuses,
            "refused": self.reasons,
            "missing_unexplained": i128::from(looked_at) - i128::from(self.statuses),
            "latency_ms": {
                "p50": quantile(&self.all_ms, 0.5),
                "p99": quantile(&self.all_ms, 0.99),
                "max": self.all_ms.last(),
            },
            "age_ms": { "p50": quantile(&self.age_ms, 0.5), "p99": quantile(&self.age_ms, 0.99) },
            "memory_mib": { "after_warm_up": first, "at_the_end": last },
            "memory_growth_percent": 100.0 * (last - first) / first,
            "memory_slope_mib_per_h": if hours > 0.0 { (last - first) / hours } else { 0.0 },
            "threads": range(|sample| sample.threads),
            "descriptors": range(|sample| sample.descriptors),
        })
    }

    /// Each over time, as a share of its largest value after the warm-up.
    fn draw(&self, path: &Path) -> Result<()> {
        let end = self.samples.last().map_or(1.0, |sample| sample.seconds);
        let series = |name: &str, of: fn(&Sample) -> f64| {
            let most = self.steady().iter().map(of).fold(f64::MIN_POSITIVE, f64::max);
            let points =
                self.samples.iter().map(|sample| (sample.seconds / end, of(sample) / most));
            (format!("{name} {most:.0}"), points.collect())
        };
        let all = [
            series("memory MiB", |sample| sample.memory_mib),
            series("threads", |sample| sample.threads),
            series("files", |sample| sample.descriptors),
            series("p99 ms", |sample| sample.latency_p99_ms),
            series("received", |sample| sample.counts[0]),
            series("segmented", |sample| sample.counts[1]),
            series("replaced", |sample| sample.counts[2]),
            series("refused", |sample| sample.counts[3]),
        ];
        let title = format!("{:.1} minutes; 1.0 = largest after warm-up", end / 60.0);
        let (h, w, rgb) = curves(&title, &all);
        image::write_png(path, h, w, &rgb)
    }
}

/// Makes a picture one that the node has to refuse, or one of another size; `turn` says which.
fn spoil(picture: &mut CompressedImage, turn: usize) {
    let stamp = &mut picture.header.stamp;
    match turn % 9 {
        0 => picture.data.truncate(picture.data.len() / 2), // cut short
        1 => picture.data = b"not a picture".to_vec(),
        2 => picture.data.clear(),
        3 => drop(picture.data.drain(..100)), // no header
        4 => *stamp = Stamp::default(),
        5 => stamp.sec -= 60,
        6 => stamp.sec += 60,
        7 => picture.data = BOMB.to_vec(),
        _ => picture.data = encode_jpeg(96, 128, &[90; 3 * 96 * 128], 90).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn an_early_end_is_told_with_second_exit_code_or_signal_and_last_words() {
        let end = |raw| End { status: ExitStatus::from_raw(raw), log: vec!["bad".into()] };
        let error = failed("the node ended");
        let told = early(2583.0, &error, Some(&end(71 << 8)));
        assert_eq!((&told["second"], &told["exit_code"]), (&json!(2583.0), &json!(71)));
        assert_eq!((&told["signal"], &told["log"]), (&Value::Null, &json!(["bad"])));
        let told = early(1.0, &error, Some(&end(9)));
        assert_eq!((&told["exit_code"], &told["signal"]), (&Value::Null, &json!(9)));
        let told = early(1.0, &error, None);
        assert_eq!((&told["exit_code"], &told["log"]), (&Value::Null, &Value::Null));
        assert!(told["problem"].as_str().unwrap().ends_with("the node ended"), "{told}");
    }
}
