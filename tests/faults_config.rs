//! Rows 53 to 59 of the fault catalogue: parameters that are not what the node takes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The node refuses its arguments with exit code 78, at once, in one line with these words.
fn refused(args: &[&str], env: &[(&str, &str)], words: &[&str]) {
    let start = Instant::now();
    let mut node = Command::new(env!("CARGO_BIN_EXE_ood_segmentation_node"));
    node.env("ROS_DOMAIN_ID", "145").args(["--ros-args", "-p", "model.weights:=none.safetensors"]);
    let output = node.args(args).envs(env.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{args:?}: {text}");
    assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
    // The catalogue's second, with room for a machine that is busy with other tests.
    let took = start.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// As [`refused`], for a parameter file of this text.
fn refused_file(text: &str, words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.yaml");
    fs::write(&path, text).unwrap();
    refused(&["--params-file", path.to_str().unwrap()], &[], words);
}

#[test]
fn row_53_a_parameter_file_that_cannot_be_read_is_exit_78() {
    refused(&["--params-file", "none.yaml"], &[], &["none.yaml", "os error 2"]);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    refused(&["--params-file", folder], &[], &[folder, "os error"]);
    assert!(Path::new(folder).is_dir());
}

#[test]
fn row_54_a_misspelt_key_is_exit_78_with_the_right_one() {
    refused(&["-p", "ood_treshold:=1.0"], &[], &["did you mean `ood_threshold`"]);
    refused_file("/**:\n  ros__parameters:\n    plam: tiles\n", &["did you mean `plan`"]);
}

#[test]
fn row_55_a_value_of_the_wrong_type_or_range_is_exit_78_with_what_is_allowed() {
    for (value, words) in [
        ("ood_threshold:=warm", ["ood_threshold", "a finite number"]),
        ("obstacle.hysteresis:=.nan", ["obstacle.hysteresis", "a finite number"]),
        ("ood_threshold:=1.0e9", ["ood_threshold", "1000000"]),
        ("batch:=0", ["batch", "1 to 64"]),
        ("batch:=1.5", ["batch", "a whole number"]),
        ("cameras:=[]", ["cameras", "one or more"]),
        ("cameras:=['']", ["cameras", "one or more"]),
        ("plan:=tile", ["plan", "tiles"]),
        ("use_sim_time:=maybe", ["use_sim_time", "true or false"]),
    ] {
        refused(&["-p", value, "-p", "model.device:=cpu"], &[], &words[..]);
    }
}

#[test]
fn row_55_all_that_is_wrong_is_told_at_once_with_its_lines() {
    let text = "/**:\n  ros__parameters:\n    batch: 0\n    obstacle:\n      hysteresis: .nan\n    plam: 1\n";
    let words = [
        "line 3: `batch` is 0",
        "line 5: `obstacle.hysteresis` is",
        "line 6",
        "did you mean `plan`",
    ];
    refused_file(text, &words);
    let args = ["-p", "batch:=0", "-p", "plan:=tile", "-p", "jpeg_quality:=101"];
    refused(&args, &[], &["`batch` is 0", "`plan` is tile", "`jpeg_quality` is 101"]);
}

#[test]
fn row_56_yaml_that_would_eat_the_machine_is_exit_78() {
    refused_file(&"[".repeat(10_000), &["node.yaml"]);
    let mut laughs = String::from("a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n");
    for i in 1..30 {
        let list = vec![format!("*a{}", i - 1); 9].join(", ");
        laughs += &format!("a{i}: &a{i} [{list}]\n");
    }
    laughs += "/**:\n  ros__parameters:\n    plan: *a29\n";
    refused_file(&laughs, &["node.yaml"]);
    refused_file(&"# words\n".repeat(200_000), &["node.yaml", "at most 1048576"]);
}

#[test]
fn row_59_names_that_ros_does_not_allow_are_exit_78() {
    refused(&["-r", "__node:=a-b"], &[], &["a-b"]);
    refused(&["-r", "__ns:=/a b"], &[], &["a b"]);
    refused(&["-r", "__ns:=no_slash//"], &[], &["no_slash"]);
}
