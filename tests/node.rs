//! The real binary over real DDS, with an independent peer (Cyclone DDS) as cameras and as readers.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use ood_segmentation::checkpoint;
use ood_segmentation::config::ClassTable;
use ood_segmentation::model::{Model, ModelConfig};
use serde_json::{Value, json};

/// Longest wait for anything; a loaded machine may need much of it, a working one a fraction.
const PATIENCE: Duration = Duration::from_secs(40);

/// Lines of a child's output, as they come.
fn lines(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    let read = move || {
        BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    };
    drop(thread::Builder::new().spawn(read).unwrap());
    receiver
}

struct Peer {
    child: Child,
    commands: ChildStdin,
    lines: Receiver<String>,
}

impl Peer {
    /// The peer in a domain, or `None` with a visible word where its Python packages are missing.
    fn start(domain: u16) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join(".venv/bin/python");
        let import = Command::new(&python).args(["-c", "import cyclonedds"]).output();
        if !import.is_ok_and(|output| output.status.success()) {
            eprintln!("SKIP: no DDS peer; `make test` installs tests/peers/requirements.txt in .venv");
            return None;
        }
        let mut child = Command::new(python)
            .arg(root.join("tests/peers/peer.py"))
            .env("ROS_DOMAIN_ID", domain.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (commands, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Some(Self { child, commands, lines: lines(output) })
    }

    fn tell(&mut self, command: &Value) {
        writeln!(self.commands, "{command}").unwrap();
    }

    /// The next line that `is_it` likes, among those that come in time.
    fn wait(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no {what} came"));
            let line: Value = serde_json::from_str(&line).unwrap();
            assert!(line.get("error").is_none(), "{line}");
            if is_it(&line) {
                return line;
            }
        }
    }

    /// Does the command and waits for its answer.
    fn ask(&mut self, command: &Value) {
        self.tell(command);
        self.wait("answer", |line| line.get("done") == command.get("do"));
    }

    fn read_status(&mut self, topic: &str) {
        let (reliable, latched) = (true, true);
        let command = json!({"do": "read", "topic": topic, "type": "status", "reliable": reliable,
            "latched": latched});
        self.ask(&command);
    }

    /// Publishes until the status of one of the pictures comes: from then on both ways are open.
    fn warm_up(&mut self, picture: &Value, status: &str) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            self.tell(picture);
            let wait = Duration::from_millis(500);
            while let Ok(line) = self.lines.recv_timeout(wait) {
                let line: Value = serde_json::from_str(&line).unwrap();
                assert!(line.get("error").is_none(), "{line}");
                if line["topic"] == status && line.get("state").is_some() {
                    // What is still under way may not be taken for an answer to a later picture.
                    while self.lines.recv_timeout(wait).is_ok() {}
                    return;
                }
            }
        }
        panic!("no status on {status}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

struct Node {
    child: Child,
    log: Receiver<String>,
    _folder: tempfile::TempDir,
}

/// A small network with fixed random weights.
fn weights(folder: &Path) -> PathBuf {
    let config = ModelConfig::named("tiny", "d-d", ClassTable::cityscapes()).unwrap();
    tch::manual_seed(7);
    let path = folder.join("tiny.safetensors");
    checkpoint::save(&Model::new(&config, tch::Device::Cpu).unwrap(), &path).unwrap();
    path
}

fn command(domain: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ood_segmentation_node"));
    command.env("ROS_DOMAIN_ID", domain.to_string()).stderr(Stdio::piped());
    command
}

impl Node {
    fn start(domain: u16, ros_args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let weights = format!("model.weights:={}", weights(folder.path()).display());
        let fixed = ["--ros-args", "-p", &weights, "-p", "model.device:=cpu", "-p", "plan:=single"];
        let mut child = command(domain).args(fixed).args(ros_args).spawn().unwrap();
        let log = lines(child.stderr.take().unwrap());
        Self { child, log, _folder: folder }
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Its exit status and what it logged.
    fn end(&mut self) -> (ExitStatus, String) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, self.log.iter().collect::<Vec<_>>().join("\n"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("the node did not end");
    }

    /// Resident memory, MB.
    fn memory(&self) -> u64 {
        let path = format!("/proc/{}/statm", self.child.id());
        let pages = std::fs::read_to_string(path).unwrap();
        pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096 / 1_000_000
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        self.child.wait().unwrap();
    }
}

fn picture(topic: &str, stamp: u32) -> Value {
    json!({"do": "image", "topic": topic, "height": 42, "width": 70, "encoding": "mono8", "fill": 90,
        "stamp": [stamp, 5], "frame_id": "front_optical"})
}

#[test]
fn every_output_comes_back_with_the_frames_own_header_under_remapped_names() {
    let Some(mut peer) = Peer::start(30) else { return };
    let remaps = ["-r", "__ns:=/car", "-r", "camera/image_raw:=/front", "-r", "camera/ood/image:=mask"];
    let mut node = Node::start(30, &remaps);
    let outputs = [
        ("/car/camera/semantic/image", "image", "mono8", 42 * 70),
        ("/car/camera/semantic/confidence", "image", "mono8", 42 * 70),
        ("/car/mask", "image", "mono8", 42 * 70),
        ("/car/camera/ood/score", "image", "32FC1", 4 * 42 * 70),
        ("/car/camera/overlay/image", "image", "rgb8", 3 * 42 * 70),
        ("/car/camera/semantic/image/compressed", "compressed", "mono8; png compressed ", 0),
        ("/car/mask/compressed", "compressed", "mono8; png compressed ", 0),
        ("/car/camera/overlay/image/compressed", "compressed", "rgb8; jpeg compressed bgr8", 0),
    ];
    for (topic, kind, ..) in outputs {
        peer.ask(&json!({"do": "read", "topic": topic, "type": kind}));
    }
    peer.read_status("/car/camera/status");
    peer.warm_up(&picture("/front", 1), "/car/camera/status");
    peer.tell(&picture("/front", 77));
    let mut missing: Vec<_> = outputs.iter().collect();
    let status = peer.wait("status after all outputs", |line| {
        let is_new = line["stamp"] == json!([77, 5]) && line["frame_id"] == "front_optical";
        missing.retain(|(topic, _, format, length)| {
            let is_it = is_new && line["topic"] == *topic;
            if is_it && *length > 0 {
                assert_eq!((&line["height"], &line["width"]), (&json!(42), &json!(70)), "{line}");
                assert_eq!(line["step"].as_u64().unwrap() * 42, *length, "{line}");
                assert_eq!((&line["encoding"], &line["length"]), (&json!(format), &json!(length)));
            } else if is_it {
                assert_eq!(line["format"], *format);
            }
            !is_it
        });
        is_new && line["topic"] == "/car/camera/status" || missing.is_empty()
    });
    let _ = status;
    node.signal("-INT");
    assert!(node.end().0.success());
}
