//! Masks onto DDS at a camera's rate: the node's writer, QoS and pacing, with no network before them.

use std::time::{Duration, Instant};

use ood_segmentation::Result;
use ood_segmentation::image::Image;
use ood_segmentation::msg::{self, Header, Stamp};
use ood_segmentation::ros::raw::{self, ByteOrder, Participant, Qos, RawWriter};

use super::{cpu_seconds, memory_mib};
use crate::session::failed;

#[derive(clap::Args)]
pub(super) struct MasksArgs {
    /// Absolute names of topics; every mask goes to each
    #[arg(required = true)]
    topics: Vec<String>,
    /// Width of the masks, px
    #[arg(long, default_value_t = 1920)]
    width: usize,
    /// Height of the masks, px
    #[arg(long, default_value_t = 1080)]
    height: usize,
    /// Masks a second on every topic
    #[arg(long, default_value_t = 30.0)]
    rate: f64,
    /// Masks on every topic
    #[arg(long, default_value_t = 150)]
    count: u32,
    /// Lost masks are sent again
    #[arg(long)]
    reliable: bool,
}

/// How long a reader may take to appear, and reliable ones to have everything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Until the other side knows of the match too, and until the last paced sample is out.
const SETTLE: Duration = Duration::from_secs(1);

/// Sends once every topic has a reader; one JSON line.
pub(super) fn run(args: &MasksArgs) -> Result<()> {
    let participant = Participant::new(raw::domain_id()?)?;
    let qos = Qos { reliable: args.reliable, transient_local: false, samples: 1 };
    let kind = msg::IMAGE.type_name;
    let writer = |topic: &String| participant.writer(topic, kind, qos, ByteOrder::Little);
    let mut writers = args.topics.iter().map(writer).collect::<Result<Vec<_>>>()?;
    if !writers.iter_mut().all(|writer| writer.wait_matched(PATIENCE)) {
        return Err(failed("not every topic has a reader"));
    }
    std::thread::sleep(SETTLE);
    let this = std::process::id();
    let (before, cpu, start) = (memory_mib(this, "VmRSS:")?, cpu_seconds()?, Instant::now());
    for i in 0..args.count {
        let due = start + Duration::from_secs_f64(f64::from(i) / args.rate);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        writers.iter().try_for_each(|writer| send(writer, args))?;
    }
    let seconds = start.elapsed().as_secs_f64();
    if args.reliable {
        for writer in &writers {
            writer.flush(PATIENCE)?;
        }
    }
    std::thread::sleep(SETTLE);
    let line = serde_json::json!({
        "sent": writers.len() * args.count as usize,
        "seconds": seconds,
        "cpu_s": cpu_seconds()? - cpu,
        "mib": { "before": before, "peak": memory_mib(this, "VmHWM:")? },
    });
    println!("{line}");
    Ok(())
}

/// A mask that was made now.
fn send(writer: &RawWriter, args: &MasksArgs) -> Result<()> {
    let header = Header { stamp: Stamp::now(), frame_id: "camera".into() };
    let pixels = vec![255; args.width * args.height];
    let mask = Image::packed(header, (args.height, args.width), "mono8", pixels);
    let mask = msg::encode(&mask).map_err(|error| failed(&error.to_string()))?;
    writer.write(mask)?;
    Ok(())
}
