//! One publisher at a time: frames of two cameras on one topic are never mixed.

use std::fmt;
use std::time::{Duration, Instant};

use ros2_client::Gid;

/// Which of a topic's publishers is read.
#[derive(Debug)]
pub(crate) struct WriterLock {
    /// Zero: all of them.
    patience: Duration,
    held: Option<(Gid, Instant)>,
    /// The last one that was not read, and when it was heard.
    other: Option<(Gid, Instant)>,
    /// Messages of those that were not read.
    refused: u64,
}

/// More than one publisher was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeveralWriters {
    pub(crate) read: String,
    pub(crate) unread: String,
}

/// A second publisher is spoken of for this long after its last message.
const REMEMBERED: Duration = Duration::from_secs(2);

impl WriterLock {
    pub(crate) fn new(patience_ms: u32) -> Self {
        let patience = Duration::from_millis(patience_ms.into());
        Self { patience, held: None, other: None, refused: 0 }
    }

    /// Whether a message of this publisher is read: it holds the topic, or nobody does any more.
    pub(crate) fn admits(&mut self, writer: Gid, now: Instant) -> bool {
        if let Some((holder, heard)) = self.held
            && holder != writer
        {
            self.other = Some((writer, now));
            if now.duration_since(heard) < self.patience {
                self.refused += 1;
                return false;
            }
            if self.patience > Duration::ZERO {
                self.other = None; // the one before is silent
            }
        }
        self.held = Some((writer, now));
        true
    }

    /// Lets the topic go: another one is read from now on.
    pub(crate) fn release(&mut self) {
        (self.held, self.other) = (None, None);
    }

    /// Messages that were not read.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// The publishers, where there was more than one of late.
    pub(crate) fn several(&self, now: Instant) -> Option<SeveralWriters> {
        let (other, heard) = self.other?;
        let (held, _) = self.held.filter(|_| now.duration_since(heard) < REMEMBERED)?;
        Some(SeveralWriters { read: hex(held), unread: hex(other) })
    }
}

impl fmt::Display for SeveralWriters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { read, unread } = self;
        write!(f, "multi_writer: of two publishers {read} is read, {unread} is not; stop one")
    }
}

/// As `ros2 topic info -v` writes a GID.
fn hex(gid: Gid) -> String {
    let bytes = gid.as_bytes().iter().map(|byte| format!("{byte:02x}"));
    bytes.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_publisher_is_read_until_it_is_silent() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let [a, b] = [1, 2].map(|byte| Gid::from([byte; std::mem::size_of::<Gid>()]));
        let mut lock = WriterLock::new(1000);
        assert!(lock.admits(a, at(0)));
        assert_eq!(lock.several(at(0)), None);
        assert!(!lock.admits(b, at(50)) && lock.admits(a, at(100)) && !lock.admits(b, at(1099)));
        let several = lock.several(at(1100)).unwrap();
        assert!(several.read.starts_with("01.01") && several.unread.starts_with("02.02"));
        assert!(lock.admits(b, at(1100)), "silent for a second");
        assert_eq!((lock.several(at(1100)), lock.refused()), (None, 2));
        assert!(!lock.admits(a, at(1200)), "now b is first");
        assert_eq!(lock.several(at(3200)), None, "a was not heard for two seconds");
    }

    #[test]
    fn without_a_lock_all_are_read_and_still_spoken_of() {
        let now = Instant::now();
        let [a, b] = [1, 2].map(|byte| Gid::from([byte; std::mem::size_of::<Gid>()]));
        let mut lock = WriterLock::new(0);
        assert!([a, b, a, b].into_iter().all(|writer| lock.admits(writer, now)));
        assert!(lock.several(now).is_some());
    }
}
