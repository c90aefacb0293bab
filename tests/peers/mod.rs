//! The node's binary and its peer (Cyclone DDS) as children of a test.
#![allow(dead_code, reason = "no test file needs all of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use ood_segmentation::checkpoint;
use ood_segmentation::config::ClassTable;
use ood_segmentation::image::{Image, Limits};
use ood_segmentation::model::{Model, ModelConfig, Precision, Score};
use ood_segmentation::obstacle::ObstacleConfig;
use ood_segmentation::pipeline::{Pipeline, PipelineConfig};
use ood_segmentation::window::Plan;
use serde_json::{Value, json};

/// Longest wait for anything; a loaded machine may need much of it, a working one a fraction.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Lines of a child's output, as they come.
pub(crate) fn lines(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    let read = move || {
        BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    };
    drop(thread::Builder::new().spawn(read).unwrap());
    receiver
}

pub(crate) struct Peer {
    pub(crate) child: Child,
    commands: ChildStdin,
    pub(crate) lines: Receiver<String>,
}

impl Peer {
    /// The peer in a domain, or `None` with a visible word where its Python packages are missing.
    pub(crate) fn start(domain: u16) -> Option<Self> {
        Self::launch(domain, "", &[])
    }

    /// With this configuration of Cyclone, its XML.
    pub(crate) fn start_with(domain: u16, cyclone: &str) -> Option<Self> {
        Self::launch(domain, cyclone, &[])
    }

    /// The same, started by another program, such as `nsenter`.
    pub(crate) fn start_in(domain: u16, wrap: &[&str]) -> Option<Self> {
        Self::launch(domain, "", wrap)
    }

    fn launch(domain: u16, cyclone: &str, wrap: &[&str]) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join(".venv/bin/python");
        let import = Command::new(&python).args(["-c", "import cyclonedds"]).output();
        if !import.is_ok_and(|output| output.status.success()) {
            eprintln!(
                "SKIP: no DDS peer; `make test` installs tests/peers/requirements.txt in .venv"
            );
            return None;
        }
        let mut command = Command::new(python);
        command.arg(root.join("tests/peers/peer.py"));
        let mut child = wrapped(command, wrap)
            .env("ROS_DOMAIN_ID", domain.to_string())
            .env("CYCLONEDDS_URI", cyclone)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (commands, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Some(Self { child, commands, lines: lines(output) })
    }

    pub(crate) fn tell(&mut self, command: &Value) {
        writeln!(self.commands, "{command}").unwrap();
    }

    /// The next line that `is_it` likes, among those that come in time.
    pub(crate) fn wait(&self, what: &str, mut is_it: impl FnMut(&Value) -> bool) -> Value {
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
    pub(crate) fn ask(&mut self, command: &Value) {
        self.tell(command);
        self.wait("answer", |line| line.get("done") == command.get("do"));
    }

    pub(crate) fn read_status(&mut self, topic: &str) {
        let (reliable, latched) = (true, true);
        let command = json!({"do": "read", "topic": topic, "type": "status", "reliable": reliable,
            "latched": latched});
        self.ask(&command);
    }

    /// Repeats the command, each time a nanosecond later, until a line comes that `is_it` likes.
    /// Discovery ends on one side first, so what a new writer says at once may be lost.
    pub(crate) fn repeat(&mut self, command: &Value, is_it: impl Fn(&Value) -> bool) {
        let end = Instant::now() + PATIENCE;
        let wait = Duration::from_millis(500);
        let mut command = command.clone();
        while Instant::now() < end {
            self.tell(&command);
            if let Some(nanos) = command.pointer_mut("/stamp/1") {
                *nanos = json!(nanos.as_u64().unwrap() + 1);
            }
            while let Ok(line) = self.lines.recv_timeout(wait) {
                let line: Value = serde_json::from_str(&line).unwrap();
                assert!(line.get("error").is_none(), "{line}");
                if is_it(&line) {
                    // What is still under way may not be taken for an answer to a later command.
                    while self.lines.recv_timeout(wait).is_ok() {}
                    return;
                }
            }
        }
        panic!("nothing came of {command}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

pub(crate) struct Node {
    child: Child,
    log: Receiver<String>,
    folder: tempfile::TempDir,
}

/// A small network with fixed random weights, the same for all tests of a process: they are drawn once,
/// since tests run side by side and libtorch's generator is one for all.
pub(crate) fn weights(folder: &Path) -> PathBuf {
    static FILES: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    let endings = ["safetensors", "yaml"];
    let files = FILES.get_or_init(|| {
        let drawn = tempfile::tempdir().unwrap();
        let path = drawn.path().join("tiny.safetensors");
        let config = ModelConfig::named("tiny", "d-d", ClassTable::cityscapes()).unwrap();
        tch::manual_seed(7);
        checkpoint::save(&Model::new(&config, tch::Device::Cpu).unwrap(), &path).unwrap();
        endings.map(|ending| std::fs::read(path.with_extension(ending)).unwrap())
    });
    let path = folder.join("tiny.safetensors");
    for (ending, bytes) in endings.iter().zip(files) {
        std::fs::write(path.with_extension(ending), bytes).unwrap();
    }
    path
}

/// The scores of a picture's pixels, seen through one window, the least first.
pub(crate) fn sorted_scores(weights: &Path, image: &Image) -> Vec<f32> {
    let config = PipelineConfig {
        plan: Plan::Single,
        batch: 1,
        score: Score::Llr,
        ood_threshold: 0.0,
        obstacle: ObstacleConfig::default(),
        limits: Limits::default(),
    };
    let model = checkpoint::load(weights, tch::Device::Cpu, Precision::F32).unwrap();
    let maps = Pipeline::new(model, config).unwrap().scores(image, &[Score::Llr]).unwrap();
    let mut scores = maps.scores[0].1.clone();
    scores.sort_by(f32::total_cmp);
    scores
}

pub(crate) fn command(domain: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ood_segmentation_node"));
    command.env("ROS_DOMAIN_ID", domain.to_string()).stderr(Stdio::piped());
    command
}

/// The command with another program before it.
pub(crate) fn wrapped(command: Command, wrap: &[&str]) -> Command {
    let [program, args @ ..] = wrap else { return command };
    let mut outer = Command::new(program);
    outer.args(args).arg(command.get_program()).args(command.get_args());
    outer
}

/// A group of processes with so little memory; `None` with a visible word where there is none to be had.
pub(crate) struct MemoryGroup(PathBuf);

impl MemoryGroup {
    pub(crate) fn new(bytes: u64) -> Option<Self> {
        let name = format!("ood_segmentation_{}_{bytes}", std::process::id());
        let old = Path::new("/sys/fs/cgroup/memory");
        let (root, limit) = match old.is_dir() {
            true => (old, "memory.limit_in_bytes"),
            false => (Path::new("/sys/fs/cgroup"), "memory.max"),
        };
        let group = Self(root.join(name));
        let made = std::fs::create_dir(&group.0)
            .and_then(|()| std::fs::write(group.0.join(limit), bytes.to_string()));
        if let Err(error) = made {
            eprintln!("SKIP: no memory cgroup: {error}");
            return None;
        }
        Some(group)
    }

    /// What starts a program inside.
    pub(crate) fn wrap(&self) -> [String; 3] {
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", self.0.display());
        ["sh".into(), "-c".into(), enter]
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(5); // for its last process to be gone
        while std::fs::remove_dir(&self.0).is_err() && self.0.exists() && Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Node {
    pub(crate) fn start(domain: u16, ros_args: &[&str]) -> Self {
        Self::start_with(domain, ros_args, &[])
    }

    /// With these environment variables too.
    pub(crate) fn start_with(domain: u16, ros_args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start_in(domain, ros_args, env, &[])
    }

    /// Started by another program, such as `nsenter`, that becomes the node.
    pub(crate) fn start_in(
        domain: u16,
        ros_args: &[&str],
        env: &[(&str, &str)],
        wrap: &[&str],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let weights = format!("model.weights:={}", weights(folder.path()).display());
        let fixed = ["--ros-args", "-p", &weights, "-p", "model.device:=cpu", "-p", "plan:=single"];
        let mut command = wrapped(command(domain), wrap);
        command.envs(env.iter().copied()).env("ROS_DOMAIN_ID", domain.to_string());
        let mut child = command.args(fixed).args(ros_args).stderr(Stdio::piped()).spawn().unwrap();
        let log = lines(child.stderr.take().unwrap());
        Self { child, log, folder }
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// The weights that it runs with.
    pub(crate) fn weights(&self) -> PathBuf {
        self.folder.path().join("tiny.safetensors")
    }

    /// Its exit status and what it logged.
    pub(crate) fn end(&mut self) -> (ExitStatus, String) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, self.log.iter().collect::<Vec<_>>().join("\n"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("the node did not end: {:#?}", self.log.try_iter().collect::<Vec<_>>());
    }

    /// The next line of its log with this word, and what was logged before it.
    pub(crate) fn wait(&self, word: &str) -> (String, Vec<String>) {
        let end = Instant::now() + PATIENCE;
        let mut before = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.log.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("no `{word}` in {before:#?}"));
            if line.contains(word) {
                return (line, before);
            }
            before.push(line);
        }
    }

    /// Resident memory, MB.
    pub(crate) fn memory(&self) -> u64 {
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

pub(crate) fn is_status(line: &Value) -> bool {
    line.get("state").is_some()
}

pub(crate) fn picture(topic: &str, stamp: u32) -> Value {
    json!({"do": "image", "topic": topic, "height": 42, "width": 70, "encoding": "mono8", "fill": 90,
        "stamp": [stamp, 5], "frame_id": "front_optical"})
}

/// The Fast DDS peer, built where Debian's `libfastrtps-dev` is installed.
pub(crate) fn fast_dds(folder: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/fast_dds.cpp");
    let binary = folder.join("fast_dds");
    let built = Command::new("c++")
        .args(["-O1", "-std=c++17", "-o"])
        .args([&binary, &source])
        .args(["-lfastrtps", "-lfastcdr"])
        .output();
    let built = built.is_ok_and(|output| output.status.success());
    if !built {
        eprintln!("SKIP: no Fast DDS; apt install g++ libfastrtps-dev libfastcdr-dev");
    }
    built.then_some(binary)
}

/// What the steps of `tests/peers/params.py` brought; `None` where its Python packages are missing.
pub(crate) fn call_services(domain: u16, node: &str, steps: &Value) -> Option<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    let import = Command::new(&python).args(["-c", "import cyclonedds"]).output();
    if !import.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIP: no DDS peer; `make test` installs tests/peers/requirements.txt in .venv");
        return None;
    }
    let mut command = Command::new(python);
    command.arg(root.join("tests/peers/params.py")).args([node, &steps.to_string()]);
    let output = command.env("ROS_DOMAIN_ID", domain.to_string()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}
