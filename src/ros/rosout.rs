//! The node's log lines on their way to `/rosout`.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{Level, Metadata, Record};

use crate::msg::{Log, Stamp};

/// A logger that hands this package's lines, and no library's, to `/rosout` as well.
pub struct Tee {
    stderr: Box<dyn log::Log>,
    name: String,
    lines: Sender<Line>,
    lost: AtomicU64,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub(crate) log: Log,
    /// Lines before it for which there was no room.
    pub(crate) lost: u64,
}

/// Lines that wait; the first ones wait until the node has joined DDS.
const ROOM: usize = 256;

impl Tee {
    /// Everything goes to `stderr`, what it enables also into the channel, under the logger name `name`.
    pub fn new(stderr: Box<dyn log::Log>, name: String) -> (Self, Receiver<Line>) {
        let (lines, receiver) = bounded(ROOM);
        (Self { stderr, name, lines, lost: AtomicU64::new(0) }, receiver)
    }
}

impl log::Log for Tee {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.stderr.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        #[cfg(feature = "fault-injection")]
        crate::fault::line();
        self.stderr.log(record);
        // A library may log while it sends such a line, which would then call for another.
        let ours = record.target().starts_with(env!("CARGO_CRATE_NAME"));
        if !ours || !self.enabled(record.metadata()) {
            return;
        }
        let log = Log {
            stamp: Stamp::now(),
            level: severity(record.level()),
            name: self.name.clone(),
            msg: record.args().to_string(),
            file: record.file().unwrap_or_default().to_owned(),
            function: record.module_path().unwrap_or_default().to_owned(),
            line: record.line().unwrap_or_default(),
        };
        let lost = self.lost.load(Ordering::Relaxed);
        if self.lines.try_send(Line { log, lost }).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        self.stderr.flush();
    }
}

/// `rcl_interfaces/Log` counts in tens.
fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 40,
        Level::Warn => 30,
        Level::Info => 20,
        Level::Debug | Level::Trace => 10,
    }
}

#[cfg(test)]
mod tests {
    use log::Log as _;

    use super::*;

    struct Quiet;

    impl log::Log for Quiet {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.level() <= Level::Info
        }
        fn log(&self, _record: &Record<'_>) {}
        fn flush(&self) {}
    }

    #[test]
    fn own_lines_are_taken_while_there_is_room_and_the_others_counted() {
        let (tee, lines) = Tee::new(Box::new(Quiet), "car.seg".into());
        let say = |target: &str, level: Level, text: &str| {
            tee.log(
                &Record::builder().target(target).level(level).args(format_args!("{text}")).build(),
            );
        };
        say("rustdds::network", Level::Error, "a library");
        say("ood_segmentation::ros", Level::Debug, "too fine");
        say("ood_segmentation_node", Level::Warn, "first");
        let line = lines.try_recv().unwrap();
        assert_eq!((line.log.level, line.log.msg.as_str(), line.lost), (30, "first", 0));
        assert_eq!(line.log.name, "car.seg");
        (0..ROOM + 3).for_each(|_| say("ood_segmentation", Level::Info, "many"));
        assert_eq!(lines.try_iter().count(), ROOM);
        say("ood_segmentation", Level::Error, "after");
        let line = lines.try_recv().unwrap();
        assert_eq!((line.log.level, line.lost), (40, 3));
    }
}
