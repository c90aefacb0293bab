//! The lifecycle of the real binary, walked through by an independent Cyclone DDS client.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod peers;

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
fn a_node_that_starts_by_itself_is_active_and_can_be_put_to_rest() {
    let _node = Node::start(90, &[]);
    let walk =
        json!([["get_state"], change("deactivate"), ["frame"], change("activate"), ["frame"]]);
    let Some(brought) = call_services(90, NODE, &walk) else { return };
    assert_eq!(brought[0]["current_state"]["label"], "active");
    assert_eq!((&brought[2]["reason"], &brought[4]["reason"]), (&json!("inactive"), &json!("")));
}
