//! A panic in one line that a machine can read; and the end, where nobody would notice the thread's.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{panic, thread};

use serde_json::json;
use signal_hook::low_level::exit;

/// Reports every panic on stderr as one line of JSON. A panic of the main thread is for its caller to
/// survive; one of any other thread ends the process with exit code 70: without it the node would be
/// alive and deaf, or dumb.
pub fn report_panics() {
    panic::set_hook(Box::new(|info| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let backtrace = Backtrace::capture(); // RUST_BACKTRACE decides
        let backtrace =
            matches!(backtrace.status(), BacktraceStatus::Captured).then(|| backtrace.to_string());
        let line = json!({"panic": {
            "time": time.as_secs_f64(),
            "thread": name,
            "message": info.payload_as_str().unwrap_or("a panic without text"),
            "at": info.location().map(ToString::to_string),
            "version": env!("CARGO_PKG_VERSION"),
            "backtrace": backtrace,
        }});
        #[expect(clippy::print_stderr, reason = "logging may be what panicked")]
        {
            eprintln!("{line}");
        }
        if name != "main" {
            exit(70);
        }
    }));
}
