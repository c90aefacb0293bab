//! `ood_seg replay`: a bag onto DDS with its recorded timing, topic names, types and QoS.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use ood_segmentation::bag::{self, BagReader, Topic};
use ood_segmentation::data::Shard;
use ood_segmentation::ros::raw::{self, ByteOrder, Participant, Qos, RawWriter};
use ood_segmentation::{Error, Result};

use crate::signal::stop_on_signal;

/// Bytes that a reliable writer may hold for its readers.
const HELD: usize = 256 << 20;
/// The transport lets go of acknowledged samples only this often.
const HELD_FOR: Duration = Duration::from_secs(6);
/// Messages above this size need more than a stock socket buffer.
const LARGE: usize = 200_000;
/// What the package's sysctl file sets, bytes.
const RMEM_MAX: usize = 64 << 20;
/// Longest nap between two looks at Ctrl-C.
const NAP: Duration = Duration::from_millis(50);

/// What to play, and how.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A rosbag2 bag: a folder, or one .mcap or .db3 file
    bag: PathBuf,
    /// Speed: 2 plays twice as fast
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Begin again at the end, until Ctrl-C
    #[arg(long = "loop")]
    repeat: bool,
    /// Seconds of the bag to skip
    #[arg(long, default_value_t = 0.0)]
    start: f64,
    /// Only these topics
    #[arg(long, value_delimiter = ',')]
    topics: Vec<String>,
    /// Only every n-th message of each topic, from the i-th on: i/n, with i from 0
    #[arg(long)]
    shard: Option<Shard>,
    /// Seconds to wait for a subscriber of every topic before the first message
    #[arg(long, default_value_t = 2.0)]
    wait: f64,
    /// DDS domain, instead of ROS_DOMAIN_ID
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=232))]
    domain: Option<u16>,
}

/// A topic being played.
struct Track {
    topic: Topic,
    writer: RawWriter,
    /// Messages met in this round, those of other shards included.
    met: usize,
    sent: usize,
    /// Not taken by the transport: a reliable subscriber was too far behind.
    refused: usize,
    /// Of the first and the last message.
    times: Option<(Instant, Instant)>,
}

/// Plays until the end of the bag or Ctrl-C, then says what was sent.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !(0.001..=1000.0).contains(&args.rate) {
        return Err(Error::setting("--rate", &args.rate, "0.001 to 1000"));
    }
    if !(0.0..=86_400.0).contains(&args.wait) {
        return Err(Error::setting("--wait", &args.wait, "0 to 86400 seconds"));
    }
    let bag = BagReader::open(&args.bag)?;
    let Some((first_ns, last_ns)) = bag.span_ns() else {
        return Err(Error::bad_file(&args.bag, "0 messages, nothing to play"));
    };
    let length = Duration::from_nanos(last_ns.saturating_sub(first_ns));
    let start = Duration::try_from_secs_f64(args.start).ok().filter(|start| *start <= length);
    let Some(start) = start else {
        let allowed = format!("0 to {:.3}, the bag's seconds", length.as_secs_f64());
        return Err(Error::setting("--start", &args.start, allowed));
    };
    bag.messages(&args.topics)?; // refuses what is not there before anything is started
    let stop = stop_on_signal()?;

    let domain = args.domain.map_or_else(raw::domain_id, Ok)?;
    let mut participant = Participant::new(domain)?;
    participant.announce("ood_seg_replay")?;
    let mut tracks = tracks(&bag, args, &participant, length)?;
    if tracks.is_empty() {
        let problem = format!("0 messages on {}, nothing to play", args.topics.join(", "));
        return Err(Error::bad_file(&args.bag, problem));
    }
    await_subscribers(&mut tracks, Duration::from_secs_f64(args.wait), &stop);

    let player = Player { bag: &bag, args, start, length, stop: &stop };
    let played = player.play(&mut tracks);
    for track in &tracks {
        track.writer.flush(Duration::from_secs(1))?;
    }
    std::thread::sleep(NAP); // the transport sends from its own thread
    print_table(&mut tracks);
    played
}

/// A writer for every topic that has messages.
fn tracks(
    bag: &BagReader,
    args: &Args,
    participant: &Participant,
    length: Duration,
) -> Result<Vec<Track>> {
    let chosen = |topic: &&Topic| args.topics.is_empty() || args.topics.contains(&topic.name);
    let mut tracks = Vec::new();
    let mut large = Vec::new();
    for topic in bag.topics().iter().filter(chosen).filter(|topic| topic.message_count > 0) {
        let Some(message) = bag.messages(std::slice::from_ref(&topic.name))?.next().transpose()?
        else {
            continue;
        };
        let Some(order) = ByteOrder::of(&message.data) else {
            let start = message.data.get(..4).unwrap_or(&message.data);
            let problem = format!("{} holds {start:02x?}, expected a CDR header", topic.name);
            return Err(Error::bad_file(&args.bag, problem));
        };
        let size = message.data.len();
        if size > LARGE {
            large.push((topic.name.as_str(), size));
        }
        let per_second = topic.message_count as f64 / length.as_secs_f64().max(1.0) * args.rate;
        let qos = offer(topic, size, per_second);
        let writer = participant.writer(&topic.name, &topic.type_name, qos, order)?;
        tracks.push(Track {
            topic: topic.clone(),
            writer,
            met: 0,
            sent: 0,
            refused: 0,
            times: None,
        });
    }
    if let Some(warning) =
        raw::receive_buffer_limit().and_then(|limit| small_buffers(&large, limit))
    {
        eprintln!("{warning}");
    }
    Ok(tracks)
}

/// The recorded QoS, reliable when none is recorded: that reaches every volatile subscriber. A
/// reliable writer that would hold too much for its readers becomes a best-effort one.
fn offer(topic: &Topic, size: usize, per_second: f64) -> Qos {
    let recorded = topic.qos.unwrap_or(bag::Qos { reliable: true, transient_local: false });
    let held = size as f64 * per_second * HELD_FOR.as_secs_f64();
    let fits = held <= HELD as f64;
    if recorded.reliable && !fits {
        println!(
            "{} is offered best effort: reliable would hold {:.0} MB for its subscribers",
            topic.name,
            held / 1e6
        );
    }
    Qos {
        reliable: recorded.reliable && fits,
        transient_local: recorded.transient_local,
        samples: i32::try_from(HELD / size.max(1)).unwrap_or(i32::MAX).clamp(2, 1024),
    }
}

/// The warning when these messages (topic, bytes) do not fit a receive buffer of `limit` bytes.
fn small_buffers(large: &[(&str, usize)], limit: usize) -> Option<String> {
    let together: usize = large.iter().map(|(_, size)| size).sum();
    let need = together / 2 * 5; // measured: 2.5 times the messages that arrive together
    let names: Vec<_> = large.iter().map(|(name, _)| *name).collect();
    (need > limit).then(|| {
        format!(
            "warning: {} need receive buffers of {need} bytes, this host allows {limit}: subscribers \
             on it will lose messages. Mend it with\n  \
             sudo sysctl -w net.core.rmem_max={} net.core.rmem_default=8388608",
            names.join(", "),
            need.max(RMEM_MAX),
        )
    })
}

/// Waits until every topic has a subscriber, at most `wait`.
fn await_subscribers(tracks: &mut [Track], wait: Duration, stop: &AtomicBool) {
    let deadline = Instant::now() + wait;
    let lonely = |tracks: &mut [Track]| -> Vec<String> {
        let lonely = tracks
            .iter_mut()
            .filter_map(|track| (track.writer.matched() == 0).then(|| track.topic.name.clone()));
        lonely.collect()
    };
    while !lonely(tracks).is_empty() && Instant::now() < deadline && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let lonely = lonely(tracks);
    if !lonely.is_empty() {
        println!("no subscriber yet on {}; playing", lonely.join(", "));
    }
}

/// The bag against the clock.
struct Player<'a> {
    bag: &'a BagReader,
    args: &'a Args,
    start: Duration,
    /// Of the bag, the skipped part included.
    length: Duration,
    stop: &'a AtomicBool,
}

impl Player<'_> {
    fn play(&self, tracks: &mut [Track]) -> Result<()> {
        let bar = ProgressBar::new(u64::try_from(self.length.as_millis()).unwrap_or(u64::MAX));
        let style = ProgressStyle::with_template("{wide_bar} {msg}");
        bar.set_style(style.unwrap_or(ProgressStyle::default_bar()));
        let mut began = None;
        loop {
            let start = self.play_once(tracks, began, &bar)?;
            if !self.args.repeat || self.stop.load(Ordering::Relaxed) {
                break;
            }
            // Every round starts on schedule too; a bag of one instant repeats ten times a second.
            let round = (self.length - self.start).div_f64(self.args.rate);
            began = Some(start + round.max(Duration::from_millis(100)));
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Every message at its distance from the start, so that no delay adds up. The start is `began`,
    /// or when the first message is at hand; it is returned.
    fn play_once(
        &self,
        tracks: &mut [Track],
        mut began: Option<Instant>,
        bar: &ProgressBar,
    ) -> Result<Instant> {
        let (bag_start, _) = self.bag.span_ns().unwrap_or_default();
        let skipped = u64::try_from(self.start.as_nanos()).unwrap_or(u64::MAX);
        let start_ns = bag_start.saturating_add(skipped);
        let names: Vec<_> = tracks.iter().map(|track| track.topic.name.clone()).collect();
        let shard = self.args.shard.unwrap_or(Shard::WHOLE);
        tracks.iter_mut().for_each(|track| track.met = 0);
        for message in self.bag.messages_from(&names, start_ns)? {
            let message = message?;
            let since = Duration::from_nanos(message.log_time_ns - start_ns);
            let began = *began.get_or_insert_with(Instant::now);
            if !self.sleep_until(began + since.div_f64(self.args.rate)) {
                return Ok(began);
            }
            let track = tracks.iter_mut().find(|track| track.topic.name == message.topic);
            if let Some(track) = track
                && track.is_in(shard)
            {
                track.send(message.data)?;
            }
            let position = self.start + since;
            bar.set_position(u64::try_from(position.as_millis()).unwrap_or(u64::MAX));
            let (at, of) = (position.as_secs_f64(), self.length.as_secs_f64());
            bar.set_message(format!("{at:.1} / {of:.1} s"));
        }
        Ok(began.unwrap_or_else(Instant::now))
    }

    /// False when Ctrl-C came first.
    fn sleep_until(&self, due: Instant) -> bool {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            match due.checked_duration_since(Instant::now()) {
                None | Some(Duration::ZERO) => return true,
                Some(left) => std::thread::sleep(left.min(NAP)),
            }
        }
    }
}

impl Track {
    /// Whether the message at hand, the next of this topic, belongs to the shard.
    fn is_in(&mut self, shard: Shard) -> bool {
        self.met += 1;
        shard.holds(self.met - 1)
    }

    fn send(&mut self, payload: Vec<u8>) -> Result<()> {
        if self.writer.write(payload)? {
            let now = Instant::now();
            let (first, _) = self.times.unwrap_or((now, now));
            self.times = Some((first, now));
            self.sent += 1;
        } else {
            self.refused += 1;
        }
        Ok(())
    }
}

/// What was sent, per topic.
fn print_table(tracks: &mut [Track]) {
    let width = tracks.iter().map(|track| track.topic.name.len()).max().unwrap_or_default();
    println!(
        "{:width$}  {:>8}  {:>7}  {:>7}  {:>11}",
        "topic", "sent", "refused", "Hz", "subscribers"
    );
    for track in tracks {
        let seconds = track.times.map_or(0.0, |(first, last)| (last - first).as_secs_f64());
        let rate = match track.sent {
            2.. if seconds > 0.0 => format!("{:.2}", (track.sent - 1) as f64 / seconds),
            _ => "n/a".into(),
        };
        println!(
            "{:width$}  {:>8}  {:>7}  {rate:>7}  {:>11}",
            track.topic.name,
            track.sent,
            track.refused,
            track.writer.matched()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untuned_host_is_told_the_line_that_mends_it() {
        let raw = [("/front", 6_220_854), ("/rear", 6_220_854)];
        assert_eq!(small_buffers(&raw, RMEM_MAX), None);
        assert_eq!(small_buffers(&[], 212_992), None);
        let warning = small_buffers(&raw, 212_992).unwrap();
        assert!(warning.contains("/front, /rear need receive buffers of 31104270 bytes"));
        assert!(warning.ends_with("net.core.rmem_max=67108864 net.core.rmem_default=8388608"));
    }

    #[test]
    fn a_reliable_writer_that_would_hold_too_much_is_offered_best_effort() {
        let topic = |qos| Topic {
            name: "/front".into(),
            type_name: "sensor_msgs/msg/Image".into(),
            message_count: 300,
            serialization_format: "cdr".into(),
            qos,
        };
        let latched = Some(bag::Qos { reliable: true, transient_local: true });
        let jpeg = offer(&topic(None), 150_000, 30.0);
        assert_eq!(jpeg, Qos { reliable: true, transient_local: false, samples: 1024 });
        let raw = offer(&topic(latched), 6_220_854, 30.0);
        assert_eq!(raw, Qos { reliable: false, transient_local: true, samples: 43 });
        let recorded = offer(&topic(Some(bag::Qos::default())), 100, 1.0);
        assert!(!recorded.reliable && !recorded.transient_local);
    }
}
