//! Rows 39, 71 and 80 to 96 of the fault catalogue: what happens to the process and around it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test tells what it measured")]

mod peers;

use std::fs::OpenOptions;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use peers::{MemoryGroup, Node, PATIENCE, Peer, command, is_status, lines, picture, weights};
use serde_json::{Value, json};

fn play(topic: &str, rate: u32) -> Value {
    let mut play = picture(topic, 1);
    play["do"] = json!("play");
    (play["rate"], play["seconds"]) = (json!(rate), json!(120));
    play
}

fn signal(node: &Child, name: &str) {
    let id = node.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

/// A running node of a domain on these weights, without any of the fixtures of [`Node`].
fn spawn(domain: u16, weights: &str, wrap: &[&str]) -> Child {
    let node = command(domain);
    let mut command = match wrap {
        [program, args @ ..] => {
            let mut wrapped = Command::new(program);
            wrapped.args(args).arg(node.get_program());
            wrapped.env("ROS_DOMAIN_ID", domain.to_string());
            wrapped
        }
        [] => node,
    };
    let weights = format!("model.weights:={weights}");
    let args = ["--ros-args", "-p", &weights, "-p", "model.device:=cpu", "-p", "plan:=single"];
    command.args(args).stderr(Stdio::null()).spawn().unwrap()
}

fn check(domain: u16, tamper: &str, wanted: &str) {
    let Some(mut peer) = Peer::start(domain) else { return };
    let _node = Node::start(domain, &[]);
    peer.ask(&json!({"do": "check", "mask": "/camera/ood/image", "status": "/camera/status",
        "tamper": tamper}));
    peer.tell(&play("/camera/image_raw", 10));
    for _ in 0..10 {
        let line = peer.wait("verdict", |line| line.get("verdict").is_some());
        assert_eq!(line["verdict"], wanted, "{line}");
        assert_eq!(line["trusted"], wanted == "OK", "{line}");
    }
}

#[test]
fn row_39_a_mask_fits_its_status() {
    check(110, "", "OK");
}

#[test]
fn row_39_a_mask_with_a_flipped_bit_is_seen() {
    check(111, "flip", "WRONG_CRC");
}

#[test]
fn row_39_a_replayed_mask_is_seen() {
    check(112, "replay", "REPEATED");
}

#[test]
fn row_71_no_gpu_is_exit_69_at_once_where_one_is_asked_for_and_an_error_where_not() {
    let folder = tempfile::tempdir().unwrap();
    let weights = format!("model.weights:={}", weights(folder.path()).display());
    let start = Instant::now();
    let args = ["--ros-args", "-p", &weights, "-p", "model.device:=cuda"];
    let output = command(113).args(args).output().unwrap();
    if output.status.code() != Some(69) {
        eprintln!("SKIP: there is a GPU");
        return;
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let Some(mut peer) = Peer::start(113) else { return };
    let _node = Node::start(113, &["-p", "model.device:=auto"]);
    peer.ask(&json!({"do": "read", "topic": "/diagnostics", "type": "diagnostics",
        "reliable": true}));
    peer.wait("error about the CPU", |line| {
        let statuses = line["status"].as_array().cloned().unwrap_or_default();
        let model = statuses.into_iter().find(|s| s["name"] == "ood_segmentation: model");
        model.is_some_and(|model| {
            model["level"] == 2 && model["message"].as_str().unwrap().contains("running on the CPU")
        })
    });
}

#[test]
fn row_80_ready_is_said_after_the_self_test_and_the_watchdog_is_fed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let env = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "3000000")];
    let mut node = Node::start_with(114, &[], &env);
    let next = || {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let mut said = vec![next()];
    while !said.last().unwrap().contains("READY=1") {
        said.push(next());
    }
    let start = ["STATUS=reading the weights", "STATUS=self-test", "STATUS=joining DDS"];
    assert!(said.len() == 4 && said[..3] == start, "{said:?}");
    let mut fed = Instant::now();
    for _ in 0..5 {
        assert_eq!(next(), "WATCHDOG=1");
        assert!(fed.elapsed() < Duration::from_secs(3), "{:?}", fed.elapsed());
        fed = Instant::now();
    }
    node.signal("-TERM");
    let end = Instant::now() + PATIENCE;
    while !next().contains("STOPPING=1") {
        assert!(Instant::now() < end);
    }
    assert!(node.end().0.success());
}

#[test]
#[ignore = "slow: make faults"]
fn row_81_masks_that_are_full_for_a_minute_are_a_warning() {
    let Some(mut peer) = Peer::start(115) else { return };
    let node = Node::start(115, &["-p", "ood_threshold:=-1000.0"]);
    node.wait("is running");
    peer.ask(&json!({"do": "read", "topic": "/diagnostics", "type": "diagnostics",
        "reliable": true}));
    let mut warned = false;
    for stamp in 1..200 {
        // Pictures whose classes differ.
        let sizes = [[42, 70], [70, 42]][stamp % 2];
        peer.tell(&json!({"do": "image", "topic": "/camera/image_raw", "height": sizes[0],
            "width": sizes[1], "encoding": "mono8", "fill": stamp * 37 % 256, "stamp": [stamp, 5]}));
        let end = Instant::now() + Duration::from_millis(500);
        while let Ok(line) = peer.lines.recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            let line: Value = serde_json::from_str(&line).unwrap();
            warned |= line.to_string().contains("100 % of the pixels above ood_threshold");
        }
        if warned {
            break;
        }
    }
    assert!(warned);
}

#[test]
fn row_83_sigterm_at_any_time_ends_it_within_two_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let weights = weights(folder.path()).display().to_string();
    let mut slowest = Duration::ZERO;
    // While it loads, tests, joins and runs; the first moments belong to the system's loader.
    for delay in [400, 600, 800, 1000, 1300, 1600, 2000, 2500, 3000, 4000] {
        let mut node = spawn(116, &weights, &[]);
        thread::sleep(Duration::from_millis(delay));
        let threads = std::fs::read_dir(format!("/proc/{}/task", node.id())).unwrap();
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
        let listens = threads.flatten().any(|task| name(task).is_ok_and(|n| n == "signals\n"));
        let asked = Instant::now();
        signal(&node, "-TERM");
        let status = node.wait().unwrap();
        slowest = slowest.max(asked.elapsed());
        let by_default = status.signal() == Some(15) && !listens; // before `main`
        assert!(status.success() || by_default, "{status} after {delay} ms");
    }
    eprintln!("slowest end after SIGTERM: {slowest:.2?}");
    assert!(slowest <= Duration::from_secs(2), "{slowest:?}");
}

/// Runs a node, asks it to end at a moment that `random` says, and waits for it.
fn ended(domain: u16, weights: &str, random: u64) -> Duration {
    let mut node = spawn(domain, weights, &[]);
    thread::sleep(Duration::from_millis(500 + random % 2500));
    let asked = Instant::now();
    signal(&node, "-TERM");
    let status = node.wait().unwrap();
    assert!(status.success() || status.signal() == Some(15), "{status}");
    asked.elapsed()
}

#[test]
#[ignore = "slow: make faults"]
fn row_83_a_hundred_sigterms_at_random_times() {
    let folder = tempfile::tempdir().unwrap();
    let weights = weights(folder.path()).display().to_string();
    let kill = |seed: u64| {
        let mut random = seed;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed);
            random >> 33
        };
        let domain = 124 + u16::try_from(seed / 2).unwrap(); // two nodes of a name would end each other
        (0..25).map(|_| ended(domain, &weights, next())).collect::<Vec<_>>()
    };
    let mut took: Vec<Duration> = thread::scope(|scope| {
        let four = [1, 3, 5, 7].map(|seed| scope.spawn(move || kill(seed)));
        four.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    took.sort();
    eprintln!(
        "SIGTERM to end, of {}: median {:.2?}, p99 {:.2?}, longest {:.2?}",
        took.len(),
        took[50],
        took[98],
        took[99]
    );
    assert!(took[98] <= Duration::from_secs(2) && took[99] <= Duration::from_secs(5), "{took:?}");
}

#[test]
fn row_83_sigterm_amid_frames_ends_it_within_two_seconds() {
    let Some(mut peer) = Peer::start(117) else { return };
    peer.read_status("/camera/status");
    let mut play = play("/camera/image_raw", 20);
    (play["height"], play["width"]) = (json!(280), json!(560));
    let mut started = false;
    for _ in 0..3 {
        let mut node = Node::start(117, &["-p", "plan:=paper"]);
        if !started {
            peer.tell(&play);
            started = true;
        }
        peer.wait("frame", is_status);
        let asked = Instant::now();
        node.signal("-TERM");
        let (status, log) = node.end();
        assert!(status.success(), "{status} {log}");
        assert!(asked.elapsed() <= Duration::from_secs(2), "{:?}", asked.elapsed());
        while peer.lines.try_recv().is_ok() {}
    }
}

/// Kills a node so many times and starts the next: the longest time from running to the first mask.
fn killed_and_started(domain: u16, rounds: usize) -> Option<Duration> {
    let mut peer = Peer::start(domain)?;
    peer.read_status("/camera/status");
    let temporary = tempfile::tempdir().unwrap();
    let names = |folder: &str| {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let (shared, mut slowest) = (names("/dev/shm"), Duration::ZERO);
    for round in 0..rounds {
        let env = [("TMPDIR", temporary.path().to_str().unwrap())];
        let node = Node::start_with(domain, &[], &env);
        if round == 0 {
            peer.tell(&play("/camera/image_raw", 10));
        }
        node.wait("is running");
        let running = Instant::now();
        peer.wait("frame", |line| is_status(line) && line["state"] == 0);
        slowest = slowest.max(running.elapsed());
        node.signal("-KILL");
        drop(node);
        while peer.lines.recv_timeout(Duration::from_millis(300)).is_ok() {}
        assert!(names(temporary.path().to_str().unwrap()).is_empty(), "a file was left behind");
        assert!(names("/dev/shm").is_subset(&shared), "shared memory was left behind");
    }
    eprintln!("slowest of {rounds} first masks: {slowest:.2?} after the node ran");
    assert!(slowest <= Duration::from_secs(2), "{slowest:?}");
    Some(slowest)
}

#[test]
fn row_84_kill_9_leaves_nothing_that_keeps_the_next_one_from_starting() {
    killed_and_started(118, 3);
}

#[test]
#[ignore = "slow: make faults"]
fn row_84_twenty_kills_and_twenty_starts() {
    killed_and_started(128, 20);
}

#[test]
fn row_87_no_lock_is_shared_between_threads() {
    let mut folders = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("src/fault.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let locks = ["Mutex", "RwLock", "Condvar"].iter().any(|lock| text.contains(lock));
                assert!(!locks, "{} has a lock that a panic can poison", path.display());
                files += 1;
            }
        }
    }
    assert!(files > 100, "{files} files");
}

#[test]
fn row_89_bombs_in_300_mb_are_refused_and_the_node_lives() {
    let Some(group) = MemoryGroup::new(300_000_000) else { return };
    let Some(mut peer) = Peer::start(129) else { return };
    let wrap = group.wrap();
    let mut node = Node::start_in(129, &[], &[], &[&*wrap[0], &*wrap[1], &*wrap[2]]);
    peer.read_status("/camera/status");
    peer.repeat(&picture("/camera/image_raw", 1), is_status);
    for stamp in 10..30_u32 {
        let mut bomb = picture("/camera/image_raw", stamp);
        (bomb["height"], bomb["width"]) = (json!(65535), json!(65535)); // 4 GB, and 100 bytes of them
        bomb["length"] = json!(100);
        peer.tell(&bomb);
        let status = peer.wait("refusal", |line| line["stamp"] == json!([stamp, 5]));
        assert_eq!(status["reason"], "size_limit", "{status}");
    }
    peer.tell(&picture("/camera/image_raw", 40));
    let status = peer.wait("frame after", |line| line["stamp"] == json!([40, 5]));
    assert_eq!(status["state"], 0, "{status}");
    node.signal("-TERM");
    assert!(node.end().0.success());
}

#[test]
fn row_90_few_descriptors_are_no_reason_to_spin() {
    let folder = tempfile::tempdir().unwrap();
    let weights = weights(folder.path()).display().to_string();
    for limit in ["16", "24", "32", "64"] {
        let limited = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        let mut node = spawn(119, &weights, &["sh", "-c", &limited]);
        let end = Instant::now() + Duration::from_secs(8);
        let mut ended = None;
        while ended.is_none() && Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
            ended = node.try_wait().unwrap();
        }
        eprintln!("{limit} descriptors: {ended:?}");
        let Some(status) = ended else {
            let ticks = || {
                let stat = format!("/proc/{}/stat", node.id());
                let stat = std::fs::read_to_string(stat).unwrap();
                let fields: Vec<_> = stat.rsplit(')').next().unwrap().split(' ').collect();
                fields[12..14].iter().map(|text| text.parse::<u64>().unwrap()).sum::<u64>()
            };
            let before = ticks();
            thread::sleep(Duration::from_secs(2));
            let busy = ticks() - before;
            signal(&node, "-KILL");
            node.wait().unwrap();
            assert!(busy < 100, "{busy} ticks in 2 s with {limit} descriptors");
            continue;
        };
        let code = status.code();
        assert!([66, 70, 75, 127].map(Some).contains(&code), "{limit}: {status}");
    }
}

#[test]
fn row_91_a_full_disk_under_the_log_does_not_stop_the_masks() {
    let Some(mut peer) = Peer::start(120) else { return };
    let folder = tempfile::tempdir().unwrap();
    let weights = format!("model.weights:={}", weights(folder.path()).display());
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let args = ["--ros-args", "-p", &weights, "-p", "model.device:=cpu", "-p", "plan:=single"];
    let mut node = command(120).args(args).stderr(full).spawn().unwrap();
    peer.read_status("/camera/status");
    peer.repeat(&picture("/camera/image_raw", 1), is_status);
    let mut bad = picture("/camera/image_raw", 2);
    bad["encoding"] = json!("rgb42"); // calls for a line in the log
    peer.tell(&bad);
    peer.wait("bad frame", |line| is_status(line) && line["reason"] == "encoding");
    peer.tell(&picture("/camera/image_raw", 3));
    let status = peer.wait("frame after", is_status);
    assert_eq!(status["state"], 0, "{status}");
    signal(&node, "-TERM");
    assert!(node.wait().unwrap().success());
}

#[test]
fn row_92_a_camera_of_bad_frames_does_not_flood_the_log() {
    let Some(mut peer) = Peer::start(121) else { return };
    let mut node = Node::start(121, &[]);
    node.wait("is running");
    peer.read_status("/camera/status");
    let mut bad = play("/camera/image_raw", 50);
    bad["encoding"] = json!("rgb42");
    peer.tell(&bad);
    for _ in 0..150 {
        peer.wait("bad frame", |line| is_status(line) && line["reason"] == "encoding");
    }
    node.signal("-TERM");
    let (_, log) = node.end();
    let lines = log.lines().count();
    assert!(lines < 12, "{log}");
}

#[test]
fn row_95_a_read_only_disk_and_no_home_are_no_hindrance() {
    let Some(mut peer) = Peer::start(122) else { return };
    let folder = tempfile::tempdir().unwrap();
    let weights = weights(folder.path()).display().to_string();
    let read_only = "mount -o remount,bind,ro / || exit 99; touch /read-only 2>/dev/null && exit 98; \
                     unset HOME ROS_HOME TMPDIR XDG_CACHE_HOME; cd /; exec \"$0\" \"$@\"";
    let mut node = spawn(122, &weights, &["unshare", "-m", "sh", "-c", read_only]);
    thread::sleep(Duration::from_millis(300));
    if node.try_wait().unwrap().is_some_and(|status| [Some(99), Some(1)].contains(&status.code())) {
        eprintln!("SKIP: this user cannot mount");
        return;
    }
    peer.read_status("/camera/status");
    peer.repeat(&picture("/camera/image_raw", 1), |line| is_status(line) && line["state"] == 0);
    signal(&node, "-TERM");
    assert!(node.wait().unwrap().success());
}

/// Endless work that is killed when this is dropped.
struct Busy(Vec<Child>);

impl Busy {
    /// On every core.
    fn everywhere() -> Self {
        let cores = thread::available_parallelism().unwrap().get();
        let busy = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        Self((0..cores).map(|_| busy()).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

#[test]
#[ignore = "slow: make faults"]
fn row_93_with_busy_cores_there_is_a_status_every_second_and_a_warning() {
    let Some(mut peer) = Peer::start(130) else { return };
    peer.read_status("/camera/status");
    peer.ask(&json!({"do": "read", "topic": "/diagnostics", "type": "diagnostics",
        "reliable": true}));
    peer.tell(&play("/camera/image_raw", 5));
    // What a frame takes while there is nothing else to do decides what is too long.
    let usual = {
        let _node = Node::start(130, &[]);
        let mut ages: Vec<f64> =
            (0..25).map(|_| peer.wait("frame", is_status)["age_ms"].as_f64().unwrap()).collect();
        ages.sort_by(f64::total_cmp);
        ages[20]
    };
    let budget = format!("budget_ms:={:.0}", 1.25 * usual + 1.0);
    // Less than its share of the cores.
    let node = Node::start_in(130, &["-p", &budget], &[], &["nice", "-n", "5"]);
    node.wait("is running");
    peer.wait("frame", is_status);
    let _busy = Busy::everywhere();
    let (end, mut last, mut longest) = (Instant::now() + PATIENCE, Instant::now(), Duration::ZERO);
    let (mut warned, mut oldest, mut frames) = (false, 0_f64, 0);
    while Instant::now() < end && frames < 75 {
        let line = peer.wait("line", |_| true);
        if is_status(&line) {
            longest = longest.max(last.elapsed());
            (last, frames) = (Instant::now(), frames + 1);
            oldest = oldest.max(line["age_ms"].as_f64().unwrap());
        }
        warned |= line.to_string().contains("frames take longer than budget_ms");
    }
    eprintln!(
        "usually {usual:.0} ms; with busy cores {oldest:.0} ms at most, longest pause {longest:.2?}"
    );
    assert!(longest < Duration::from_secs(1) && warned, "{longest:?}, a warning: {warned}");
}

/// What can be said of a leak within two minutes; `make soak MINUTES=1440` takes the catalogue's day.
#[test]
#[ignore = "slow: make faults"]
fn row_94_two_minutes_of_overload_and_bad_pictures_leave_memory_threads_and_files_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let soak = Command::new(env!("CARGO_BIN_EXE_ood_seg"))
        .args(["soak", "--minutes", "2", "--out", folder.path().to_str().unwrap()])
        .output()
        .unwrap();
    assert!(soak.status.success(), "{}", String::from_utf8_lossy(&soak.stderr));
    let report = std::fs::read(folder.path().join("soak.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    for key in ["memory_growth_percent", "drop_share", "segmented", "refused"] {
        eprintln!("{key}: {}", report[key]);
    }
    assert_eq!(report["missing_unexplained"], 0, "{report}");
    for what in ["threads", "descriptors"] {
        let [least, most] = [0, 1].map(|i| report[what][i].as_f64().unwrap());
        assert!(most - least <= 2.0, "{report}"); // a connection that comes and goes
    }
    assert!(report["memory_growth_percent"].as_f64().unwrap() < 2.0, "{report}");
}

/// Process id of the node of a running `ood_seg`.
fn node_of(ood_seg: &Child) -> String {
    let children = Command::new("pgrep").args(["-P", &ood_seg.id().to_string()]).output().unwrap();
    String::from_utf8(children.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_soak_whose_node_is_killed_still_tells_what_it_measured_and_how_the_node_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut soak = Command::new(env!("CARGO_BIN_EXE_ood_seg"))
        .args(["soak", "--minutes", "1", "--out", folder.path().to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = lines(soak.stderr.take().unwrap());
    let next = || log.recv_timeout(3 * PATIENCE).unwrap(); // it draws its pictures first
    let warning = std::iter::repeat_with(next).find(|line| line.starts_with("[WARN]")).unwrap();
    while !next().contains("pictures a second") {}
    let began = Instant::now();
    thread::sleep(Duration::from_secs(3)); // of which it has to tell
    let node = node_of(&soak);
    assert!(Command::new("kill").args(["-KILL", &node]).status().unwrap().success());
    let complaint = log.iter().last().unwrap(); // until it ends
    assert_eq!(soak.wait().unwrap().code(), Some(2), "{complaint}");
    assert!(complaint.contains("the node ended at second "), "{complaint}");

    let report = std::fs::read(folder.path().join("soak.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let early = &report["ended_early"];
    let second = early["second"].as_f64().unwrap();
    assert!(second > 2.0 && second <= began.elapsed().as_secs_f64() + 0.5, "{report}");
    assert_eq!((&early["signal"], &early["exit_code"]), (&json!(9), &Value::Null), "{report}");
    assert!(early["log"].as_array().unwrap().contains(&json!(warning)), "{report}");
    assert!(report["segmented"].as_u64().unwrap() > 0, "{report}");
    assert!(report["memory_mib"]["at_the_end"].as_f64().unwrap() > 0.0, "{report}");
    let picture = std::fs::read(folder.path().join("soak.png")).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
}

#[test]
#[ignore = "slow: make faults"]
fn row_96_a_node_that_was_frozen_goes_on_with_fresh_frames() {
    let Some(mut peer) = Peer::start(123) else { return };
    let mut node = Node::start(123, &[]);
    peer.read_status("/camera/status");
    let mut play = play("/camera/image_raw", 10);
    play["now"] = json!(true);
    peer.tell(&play);
    peer.wait("frame before", |line| is_status(line) && line["state"] == 0);
    node.signal("-STOP");
    thread::sleep(Duration::from_secs(15));
    while peer.lines.try_recv().is_ok() {}
    node.signal("-CONT");
    let resumed = Instant::now();
    let mut stale = 0;
    for frame in 0..30 {
        let status = peer.wait("status", is_status);
        stale += u32::from(status["reason"] == "stale");
        if status["state"] == 0 {
            // As old as max_age_ms allows when it came, and no older.
            let came = status["latency_ms"].as_f64().unwrap() - status["age_ms"].as_f64().unwrap();
            assert!(came <= 500.0, "{status}");
        }
        if frame == stale && status["state"] == 0 {
            let took = resumed.elapsed();
            eprintln!("first fresh mask {took:.2?} after it woke up, {stale} stale frames refused");
            assert!(took <= Duration::from_secs(3), "{took:?}");
        }
    }
    assert!(stale < 30);
    node.signal("-TERM");
    let (status, log) = node.end();
    assert!(status.success(), "{log}");
}
