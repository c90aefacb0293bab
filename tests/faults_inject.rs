//! Rows of the fault catalogue whose fault lies inside the process: planted by src/fault.rs.
//!
//! `cargo test --features fault-injection --test faults_inject`
#![cfg(feature = "fault-injection")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test tells what it measured")]

mod peers;

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use ood_segmentation::image::Image;
use peers::{MemoryGroup, Node, Peer, command, is_status, picture, sorted_scores, weights};
use serde_json::{Value, json};

/// A node with this fault and a camera at 10 Hz, whose stamps count from 1000 on.
fn play(domain: u16, fault: &str, args: &[&str]) -> Option<(Node, Peer)> {
    let mut peer = Peer::start(domain)?;
    let node = Node::start_with(domain, args, &[("OOD_SEG_FAULT", fault)]);
    peer.read_status("/camera/status");
    read(&mut peer, "/diagnostics", "diagnostics");
    node.wait("is running");
    let mut play = picture("/camera/image_raw", 1000);
    play["do"] = json!("play");
    (play["rate"], play["seconds"]) = (json!(10), json!(60));
    peer.tell(&play);
    Some((node, peer))
}

fn read(peer: &mut Peer, topic: &str, kind: &str) {
    peer.ask(&json!({"do": "read", "topic": topic, "type": kind, "reliable": true}));
}

/// Level and message of a diagnostic status.
fn level(line: &Value, name: &str) -> Option<(u64, String)> {
    let name = format!("ood_segmentation: {name}");
    let statuses = line.get("status")?.as_array()?;
    let status = statuses.iter().find(|status| status["name"] == *name)?;
    Some((status["level"].as_u64()?, status["message"].as_str()?.to_owned()))
}

fn wait_level(peer: &Peer, name: &str, wanted: u64) -> String {
    let mut message = String::new();
    peer.wait(&format!("{name} at level {wanted}"), |line| {
        let Some((level, text)) = level(line, name) else { return false };
        message = text;
        level == wanted
    });
    message
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or(-1)
}

#[test]
fn row_00_the_build_refuses_to_run_by_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let weights = format!("model.weights:={}", weights(folder.path()).display());
    let mut node = command(150);
    let output = node.env_remove("OOD_SEG_FAULT").args(["--ros-args", "-p", &weights]).output();
    let output = output.unwrap();
    assert_eq!(code(output.status), 78);
    assert!(String::from_utf8_lossy(&output.stderr).contains("OOD_SEG_FAULT"));
}

#[test]
fn row_72_no_memory_at_start_is_exit_69_with_what_was_asked_for() {
    let mut node = Node::start_with(151, &[], &[("OOD_SEG_FAULT", "memory@0..")]);
    let (status, log) = node.end();
    assert_eq!(code(status), 69, "{log}");
    assert!(log.contains("2.00 GiB") && log.contains("512.00 MiB is free"), "{log}");
}

#[test]
fn row_73_no_memory_costs_a_frame_and_three_in_a_row_the_process() {
    let Some((mut node, peer)) = play(152, "memory@10", &[]) else { return };
    let lost = peer.wait("lost frame", |line| is_status(line) && line["state"] == 1);
    assert_eq!(lost["reason"], "inference", "{lost}");
    assert!(lost["text"].as_str().unwrap().contains("out of memory"), "{lost}");
    let next = peer.wait("frame after", is_status);
    assert_eq!(next["state"], 0, "{next}");
    node.signal("-TERM");
    assert_eq!(code(node.end().0), 0);

    let Some((mut node, peer)) = play(153, "memory@10..", &[]) else { return };
    peer.wait("first lost frame", |line| is_status(line) && line["state"] == 1);
    let (status, log) = node.end();
    assert_eq!(code(status), 71, "{log}");
}

#[test]
fn row_74_errors_without_end_are_not_served() {
    let Some((mut node, peer)) = play(154, "error@10..", &[]) else { return };
    peer.wait("first lost frame", |line| is_status(line) && line["state"] == 1);
    let first = Instant::now();
    let (status, log) = node.end();
    let took = first.elapsed();
    eprintln!("ended {took:.2?} after the first error");
    assert_eq!(code(status), 71, "{log}");
    assert!(log.contains("illegal memory access"), "{log}");
}

#[test]
fn row_75_and_88_a_hang_is_told_and_ends_the_process() {
    let Some((mut node, peer)) = play(155, "hang@20..", &[]) else { return };
    let mut last = Instant::now();
    peer.wait("diagnostics of the hang", |line| {
        if is_status(line) {
            last = Instant::now();
        }
        level(line, "process").is_some_and(|(level, _)| level == 2)
    });
    let told = last.elapsed();
    let (status, log) = node.end();
    eprintln!("told {told:.2?} after the last status");
    assert_eq!(code(status), 71, "{log}");
    assert!(log.contains("a frame has been in work for"), "{log}");
}

#[test]
fn row_76_results_that_are_not_numbers_are_not_published_and_three_call_for_a_test() {
    let Some((mut node, peer)) = play(156, "nan@10", &[]) else { return };
    let lost = peer.wait("lost frame", |line| is_status(line) && line["state"] == 1);
    assert_eq!((&lost["reason"], &lost["ood_crc32"]), (&json!("not_finite"), &json!(0)), "{lost}");
    assert_eq!(peer.wait("frame after", is_status)["state"], 0);
    node.signal("-TERM");
    assert_eq!(code(node.end().0), 0);

    let Some((mut node, peer)) = play(157, "nan@10..", &[]) else { return };
    for _ in 0..3 {
        peer.wait("lost frame", |line| is_status(line) && line["reason"] == "not_finite");
    }
    let (status, log) = node.end();
    assert_eq!(code(status), 71, "{log}");
    assert!(log.contains("self-test"), "{log}");
}

/// A positive control as well: the flipped weight.
#[test]
fn row_77_a_flipped_bit_of_a_weight_is_found_and_ends_the_process() {
    for (domain, bit) in [(158, 30), (159, 1)] {
        let fault = format!("flip@10:{bit}");
        let args = ["-p", "selftest_period_s:=1"];
        let Some((mut node, peer)) = play(domain, &fault, &args) else { return };
        let mut flipped = None;
        peer.wait("tenth frame", |line| {
            if is_status(line) && line["sequence"].as_u64() >= Some(10) {
                flipped = Some(Instant::now());
            }
            flipped.is_some()
        });
        let (status, log) = node.end();
        eprintln!("bit {bit} found within {:.1?}", flipped.unwrap().elapsed());
        assert_eq!(code(status), 71, "{log}");
        assert!(log.contains("self-test"), "{log}");
    }
}

#[test]
fn row_78_overload_drops_all_but_the_newest_and_says_so() {
    let Some((_node, peer)) = play(160, "sleep@1..:300", &["-p", "hang_ms:=20000"]) else { return };
    let message = wait_level(&peer, "input/camera", 2);
    assert!(message.contains("%"), "{message}");
    let status = peer.wait("status under overload", |line| {
        is_status(line) && line["dropped"].as_u64() > Some(5)
    });
    assert_eq!(status["late"], true, "{status}");
    let age = status["age_ms"].as_f64().unwrap();
    assert!(age < 4000.0, "{status}");
}

#[test]
fn row_79_a_late_frame_is_published_and_says_that_it_is_late() {
    let Some((_node, peer)) = play(161, "sleep@20:900", &["-p", "budget_ms:=700"]) else { return };
    let late = peer.wait("late frame", |line| {
        is_status(line) && line["late"] == true && line["sequence"].as_u64() > Some(15)
    });
    assert_eq!(late["state"], 0, "{late}");
    assert!(late["age_ms"].as_f64().unwrap() > 700.0, "{late}");
    peer.wait("frame in time", |line| is_status(line) && line["late"] == false);
}

#[test]
fn row_85_a_panic_costs_its_frame_and_the_third_of_a_minute_the_process() {
    let Some((mut node, peer)) = play(162, "panic@10", &[]) else { return };
    let lost = peer.wait("lost frame", |line| is_status(line) && line["state"] == 1);
    assert_eq!(lost["reason"], "panic_recovered", "{lost}");
    assert_eq!(peer.wait("frame after", is_status)["state"], 0);
    node.signal("-TERM");
    let (status, log) = node.end();
    assert_eq!(code(status), 0, "{log}");
    let report = log.lines().find_map(|line| line.strip_prefix("{\"panic\":")).unwrap();
    assert!(report.contains("a panic on purpose") && report.contains("main"), "{report}");

    let Some((mut node, _peer)) = play(163, "panic@10..13", &[]) else { return };
    assert_eq!(code(node.end().0), 70);
}

#[test]
fn row_86_a_panic_in_a_thread_of_a_library_ends_the_process() {
    let Some((mut node, _peer)) = play(164, "thread@10", &[]) else { return };
    let (status, log) = node.end();
    assert_eq!(code(status), 70, "{log}");
    assert!(log.contains("RustDDS on purpose"), "{log}");
}

/// In one of its own threads, amid its own work: when it next has something to log.
#[test]
fn row_86_a_panic_of_rustdds_itself_ends_the_process() {
    let Some(mut peer) = Peer::start(170) else { return };
    let env = [("OOD_SEG_FAULT", "dds@10.."), ("RUST_LOG", "rustdds=debug")];
    let mut node = Node::start_with(170, &[], &env);
    let mut play = picture("/camera/image_raw", 1000);
    play["do"] = json!("play");
    (play["rate"], play["seconds"]) = (json!(10), json!(60));
    peer.tell(&play);
    let (status, log) = node.end();
    assert_eq!(code(status), 70, "{log}");
    let report = log.lines().find(|line| line.starts_with("{\"panic\":")).unwrap();
    assert!(report.contains("\"thread\":\"RustDDS"), "{report}");
}

#[test]
fn row_89_memory_above_its_ceiling_ends_the_process_and_the_next_one_segments() {
    let args = ["-p", "memory_limit_mb:=900"];
    let Some((mut node, peer)) = play(165, "leak@10..:4000000", &args) else { return };
    let patience = Instant::now() + Duration::from_secs(60);
    while node.memory() < 900 {
        assert!(Instant::now() < patience, "{} MB", node.memory());
        std::thread::sleep(Duration::from_millis(5));
    }
    let crossed = Instant::now();
    let (status, log) = node.end();
    let ended = crossed.elapsed();
    assert_eq!(code(status), 70, "{log}");
    assert!(log.contains("memory_limit_mb is 900"), "{log}");
    assert!(log.contains("that no frame explains"), "{log}");
    // As a launch file or systemd would, but at once.
    while peer.lines.try_recv().is_ok() {}
    let _next = Node::start_with(165, &args, &[("OOD_SEG_FAULT", "none")]);
    peer.wait("mask of the next node", |line| is_status(line) && line["state"] == 0);
    eprintln!("end {ended:.1?} after the ceiling, next mask after {:.1?}", crossed.elapsed());
    assert!(ended < Duration::from_secs(5), "{ended:?}");
}

#[test]
fn row_89_a_leak_in_300_mb_is_ended_by_the_system_and_the_next_node_starts() {
    let Some(group) = MemoryGroup::new(300_000_000) else { return };
    let Some(mut peer) = Peer::start(173) else { return };
    peer.read_status("/camera/status");
    let wrap = group.wrap();
    let wrap = [&*wrap[0], &*wrap[1], &*wrap[2]];
    let fault = |fault| [("OOD_SEG_FAULT", fault)];
    let mut node = Node::start_in(173, &[], &fault("leak@10..:20000000"), &wrap);
    node.wait("is running");
    let mut play = picture("/camera/image_raw", 1000);
    play["do"] = json!("play");
    (play["rate"], play["seconds"]) = (json!(10), json!(60));
    peer.tell(&play);
    let (status, log) = node.end();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status} {log}");
    let mut next = Node::start_in(173, &[], &fault("none"), &wrap);
    next.wait("is running");
    while peer.lines.try_recv().is_ok() {}
    peer.wait("frame of the next node", |line| is_status(line) && line["state"] == 0);
    next.signal("-TERM");
    assert_eq!(code(next.end().0), 0);
}

/// As much of NVML as the node asks for: 96 degrees and both thermal slowdowns; HANG: the third time it never answers.
const NVML: &str = r#"
#include <string.h>
#include <unistd.h>
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &nvmlInit_v2; return index; }
int nvmlDeviceGetName(void *device, char *name, unsigned length) { strncpy(name, "a hot one", length); return 0; }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
    static int asked;
    while (HANG && ++asked > 2) pause();
    *celsius = 96;
    return sensor;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) { *reasons = 0x60; return 0; }
"#;

#[test]
fn row_82_a_hot_gpu_is_told_and_one_that_does_not_answer_too() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("nvml.c");
    std::fs::write(&source, NVML).unwrap();
    for (domain, hang) in [(174, "0"), (175, "1")] {
        let library = folder.path().join(format!("libnvml{hang}.so"));
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", &format!("-DHANG={hang}"), "-o"]).arg(&library).arg(&source);
        let Ok(built) = cc.status() else {
            eprintln!("SKIP: no C compiler");
            return;
        };
        assert!(built.success());
        let Some(mut peer) = Peer::start(domain) else { return };
        let env = [("OOD_SEG_FAULT", "none"), ("OOD_SEG_NVML", library.to_str().unwrap())];
        let mut node = Node::start_with(domain, &[], &env);
        peer.read_status("/camera/status");
        read(&mut peer, "/diagnostics", "diagnostics");
        let mut messages = Vec::new();
        let last = if hang == "1" { "has not answered" } else { "slowdown, software" };
        peer.wait(last, |line| {
            messages.extend(level(line, "gpu").filter(|(level, _)| *level == 1));
            messages.last().is_some_and(|(_, message)| message.contains(last))
        });
        let hot =
            "96 degrees Celsius, slowed down: hardware thermal slowdown, software thermal slowdown";
        assert_eq!(messages[0].1, hot);
        let segmented = |line: &Value| is_status(line) && line["state"] == 0;
        peer.repeat(&picture("/camera/image_raw", 1), segmented);
        node.signal("-TERM");
        let (status, log) = node.end();
        assert_eq!(code(status), 0, "{log}");
    }
}

/// Resident memory of a node with this fault, MB, after twenty and after fifty seconds of frames at 10 Hz.
fn memories(domain: u16, fault: &str) -> Option<[u64; 2]> {
    let (node, peer) = play(domain, fault, &["-p", "budget_ms:=600000"])?;
    let after = |stamp: i64| {
        peer.wait("frame", |line| is_status(line) && line["stamp"][0].as_i64() >= Some(stamp));
        node.memory()
    };
    Some([after(1200), after(1500)])
}

/// Positive control: a leak is seen by the memory's growth, which a node without one does not show.
#[test]
#[ignore = "slow: make faults"]
fn control_a_leak_is_seen_by_growth() {
    let Some([start, end]) = memories(171, "none") else { return };
    let Some([leaky_start, leaky_end]) = memories(172, "leak@1..:50000") else { return };
    let (clean, leaky) = (end.saturating_sub(start), leaky_end.saturating_sub(leaky_start));
    eprintln!("growth in 300 frames: {clean} MB, with a leak of 50 kB a frame {leaky} MB");
    assert!(clean <= 4 && leaky >= 10, "{clean} {leaky}");
}

/// Positive control: a frame that vanishes without a word is seen by counting.
#[test]
fn control_a_frame_that_vanishes_is_missed_by_the_count() {
    let Some((_node, peer)) = play(166, "drop@10..13", &[]) else { return };
    let mut last: Option<[u64; 2]> = None;
    peer.wait("gap that nothing explains", |line| {
        if !is_status(line) {
            return false;
        }
        let now = ["sequence", "dropped"].map(|key| line[key].as_u64().unwrap());
        let unexplained = last.is_some_and(|last| now[0] - last[0] != 1 + now[1] - last[1]);
        last = Some(now);
        unexplained
    });
}

/// Positive control: an old mask under a new header is seen by its checksum.
#[test]
fn control_a_stale_mask_is_seen_by_its_checksum() {
    let Some(mut peer) = Peer::start(167) else { return };
    let folder = tempfile::tempdir().unwrap();
    let weights = weights(folder.path());
    let threshold = format!("ood_threshold:={:?}", median(&weights));
    let _node = Node::start_with(167, &["-p", &threshold], &[("OOD_SEG_FAULT", "stale@10..")]);
    peer.ask(&json!({"do": "check", "mask": "/camera/ood/image", "status": "/camera/status"}));
    let mut verdicts = Vec::new();
    for stamp in 1..200_u8 {
        let pixels = folder.path().join("pixels");
        std::fs::write(&pixels, blocks(stamp % 2 * 90)).unwrap(); // two pictures in turn
        peer.tell(&json!({"do": "image", "topic": "/camera/image_raw", "height": 42, "width": 70,
            "encoding": "mono8", "file": pixels, "stamp": [stamp, 5]}));
        while let Ok(line) = peer.lines.recv_timeout(Duration::from_millis(200)) {
            let line: Value = serde_json::from_str(&line).unwrap();
            assert!(line.get("error").is_none(), "{line}");
            let verdict = line["verdict"].as_str();
            verdicts.extend(verdict.map(str::to_owned));
        }
        if verdicts.iter().any(|verdict| verdict == "WRONG_CRC") {
            break;
        }
    }
    assert_eq!(verdicts.first().map(String::as_str), Some("OK"), "{verdicts:?}");
    assert!(verdicts.contains(&"WRONG_CRC".to_owned()), "{verdicts:?}");
}

/// Blocks of grey, 42 by 70.
fn blocks(offset: u8) -> Vec<u8> {
    let byte = |i: usize| u8::try_from((i / 70 / 6 * 7 + i % 70 / 9 * 5) * 37 % 256).unwrap();
    (0..42 * 70).map(|i| byte(i).wrapping_add(offset)).collect()
}

/// The middle one of the scores of the blocks.
fn median(weights: &Path) -> f32 {
    let image = Image::packed(Default::default(), (42, 70), "mono8", blocks(0));
    let scores = sorted_scores(weights, &image);
    scores[scores.len() / 2]
}

#[test]
fn degraded_modes_go_down_step_by_step_and_up_again_and_each_is_published() {
    let args = ["-p", "plan:=tiles", "-p", "budget_ms:=600", "-p", "degrade_after_ms:=500"];
    // Pictures that no mode looks at count, so that the load is gone while there is no result.
    let fault = "sleep@10..22:800";
    let Some((node, peer)) = play(168, fault, &args) else { return };
    let mut modes: Vec<(String, Instant)> = Vec::new();
    let [mut in_time, mut late] = [None; 2];
    peer.wait("way down and up", |line| {
        let Some(mode) = line["mode"].as_str() else { return false };
        let now = Instant::now();
        if modes.len() < 2 && line["late"] == false {
            in_time = Some(now);
        }
        if modes.len() < 4 && line["late"] == true {
            late = Some(now);
        }
        if modes.last().is_none_or(|(last, _)| last != mode) {
            modes.push((mode.to_owned(), now));
            let (state, reason) = (&line["state"], &line["reason"]);
            match mode {
                "segmentor_only" => {
                    assert_eq!((state, reason), (&json!(2), &json!(mode)), "{line}")
                }
                "no_result" => {
                    assert_eq!((state, reason), (&json!(1), &json!("too_slow")), "{line}")
                }
                _ => assert_eq!(state, &json!(0), "{line}"),
            }
        }
        modes.len() > 4 && mode == "tiles"
    });
    let names: Vec<_> = modes.iter().map(|(mode, _)| mode.as_str()).collect();
    assert_eq!(names[..4], ["tiles", "single", "segmentor_only", "no_result"], "{modes:?}");
    let since = |start: Option<Instant>, steps: &[(String, Instant)]| {
        let step = |(mode, at): &(String, Instant)| format!("{mode} {:.1?}", *at - start.unwrap());
        steps.iter().map(step).collect::<Vec<_>>().join(", ")
    };
    eprintln!("after the last frame in time: {}", since(in_time, &modes[1..4]));
    eprintln!("after the last late one: {}", since(late, &modes[4..]));
    node.wait("mode tiles");
}

#[test]
fn row_83_sigterm_amid_a_hang_ends_it_within_two_seconds_and_systemd_hears_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let Some(mut peer) = Peer::start(169) else { return };
    let env = [
        ("OOD_SEG_FAULT", "hang@1.."),
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ("WATCHDOG_USEC", "600000"),
    ];
    let mut said = Vec::new();
    let mut bytes = [0; 256];
    let mut hear = |said: &mut Vec<String>, time| {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let Ok(length) = socket.recv(&mut bytes) else { continue };
            said.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
    };
    let mut node = Node::start_with(169, &[], &env);
    while !said.iter().any(|text: &String| text.contains("READY=1")) {
        hear(&mut said, Duration::from_millis(500));
    }
    for stamp in 1..9 {
        peer.tell(&picture("/camera/image_raw", stamp)); // the first that comes hangs for ever
        hear(&mut said, Duration::from_millis(500));
    }
    node.signal("-TERM");
    let stopped = Instant::now();
    let (status, log) = node.end();
    assert_eq!(code(status), 0, "{log}");
    assert!(stopped.elapsed() < Duration::from_secs(3), "{:?}", stopped.elapsed());
    assert!(log.contains("the frame in work is abandoned"), "{log}");
    hear(&mut said, Duration::from_millis(300));
    let at = |word: &str| said.iter().position(|text| text.contains(word));
    assert!(at("self-test") < at("READY=1") && at("READY=1") < at("WATCHDOG=1"), "{said:?}");
    assert!(at("WATCHDOG=1") < at("STOPPING=1") && at("STOPPING=1").is_some(), "{said:?}");
}
