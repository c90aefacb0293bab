//! The lifecycle of the real binary, walked through by an independent Cyclone DDS client.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod peers;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use peers::{Node, call_services};
use serde_json::{Value, json};

const NODE: &str = "/ood_segmentation";

fn change(label: &str) -> Value {
    json!(["change_state", {"transition": [0, label]}])
}

#[test]
fn a_client_walks_a_node_that_waits_through_all_states_to_its_end() {
    let mut node = Node::start(88, &["-p", "autostart:=false"]);
    let state = json!(["get_state"]);
    let walk = json!([
        state, // 0
        ["get_available_states"],
        ["get_available_transitions"],
        ["get_transition_graph"],
        ["frame"],
        change("activate"), // 5: not from here
        change("configure"),
        state,
        ["frame"],
        ["change_state", {"transition": [3, ""]}], // by its number
        ["frame"], // 10
        ["get_available_transitions"],
        change("deactivate"),
        ["frame"],
        change("cleanup"),
        state, // 15
        change("configure"),
        change("activate"),
        ["frame"],
        change("shutdown"),
        ["transitions"], // 20
    ]);
    let Some(brought) = call_services(88, NODE, &walk) else { return };
    let label = |i: usize| brought[i]["current_state"].clone();
    assert_eq!(label(0), json!({"id": 1, "label": "unconfigured"}));
    let states = brought[1]["available_states"].as_array().unwrap();
    assert!(states.contains(&json!({"id": 3, "label": "active"})), "{states:?}");
    let labels = |i: usize| {
        let steps = brought[i]["available_transitions"].as_array().unwrap().iter();
        steps.map(|step| step["transition"]["label"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(labels(2), ["configure", "shutdown"]);
    assert_eq!(labels(11), ["deactivate", "shutdown"]);
    assert!(labels(3).len() > 10 && labels(3).contains(&"transition_failure"));
    let worked = |i: usize| brought[i]["success"].as_bool().unwrap();
    assert!(!worked(5) && [6, 9, 12, 14, 16, 17, 19].into_iter().all(worked), "{brought}");
    assert_eq!(label(7), json!({"id": 2, "label": "inactive"}));
    assert_eq!(label(15), json!({"id": 1, "label": "unconfigured"}));
    let frame = |i: usize| {
        let status = &brought[i];
        (status["reason"].as_str().unwrap(), status["model_sha256"].as_str().unwrap().len())
    };
    assert_eq!([frame(4), frame(8), frame(10)], [("inactive", 0), ("inactive", 64), ("", 64)]);
    assert_eq!([frame(13), frame(18)], [("inactive", 64), ("", 64)]);
    let moves = brought[20].as_array().unwrap();
    let first = json!(["unconfigured", "configure", "configuring"]);
    let loaded = json!(["configuring", "transition_success", "inactive"]);
    let ended = json!(["shuttingdown", "transition_success", "finalized"]);
    assert!(
        moves.contains(&first) && moves.contains(&loaded) && moves.contains(&ended),
        "{moves:?}"
    );
    assert_eq!(moves.len(), 14, "two events for each change: {moves:?}");
    let (status, log) = node.end();
    assert!(status.success(), "{log}");
    assert!(log.contains("warm after passes"), "{log}");
}

/// The reply to a request of a Fast DDS client; both are CDR.
fn call(binary: &Path, domain: u16, service: &str, kind: &str, request: &[u8]) -> Vec<u8> {
    let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let request = digits(&[&[0, 1, 0, 0], request].concat());
    let (service, kind) =
        (format!("{NODE}/{service}"), format!("lifecycle_msgs::srv::dds_::{kind}"));
    let mut client = Command::new(binary)
        .args(["call", &domain.to_string(), &service, &kind, &request])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let reply = peers::lines(client.stdout.take().unwrap()).recv_timeout(peers::PATIENCE).unwrap();
    assert!(client.wait().unwrap().success());
    (4..reply.len() / 2)
        .map(|i| u8::from_str_radix(&reply[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

#[test]
fn a_fast_dds_client_asks_for_the_state_and_changes_it() {
    let folder = tempfile::tempdir().unwrap();
    let Some(binary) = peers::fast_dds(folder.path()) else { return };
    let mut node = Node::start(92, &["-p", "autostart:=false"]);
    let state = call(&binary, 92, "get_state", "GetState", &[0]);
    assert_eq!(state[..21], *b"\x01\0\0\0\x0d\0\0\0unconfigured\0");
    let shutdown = b"\0\0\0\0\x09\0\0\0shutdown\0";
    assert_eq!(call(&binary, 92, "change_state", "ChangeState", shutdown)[0], 1);
    assert!(node.end().0.success());
}

#[test]
fn weights_that_do_not_load_leave_it_unconfigured_and_alive() {
    let wrong = ["-p", "autostart:=false", "-p", "model.weights:=none.safetensors"];
    let mut node = Node::start(89, &wrong);
    let walk = json!([change("configure"), ["get_state"], ["frame"]]);
    let Some(brought) = call_services(89, NODE, &walk) else { return };
    assert_eq!(brought[0]["success"], false);
    assert_eq!(brought[1]["current_state"]["label"], "unconfigured");
    assert_eq!(brought[2]["reason"], "inactive");
    node.signal("-INT");
    let (status, log) = node.end();
    assert!(status.success() && log.contains("not configured: none.yaml"), "{log}");
}

#[test]
fn a_second_node_of_a_name_ends_and_the_first_goes_on() {
    let waiting = ["-p", "autostart:=false"];
    let first = Node::start(91, &waiting);
    first.wait("is running");
    std::thread::sleep(Duration::from_secs(6)); // of two that are younger than 5 s either may stay
    let mut second = Node::start(91, &waiting);
    let (status, log) = second.end();
    assert_eq!(status.code(), Some(78), "{log}");
    assert!(
        log.contains("duplicate_node") && log.contains("`__node` is /ood_segmentation"),
        "{log}"
    );
    let mut allowed = Node::start(91, &[&waiting[..], &["-p", "allow_duplicate:=true"]].concat());
    first.wait("duplicate_node: there is another /ood_segmentation");
    allowed.wait("duplicate_node");
    first.signal("-TERM");
    let (status, _) = { first }.end();
    assert!(status.success());
    allowed.signal("-TERM");
    assert!(allowed.end().0.success());
}

#[test]
fn a_node_that_starts_by_itself_is_active_and_can_be_put_to_rest() {
    let _node = Node::start(90, &[]);
    let walk =
        json!([["get_state"], change("deactivate"), ["frame"], change("activate"), ["frame"]]);
    let Some(brought) = call_services(90, NODE, &walk) else { return };
    assert_eq!(brought[0]["current_state"]["label"], "active");
    assert_eq!((&brought[2]["reason"], &brought[4]["reason"]), (&json!("inactive"), &json!("")));
}
