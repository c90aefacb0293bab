//! Ctrl-C: the work ends at its next look at the flag, so that nothing half done stays behind.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ood_segmentation::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The exit code of a command that Ctrl-C ended, as shells have it: 128 + SIGINT.
pub(crate) const EXIT_CODE: u8 = 130;

/// Set by the first SIGINT or SIGTERM; the second SIGINT ends the process.
pub(crate) fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let registered =
        flag::register_conditional_shutdown(SIGINT, EXIT_CODE.into(), Arc::clone(&stop))
            .and_then(|_| flag::register(SIGINT, Arc::clone(&stop)))
            .and_then(|_| flag::register(SIGTERM, Arc::clone(&stop)));
    registered.map_err(Error::io("signal handler"))?;
    Ok(stop)
}

/// The end of work on `path` that was asked to stop.
pub(crate) fn interrupted(path: &Path, done: usize, total: usize) -> Error {
    let text = format!("interrupted after {done} of {total} pictures");
    Error::io(path)(io::Error::new(ErrorKind::Interrupted, text))
}

/// Whether this is [`interrupted`].
pub(crate) fn is_interruption(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::Interrupted)
}
