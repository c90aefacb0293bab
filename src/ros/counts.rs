//! What became of a camera's messages, for the end of the log.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::Error;
use crate::msg::FrameStatus;

/// What became of a camera's messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    received: u64,
    dropped: u64,
    limited: u64,
    segmented: u64,
    refused: BTreeMap<&'static str, Refused>,
}

#[derive(Clone, Copy, Debug)]
struct Refused {
    count: u64,
    logged: Instant,
}

/// A reason is logged when it first occurs and then at most this often, with its count.
const LOG_EVERY: Duration = Duration::from_secs(10);

impl Counts {
    /// Takes note of a frame; a reason to refuse one is logged at times.
    pub(crate) fn count(&mut self, status: &FrameStatus, error: Option<&Error>) {
        (self.received, self.dropped) = (status.sequence, status.dropped);
        self.limited = status.limited;
        let Some(error) = error else {
            self.segmented += 1;
            return;
        };
        let now = Instant::now();
        let unheard = Refused { count: 0, logged: now };
        let refused = self.refused.entry(reason(error)).or_insert(unheard);
        refused.count += 1;
        if refused.count == 1 || now.duration_since(refused.logged) >= LOG_EVERY {
            refused.logged = now;
            let (camera, count) = (&status.camera, refused.count);
            log::warn!("{camera}: no masks ({count} times so far): {}", status.text);
        }
    }
}

/// The fixed name of what went wrong with a frame.
pub(crate) fn reason(error: &Error) -> &'static str {
    match error {
        Error::Frame(reject) => reject.name(),
        Error::NotFinite { .. } => "not_finite",
        Error::Setting { .. } => "setting", // an ego mask of another size
        Error::Inactive => "inactive",
        Error::Disabled => "disabled",
        Error::TooSlow => "too_slow",
        Error::Panicked { .. } => "panic_recovered",
        _ => "inference",
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { received, dropped, limited, segmented, refused } = self;
        write!(f, "{received} messages, {segmented} segmented, {dropped} replaced by newer ones")?;
        if *limited > 0 {
            write!(f, ", {limited} above max_rate_hz")?;
        }
        refused.iter().try_for_each(|(reason, refused)| write!(f, ", {} {reason}", refused.count))
    }
}
