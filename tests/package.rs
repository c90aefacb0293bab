//! What is installed beside the binaries: launch files, views, the service unit, kernel settings.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops where it fails and says what it skips"
)]

mod peers;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use peers::{Node, Peer, command};
use serde_json::{Value, json};

const DOMAIN: u16 = 61;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Arguments and actions of every launch file, started with these.
fn launch(given: &[&str]) -> Value {
    let script = root().join("tests/peers/launch_files.py");
    let run = Command::new("python3").arg(script).arg(root().join("launch")).args(given).output();
    let run = run.unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    serde_json::from_slice(&run.stdout).unwrap()
}

/// The actions of this name.
fn actions<'a>(file: &'a Value, name: &str) -> Vec<&'a Value> {
    file["actions"].as_array().unwrap().iter().filter(|action| action["is"] == name).collect()
}

fn configuration(name: &str) -> Value {
    json!({"is": "LaunchConfiguration", "args": [name]})
}

#[test]
fn every_launch_argument_is_declared_with_a_default_and_described() {
    let files = launch(&["bag:=b"]);
    for (file, expected) in [
        (
            "ood_segmentation.launch.py",
            &[
                "params_file",
                "weights",
                "namespace",
                "use_sim_time",
                "rviz",
                "log_level",
                "respawn",
            ][..],
        ),
        (
            "replay.launch.py",
            &["bag", "rate", "loop", "params_file", "weights", "namespace", "rviz"],
        ),
    ] {
        let arguments = files[file]["arguments"].as_object().unwrap();
        for name in expected {
            assert!(arguments.contains_key(*name), "{file}: {name}");
        }
        for (name, said) in arguments {
            assert!(said[1].as_str().unwrap().len() > 10, "{file}: {name}");
            assert_eq!(said[0].is_null(), name == "bag", "{file}: {name} has no default");
        }
        // Every argument that is used is declared, and every one that is declared is used.
        let text = files[file].to_string() + &read(&format!("launch/{file}"));
        let uses = text.split("LaunchConfiguration(\"").skip(1);
        for name in uses.map(|rest| rest.split('"').next().unwrap()) {
            assert!(arguments.contains_key(name), "{file}: {name} is not declared");
        }
    }
    let node = &files["ood_segmentation.launch.py"]["arguments"];
    let passed =
        &actions(&files["replay.launch.py"], "IncludeLaunchDescription")[0]["launch_arguments"];
    for argument in passed.as_array().unwrap() {
        assert!(node.get(argument[0].as_str().unwrap()).is_some(), "{argument}");
    }
}

#[test]
fn the_node_gets_the_parameters_that_were_given_and_no_others() {
    let bare = launch(&["bag:=b"]);
    let nodes = actions(&bare["ood_segmentation.launch.py"], "Node");
    assert_eq!(nodes.len(), 2, "the node, and rviz under its condition");
    assert_eq!(nodes[0]["parameters"], json!([configuration("params_file")]));
    assert_eq!(nodes[0]["respawn"], configuration("respawn"));
    assert_eq!(
        (&nodes[0]["respawn_delay"], &nodes[0]["on_exit"]),
        (&json!(1.0), &json!("stay_down"))
    );
    assert_eq!(nodes[0]["ros_arguments"], json!(["--log-level", configuration("log_level")]));
    assert_eq!(nodes[1]["condition"]["args"], json!([configuration("rviz")]));

    let given = launch(&["bag:=b", "weights:=7", "cameras:=[front]", "use_sim_time:=true"]);
    let nodes = actions(&given["ood_segmentation.launch.py"], "Node");
    let parameters = nodes[0]["parameters"][1].as_object().unwrap();
    let names: Vec<_> = parameters.keys().collect();
    assert_eq!(names, ["cameras", "model.weights", "use_sim_time"]);
    let known = read("config/ood_segmentation.schema.json");
    for name in ["cameras", "weights", "use_sim_time", "device"] {
        assert!(known.contains(&format!("\"{name}\"")), "{name} is no parameter");
    }
    assert_eq!(parameters["model.weights"]["value_type"], "str", "7 is a path");
    // What launch_ros makes of the given ones: a parameter file with dotted names.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("launch_params");
    fs::write(
        &file,
        "/**:\n  ros__parameters:\n    cameras:\n    - front\n    model.weights: 7.safetensors\n",
    )
    .unwrap();
    let mut node = command(DOMAIN);
    let run = node.args(["--ros-args", "--params-file"]).arg(file).output().unwrap();
    let complaint = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(
        run.status.code() == Some(66) && complaint.contains("7.yaml: No such file"),
        "{complaint}"
    );
}

#[test]
fn the_node_stays_down_after_what_another_start_would_not_mend() {
    let file = &launch(&["bag:=b"])["ood_segmentation.launch.py"];
    assert_eq!(file["stays_down"], json!([0, 65, 66, 78]));
    assert_eq!(file["stops"], json!([true, false]), "the node and nothing else");
    let unit = read("config/ood_segmentation.service");
    assert!(unit.contains("\nRestartPreventExitStatus=65 66 78\n"), "{unit}");
}

#[test]
fn a_bag_is_played_with_its_clock_to_the_node() {
    let played = |given: &[&str]| {
        let files = launch(given);
        actions(&files["replay.launch.py"], "ExecuteProcess")[0]["cmd"].clone()
    };
    let plain = ["ros2", "bag", "play", "b.mcap", "--clock", "--rate", "1.0"];
    assert_eq!(played(&["bag:=b.mcap"]), json!(plain));
    let more = ["--loop", "--remap", "/zed/rect/compressed:=/camera/image_raw/compressed"];
    let given = ["bag:=b.mcap", "loop:=true", "image_topic:=/zed/rect/compressed"];
    assert_eq!(played(&given), json!([&plain[..], &more].concat()));
    let files = launch(&["bag:=b"]);
    let passed =
        &actions(&files["replay.launch.py"], "IncludeLaunchDescription")[0]["launch_arguments"];
    assert!(passed.as_array().unwrap().contains(&json!(["use_sim_time", "true"])), "{passed}");
}

/// Every text of a document that is a topic's name; of `/camera/status.latency_ms` the part before the dot.
fn topics(document: &Value, found: &mut BTreeSet<String>) {
    match document {
        Value::String(text) if text.starts_with('/') => {
            found.insert(text.split('.').next().unwrap().to_owned());
        }
        Value::Array(items) => items.iter().for_each(|item| topics(item, found)),
        Value::Object(items) => items.iter().for_each(|(key, item)| {
            topics(&json!(key), found);
            topics(item, found);
        }),
        _ => {}
    }
}

#[test]
fn the_views_show_topics_that_the_node_has() {
    let rviz: Value = serde_yaml::from_str(&read("config/rviz/ood_segmentation.rviz")).unwrap();
    let foxglove: Value =
        serde_json::from_str(&read("config/foxglove/ood_segmentation.json")).unwrap();
    let (mut viewed, mut shown) = (BTreeSet::new(), BTreeSet::new());
    topics(&rviz, &mut viewed);
    topics(&foxglove, &mut shown);
    for name in ["overlay/image", "ood/image", "image_raw"] {
        let any = |topics: &BTreeSet<String>| topics.iter().any(|topic| topic.contains(name));
        assert!(any(&viewed) && any(&shown), "{name} is in neither view");
    }
    // Every panel is in the layout, and the layout has no other.
    let layout = foxglove["layout"].to_string();
    for panel in foxglove["configById"].as_object().unwrap().keys() {
        assert_eq!(layout.matches(&format!("\"{panel}\"")).count(), 1, "{panel}");
    }
    assert_eq!(layout.matches('!').count(), foxglove["configById"].as_object().unwrap().len());
    // rviz of the launch file is told every one of its topics for another camera.
    let files = launch(&["bag:=b"]);
    let remaps = &actions(&files["ood_segmentation.launch.py"], "Node")[1]["remappings"];
    let remapped =
        remaps.as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap().to_owned());
    assert_eq!(remapped.collect::<BTreeSet<_>>(), viewed);

    let Some(mut peer) = Peer::start(DOMAIN) else { return };
    let _node = Node::start(DOMAIN, &["-p", "cameras:=[camera]"]);
    viewed.extend(shown);
    // Of a camera's two topics the node reads the one that is offered.
    assert!(viewed.remove("/camera/image_raw/compressed"));
    peer.repeat(&json!({"do": "topics"}), |line| {
        let known = line["topics"].as_array();
        known.is_some_and(|known| viewed.iter().all(|topic| known.contains(&json!(topic))))
    });
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let unit = read("config/ood_segmentation.service");
    let binary = "/opt/ood_segmentation/lib/ood_segmentation/ood_segmentation_node";
    assert!(unit.contains(&format!("\nExecStart={binary} ")));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ood_segmentation.service");
    fs::write(&path, unit.replace(binary, "/bin/true")).unwrap();
    let Ok(run) = Command::new("systemd-analyze").arg("verify").arg(&path).output() else {
        eprintln!("SKIP: no systemd-analyze");
        return;
    };
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.is_empty(), "{said}");
}

#[test]
fn the_kernel_settings_are_those_that_the_kernel_has_and_the_node_asks_for() {
    let text = read("config/60-ood_segmentation.conf");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let settings: BTreeMap<&str, u64> = lines
        .map(|line| line.split_once(" = ").unwrap())
        .map(|(key, value)| (key, value.parse().unwrap()))
        .collect();
    for key in settings.keys() {
        let file = PathBuf::from("/proc/sys").join(key.replace('.', "/"));
        // A network namespace other than the host's has none of them.
        assert!(file.exists() || !Path::new("/proc/sys/net/core/rmem_max").exists(), "{key}");
    }
    let asked = ood_segmentation::ros::raw::RECEIVE_BUFFER as u64;
    assert!(settings["net.core.rmem_max"] >= asked, "the node asks for {asked}");
    assert!(settings["net.core.rmem_default"] < settings["net.core.rmem_max"]);
}

#[test]
fn all_of_it_is_installed() {
    let cmake = read("CMakeLists.txt");
    assert!(
        cmake.contains("install(DIRECTORY launch config DESTINATION \"share/${PROJECT_NAME}\")")
    );
    let manifest = read("package.xml");
    for program in ["ros2bag", "rviz2", "launch", "launch_ros"] {
        assert!(manifest.contains(&format!("<exec_depend>{program}</exec_depend>")), "{program}");
    }
}
