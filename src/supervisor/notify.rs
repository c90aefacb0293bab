//! What systemd wants to hear (sd_notify): ready, alive, stopping; nothing where nobody listens.

use std::env;
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use super::Phase;

/// What is said of each phase.
const PHASES: [(Phase, &str); 5] = [
    (Phase::Loading, "STATUS=reading the weights"),
    (Phase::Testing, "STATUS=self-test"),
    (Phase::Joining, "STATUS=joining DDS"),
    (Phase::Running, "READY=1\nSTATUS=running"),
    (Phase::Stopping, "STOPPING=1\nSTATUS=stopping"),
];

/// The socket in `NOTIFY_SOCKET`.
#[derive(Debug, Default)]
pub(super) struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    every: Duration,
    phase: Option<Phase>,
    fed: Option<Instant>,
}

impl Notify {
    pub(super) fn from_env() -> Self {
        let connect = |name: &OsStr| {
            let address = match name.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
                _ => SocketAddr::from_pathname(name),
            };
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok((socket, address?))
        };
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let connected: std::io::Result<_> = connect(&name);
            connected.inspect_err(|error| log::warn!("NOTIFY_SOCKET {name:?}: {error}")).ok()
        });
        let limit = env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        // A third: one may be lost and one late.
        let every = limit.map_or(Duration::from_secs(1), |us: u64| Duration::from_micros(us / 3));
        Self { socket, every, ..Self::default() }
    }

    /// Tells a new phase, after those that were over before anybody looked.
    pub(super) fn phase(&mut self, now: Phase) {
        let before = self.phase.replace(now);
        for (phase, text) in PHASES {
            let is_new = before.is_none_or(|before| before < phase) && phase <= now;
            if is_new && (now != Phase::Stopping || phase == now) {
                self.send(text);
            }
        }
    }

    /// Feeds the watchdog when it is time; to be called only while everything is well.
    pub(super) fn alive(&mut self) {
        if self.fed.is_none_or(|fed| fed.elapsed() >= self.every) {
            self.fed = Some(Instant::now());
            self.send("WATCHDOG=1");
        }
    }

    /// Tells why the process ends.
    pub(super) fn failing(&self, why: &str) {
        self.send(&format!("STATUS={}", why.replace('\n', " ")));
    }

    fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.socket {
            // Nobody there, or no room: systemd's own clock decides.
            drop(socket.send_to_addr(text.as_bytes(), address));
        }
    }
}
