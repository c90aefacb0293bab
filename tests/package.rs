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
    let binary = "/usr/lib/ood_segmentation/ood_segmentation_node";
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

/// `[package.metadata.deb]` of Cargo.toml, and the version of the package.
fn debian() -> (Value, String) {
    let run = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let mut metadata: Value = serde_json::from_slice(&run.stdout).unwrap();
    let packages = metadata["packages"].as_array_mut().unwrap();
    let own = packages.iter_mut().find(|package| package["name"] == "ood_segmentation").unwrap();
    (own["metadata"]["deb"].take(), own["version"].as_str().unwrap().to_owned())
}

/// Every file of the repository below a folder.
fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true if path.ends_with("__pycache__") => {}
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// Where the Debian package puts what: installed path -> file of the repository or target of a link, as
/// cargo-deb reads its assets: a pattern is one `*` in the last part or `**/*`, and keeps the folders below.
fn installed(debian: &Value) -> BTreeMap<String, String> {
    let mut installed = BTreeMap::new();
    for asset in debian["assets"].as_array().unwrap() {
        let text = |key: &str, index: usize| {
            asset.get(key).or(asset.get(index)).and_then(Value::as_str).map(str::to_owned)
        };
        let to = text("dest", 1).unwrap();
        if let Some(link) = text("link_name", 9) {
            installed.insert(to, link);
            continue;
        }
        let from = text("source", 0).unwrap();
        let (folder, sources) = match from.split_once('*') {
            None => (from.rsplit_once('/').map_or("", |(folder, _)| folder), vec![from.clone()]),
            Some((folder, rest)) => {
                let folder = folder.trim_end_matches('/');
                let ending = rest.rsplit_once('*').map_or(rest, |(_, ending)| ending);
                let mut all = files(folder);
                all.retain(|file| file.ends_with(ending));
                (folder, all)
            }
        };
        assert!(!sources.is_empty(), "{from} is no file");
        for source in sources {
            let below = source.strip_prefix(folder).unwrap().trim_start_matches('/');
            let path = if to.ends_with('/') { format!("{to}{below}") } else { to.clone() };
            assert!(installed.insert(path, source).is_none(), "{from} -> {to} twice");
        }
    }
    installed
}

#[test]
fn the_debian_package_holds_what_cmake_installs_and_what_debian_wants() {
    let (debian, version) = debian();
    let installed = installed(&debian);
    for file in installed.values() {
        let elsewhere = file.starts_with("target/release/") || file.starts_with(['/', '.']);
        assert!(elsewhere || root().join(file).is_file(), "{file} is missing");
    }
    let has = |path: &str, file: &str| {
        assert_eq!(installed.get(path).map(String::as_str), Some(file), "{path}");
    };
    // What CMakeLists.txt installs below a prefix is there, below /usr.
    let cmake = read("CMakeLists.txt");
    for program in ["ood_segmentation_node", "ood_seg"] {
        assert!(cmake.contains(&format!("\"${{BINARIES}}/{program}\"")), "{program}");
        has(&format!("usr/lib/ood_segmentation/{program}"), &format!("target/release/{program}"));
        has(&format!("usr/bin/{program}"), &format!("../lib/ood_segmentation/{program}"));
    }
    for file in ["launch", "config", "msg"].into_iter().flat_map(files) {
        has(&format!("usr/share/ood_segmentation/{file}"), &file);
    }
    has("usr/share/ood_segmentation/package.xml", "package.xml");
    has("usr/share/ament_index/resource_index/packages/ood_segmentation", "debian/ament_index");
    // The loader looks beside the program first, see build.rs.
    has("usr/lib/ood_segmentation/libtorch", "/opt/libtorch/lib");
    assert!(read("build.rs").contains("-rpath,$ORIGIN/libtorch:"));
    // Only what the service reads is a conffile; the unit starts what the package installs.
    let conffiles: Vec<_> = installed.keys().filter(|path| path.starts_with("etc/")).collect();
    assert_eq!(conffiles, ["etc/ood_segmentation/ood_segmentation.param.yaml"]);
    let unit = read("config/ood_segmentation.service");
    assert!(unit.contains("\nExecStart=/usr/lib/ood_segmentation/ood_segmentation_node "));
    assert!(unit.contains(&format!("--params-file /{}\n", conffiles[0])));
    assert_eq!(
        debian["systemd-units"],
        json!({"unit-scripts": "config", "unit-name": "ood_segmentation", "enable": false,
            "start": false})
    );
    // One maintainer and one version everywhere.
    let manifest = read("package.xml");
    let (name, email) = debian["maintainer"].as_str().unwrap().split_once(" <").unwrap();
    let email = email.trim_end_matches('>');
    assert!(manifest.contains(&format!("<maintainer email=\"{email}\">{name}</maintainer>")));
    assert!(manifest.contains(&format!("<version>{version}</version>")));
    let changelog = read("debian/changelog");
    assert!(changelog.starts_with(&format!("ood-segmentation ({version}-1) ")), "{changelog}");
    assert!(changelog.contains(&format!("\n -- {name} <{email}>  ")), "{changelog}");
}
