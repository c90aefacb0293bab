//! The parameter services of the real binary, called in the layouts of rmw_cyclonedds (by an independent
//! Cyclone DDS peer) and of rmw_fastrtps.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod peers;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use ood_segmentation::checkpoint;
use ood_segmentation::config::{ClassTable, Kind, PARAMETERS};
use ood_segmentation::model::{Model, ModelConfig, Precision, Score};
use ood_segmentation::window::Plan;
use peers::call_services;
use ros2_client::dds::rustdds::no_key::{DataWriterCdr, SimpleDataReaderCdr};
use ros2_client::dds::rustdds::policy::{History, Reliability};
use ros2_client::dds::rustdds::rpc::SampleIdentity;
use ros2_client::dds::rustdds::{
    DomainParticipantBuilder, QosPolicyBuilder, SequenceNumber, TopicKind, WriteOptionsBuilder,
};
use ros2_client::rcl_interfaces::{GetParametersRequest, GetParametersResponse};
use serde_json::{Value, json};

struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.0.kill());
        self.0.wait().unwrap();
    }
}

/// A small network with fixed random weights.
fn weights(folder: &Path) -> PathBuf {
    let config = ModelConfig::named("tiny", "d-d", ClassTable::cityscapes()).unwrap();
    tch::manual_seed(7);
    let path = folder.join("tiny.safetensors");
    checkpoint::save(&Model::new(&config, tch::Device::Cpu).unwrap(), &path).unwrap();
    path
}

fn node(domain: u16, ros_args: &[&str]) -> Node {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ood_segmentation_node"));
    command.env("ROS_DOMAIN_ID", domain.to_string()).arg("--ros-args").args(ros_args);
    Node(command.spawn().unwrap())
}

fn names() -> Vec<&'static str> {
    PARAMETERS.iter().map(|row| &*row.name).collect()
}

/// Every service at least once, with frames in between.
fn walk() -> Value {
    let get = json!(["get_parameters",
        {"names": ["cameras", "ood_threshold", "none", "jpeg_quality"]}]);
    let set = |name: &str, kind: &str, value: Value| json!([name, [kind, value]]);
    json!([
        ["list_parameters", {"prefixes": [], "depth": 0}],
        ["list_parameters", {"prefixes": ["model", "batch"], "depth": 1}],
        ["get_parameter_types", {"names": ["use_sim_time", "batch", "ood_threshold", "plan",
            "cameras", "none"]}],
        ["describe_parameters", {"names": ["batch", "none", "ood_threshold"]}],
        ["frame"],
        ["set_parameters", {"parameters": [
            set("ood_threshold", "double", json!(2.5)), set("batch", "integer", json!(2)),
            set("jpeg_quality", "integer", json!(101)), set("jpeg_quality", "double_array", json!([1.0])),
            set("ood_treshold", "double", json!(1.0)), set("use_sim_time", "bool", json!(true))]}],
        get,
        ["frame"],
        ["set_parameters_atomically", {"parameters": [
            set("ood_threshold", "double", json!(7.5)), set("jpeg_quality", "integer", json!(0))]}],
        get,
        ["set_parameters_atomically", {"parameters": [
            set("ood_threshold", "integer", json!(-3)), set("jpeg_quality", "integer", json!(50))]}],
        get,
        ["events"],
        ["enable", {"data": false}],
        ["frame"],
        ["enable", {"data": true}],
        ["frame"],
    ])
}

#[test]
fn a_cyclone_client_reads_and_changes_what_may_change_and_the_next_frame_uses_it() {
    let folder = tempfile::tempdir().unwrap();
    let weights = format!("model.weights:={}", weights(folder.path()).display());
    let _node = node(
        60,
        &[
            "-r",
            "__ns:=/car",
            "-r",
            "/car/camera/status:=/camera/status",
            "-r",
            "/car/camera/image_raw:=/camera/image_raw",
            "-p",
            &weights,
            "-p",
            "plan:=single",
        ],
    );
    let Some(brought) = call_services(60, "/car/ood_segmentation", &walk()) else { return };
    let prefixes = ["model", "obstacle", "quality", "record"];
    assert_eq!(brought[0]["result"], json!({"names": names(), "prefixes": prefixes}));
    let some =
        json!(["model.weights", "model.device", "model.precision", "model.cuda_graphs", "batch"]);
    assert_eq!(brought[1]["result"], json!({"names": some, "prefixes": ["model"]}));
    assert_eq!(brought[2]["types"], json!([1, 2, 3, 4, 9, 0]));
    let descriptors = &brought[3]["descriptors"];
    assert_eq!(descriptors[0]["read_only"], true);
    assert_eq!(
        descriptors[0]["integer_range"],
        json!([{"from_value": 1, "to_value": 64, "step": 1}])
    );
    assert_eq!((&descriptors[1]["name"], &descriptors[1]["type"]), (&json!("none"), &json!(0)));
    assert_eq!((&descriptors[2]["read_only"], &descriptors[2]["type"]), (&json!(false), &json!(3)));
    check_changes(&brought);
}

/// What the second half of [`walk`] must have brought.
fn check_changes(brought: &Value) {
    assert_eq!(brought[4]["ood_threshold"], 0.0);
    let expected = ["", "read-only", "1 to 100", "1 to 100", "did you mean `ood_threshold`", ""];
    for (result, expected) in brought[5]["results"].as_array().unwrap().iter().zip(expected) {
        assert_eq!(result["successful"], expected.is_empty(), "{result}");
        assert!(result["reason"].as_str().unwrap().contains(expected), "{result}");
    }
    let values = |threshold: f64, quality: u8| {
        json!([
            ["string_array", ["camera"]],
            ["double", threshold],
            ["not_set", null],
            ["integer", quality]
        ])
    };
    assert_eq!(brought[6]["values"], values(2.5, 90));
    assert_eq!((&brought[7]["ood_threshold"], &brought[7]["state"]), (&json!(2.5), &json!(0)));
    assert_eq!(brought[8]["result"]["successful"], false);
    assert_eq!(brought[9]["values"], values(2.5, 90), "refused, so nothing changed");
    assert_eq!(brought[10]["result"], json!({"successful": true, "reason": ""}));
    assert_eq!(brought[11]["values"], values(-3.0, 50));
    let last = brought[12].as_array().unwrap().last().unwrap();
    let changed = json!([["ood_threshold", ["double", -3.0]], ["jpeg_quality", ["integer", 50]]]);
    assert_eq!(last, &json!({"node": "/car/ood_segmentation", "changed": changed}));
    assert_eq!(brought[13]["success"], true);
    assert_eq!((&brought[14]["state"], &brought[14]["reason"]), (&json!(1), &json!("disabled")));
    assert_eq!((&brought[16]["state"], &brought[16]["ood_threshold"]), (&json!(0), &json!(-3.0)));
}

/// The file that `ros2 param dump` writes.
fn dump(node: &str, values: &Value) -> String {
    let mut text = format!("{node}:\n  ros__parameters:\n");
    let mut group = "";
    for (name, value) in names().into_iter().zip(values.as_array().unwrap()) {
        let (outer, key) = name.split_once('.').unwrap_or(("", name));
        if outer != group && !outer.is_empty() {
            writeln!(text, "    {outer}:").unwrap();
        }
        group = outer;
        let indent = if outer.is_empty() { "    " } else { "      " };
        match value[1].as_array() {
            None if value[1] == ".nan" => writeln!(text, "{indent}{key}: .nan").unwrap(),
            None => writeln!(text, "{indent}{key}: {}", value[1]).unwrap(),
            Some(items) => {
                writeln!(text, "{indent}{key}:").unwrap();
                items.iter().for_each(|item| writeln!(text, "{indent}- {item}").unwrap());
            }
        }
    }
    text
}

#[test]
fn a_dump_of_a_running_node_starts_an_identical_one() {
    let folder = tempfile::tempdir().unwrap();
    let weights = format!("model.weights:={}", weights(folder.path()).display());
    let get = json!(["get_parameters", {"names": names()}]);
    let changes = json!([["ood_threshold", ["double", -0.125]], ["silence_ms", ["integer", 0]]]);
    let steps = json!([["set_parameters", {"parameters": changes}], get]);
    let options = ["-p", &weights, "-p", "cameras:=[left, right]", "-p", "plan:=single"];
    let first = node(61, &options);
    let Some(brought) = call_services(61, "/ood_segmentation", &steps) else { return };
    drop(first);
    let values = &brought[1]["values"];
    assert_eq!(values[0], json!(["string_array", ["left", "right"]]));
    let file = folder.path().join("dump.yaml");
    std::fs::write(&file, dump("/ood_segmentation", values)).unwrap();
    let _second = node(62, &["--params-file", file.to_str().unwrap()]);
    let brought = call_services(62, "/ood_segmentation", &json!([get])).unwrap();
    assert_eq!(&brought[0]["values"], values);
}

#[test]
fn fifty_calls_at_a_time_are_all_answered() {
    let folder = tempfile::tempdir().unwrap();
    let weights = format!("model.weights:={}", weights(folder.path()).display());
    let _node = node(64, &["-p", &weights, "-p", "autostart:=false"]);
    let flood = json!({"name": "get_parameters", "calls": 1000, "under_way": 50,
        "fields": {"names": ["plan"]}});
    let Some(brought) = call_services(64, "/ood_segmentation", &json!([["flood", flood]])) else {
        return;
    };
    assert_eq!(brought[0]["answered"], 1000);
}

/// As rmw_fastrtps asks: the GUID of the reader of replies in the inline QoS, no sequence number.
#[test]
fn a_client_with_its_identity_in_the_inline_qos_is_answered_there() {
    let folder = tempfile::tempdir().unwrap();
    let weights = format!("model.weights:={}", weights(folder.path()).display());
    let _node = node(63, &["-p", &weights, "-p", "plan:=single"]);
    let participant = DomainParticipantBuilder::new(63).build().unwrap();
    let reliability = Reliability::Reliable { max_blocking_time: Duration::from_secs(1).into() };
    let history = History::KeepLast { depth: 10 };
    let qos = QosPolicyBuilder::new().reliability(reliability).history(history).build();
    let topic = |name: &str, kind: &str| {
        let kind = format!("rcl_interfaces::srv::dds_::GetParameters_{kind}_");
        let name = format!(
            "{name}/ood_segmentation/get_parameters{}",
            if name == "rq" { "Request" } else { "Reply" }
        );
        participant.create_topic(name, kind, &qos, TopicKind::NoKey).unwrap()
    };
    let publisher = participant.create_publisher(&qos).unwrap();
    let subscriber = participant.create_subscriber(&qos).unwrap();
    let writer: DataWriterCdr<GetParametersRequest> =
        publisher.create_datawriter_no_key(&topic("rq", "Request"), None).unwrap();
    let reader: SimpleDataReaderCdr<GetParametersResponse> =
        subscriber.create_simple_datareader_no_key(&topic("rr", "Response"), None).unwrap();
    let identity =
        SampleIdentity { writer_guid: reader.guid(), sequence_number: SequenceNumber::UNKNOWN };
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < end, "no reply came");
        let request = GetParametersRequest { names: vec!["plan".into(), "batch".into()] };
        let options = WriteOptionsBuilder::new().related_sample_identity(identity).build();
        let asked = writer.write_with_options(request, options).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        reader.drain_read_notifications();
        let Some(reply) = reader.try_take_one().unwrap() else { continue };
        let about = reply.related_sample_identity().unwrap();
        assert_eq!(about.writer_guid, reader.guid());
        assert!(
            about.sequence_number <= asked.sequence_number
                && about.sequence_number > SequenceNumber::from(0)
        );
        let values = reply.into_value().values;
        assert_eq!((values[0].string_value.as_str(), values[1].int_value), ("single", 1));
        return;
    }
}

#[test]
fn the_words_of_the_table_are_those_that_the_network_knows() {
    let words = |name: &str| match PARAMETERS.iter().find(|row| row.name == name).unwrap().kind {
        Kind::Choice(words) => words,
        _ => panic!("{name} has no words"),
    };
    assert!(words("plan").iter().all(|word| word.parse::<Plan>().is_ok()));
    assert_eq!(words("plan").len(), Plan::ALL.len());
    assert!(words("score").iter().all(|word| word.parse::<Score>().is_ok()));
    assert_eq!(words("score").len(), Score::ALL.len());
    assert!(words("model.precision").iter().all(|word| word.parse::<Precision>().is_ok()));
}
