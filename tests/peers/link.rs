//! A node on one side of a link and its peers on the other: two network namespaces, or three with a bad
//! link between them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use crate::peers::{PATIENCE, Peer, lines};

/// Network namespaces that live as long as this.
pub(crate) struct Link {
    sides: Vec<Child>,
    /// What forwards between the two, where something does.
    middle: Option<(Child, ChildStdin, Receiver<String>)>,
}

/// The node's side and the peers' side.
pub(crate) const NODE: usize = 0;
pub(crate) const PEER: usize = 1;
/// The name of the device on either side.
pub(crate) const DEVICE: &str = "wire0";

impl Link {
    /// Both sides up, with one wire; `None` with a visible word where this user may not.
    pub(crate) fn new() -> Option<Self> {
        let link =
            Self { sides: (0..2).map(|_| namespace()).collect::<Option<_>>()?, middle: None };
        let [near, far] = [NODE, PEER].map(|side| link.sides[side].id().to_string());
        ip(&[
            "link", "add", DEVICE, "netns", &near, "type", "veth", "peer", "name", DEVICE, "netns",
            &far,
        ]);
        link.address(NODE, "10.9.0.1/24");
        link.address(PEER, "10.9.0.2/24");
        Some(link)
    }

    /// As [`new`](Self::new), with a program between the two sides that can lose packets.
    pub(crate) fn bad() -> Option<Self> {
        let mut link =
            Self { sides: (0..3).map(|_| namespace()).collect::<Option<_>>()?, middle: None };
        let middle = link.sides[2].id().to_string();
        for (side, wire) in [(NODE, "near"), (PEER, "far")] {
            let id = link.sides[side].id().to_string();
            ip(&[
                "link", "add", DEVICE, "netns", &id, "type", "veth", "peer", "name", wire, "netns",
                &middle,
            ]);
            link.ip(2, &["link", "set", wire, "up"]);
        }
        link.address(NODE, "10.9.0.1/24");
        link.address(PEER, "10.9.0.2/24");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/link.py");
        for side in [NODE, PEER] {
            let mut command = link.command(side, "python3");
            assert!(
                command.arg(&script).args(["--no-offload", DEVICE]).status().unwrap().success()
            );
        }
        let mut command = link.command(2, "python3");
        command.arg(&script).args(["near", "far"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdin, answers) = (child.stdin.take().unwrap(), lines(child.stdout.take().unwrap()));
        assert_eq!(answers.recv_timeout(PATIENCE).unwrap(), "ready");
        link.middle = Some((child, stdin, answers));
        Some(link)
    }

    /// How bad the link is from now on; returns packets given and lost so far.
    pub(crate) fn set(&mut self, loss: f64, delay_ms: u32, jitter_ms: u32, twice: f64) -> [u64; 2] {
        let (_, stdin, answers) = self.middle.as_mut().unwrap();
        writeln!(stdin, "{loss} {delay_ms} {jitter_ms} {twice}").unwrap();
        let answer = answers.recv_timeout(PATIENCE).unwrap();
        let mut numbers = answer.split(' ').map(|number| number.parse().unwrap());
        [numbers.next().unwrap(), numbers.next().unwrap()]
    }

    /// A command of a side.
    pub(crate) fn command(&self, side: usize, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.sides[side].id().to_string(), "-n", program]);
        command
    }

    /// `ip` with these arguments on a side.
    pub(crate) fn ip(&self, side: usize, args: &[&str]) {
        assert!(self.command(side, "ip").args(args).status().unwrap().success(), "ip {args:?}");
    }

    /// Brings a side's device up with this address.
    pub(crate) fn address(&self, side: usize, address: &str) {
        self.ip(side, &["link", "set", "lo", "up"]);
        self.ip(side, &["address", "flush", "dev", DEVICE]);
        self.ip(side, &["address", "add", address, "dev", DEVICE]);
        self.up(side);
    }

    pub(crate) fn down(&self, side: usize) {
        self.ip(side, &["link", "set", DEVICE, "down"]);
    }

    /// The route of multicast goes with the device.
    pub(crate) fn up(&self, side: usize) {
        self.ip(side, &["link", "set", DEVICE, "up"]);
        self.ip(side, &["route", "replace", "239.255.0.0/16", "dev", DEVICE]);
    }

    /// A peer on its side.
    pub(crate) fn peer(&self, domain: u16) -> Option<Peer> {
        let id = self.sides[PEER].id().to_string();
        Peer::start_in(domain, &["nsenter", "-t", &id, "-n"])
    }

    /// What starts the node on its side.
    pub(crate) fn node(&self) -> [String; 4] {
        ["nsenter".into(), "-t".into(), self.sides[NODE].id().to_string(), "-n".into()]
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let middle = self.middle.take().map(|(child, ..)| child);
        for mut child in middle.into_iter().chain(self.sides.drain(..)) {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A process with a network of its own, and nothing in it.
fn namespace() -> Option<Child> {
    let mut child =
        Command::new("unshare").args(["-n", "sleep", "1000"]).stderr(Stdio::null()).spawn().ok()?;
    let network = |id: &str| std::fs::read_link(format!("/proc/{id}/ns/net")).ok();
    let (id, end) = (child.id().to_string(), Instant::now() + Duration::from_secs(5));
    while network(&id) == network("self") {
        if child.try_wait().unwrap().is_some() || Instant::now() > end {
            eprintln!("SKIP: this user may not make network namespaces");
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Some(child)
}

fn ip(args: &[&str]) {
    assert!(Command::new("ip").args(args).status().unwrap().success(), "ip {args:?}");
}
