//! What people and editors read about the parameters is made from `config::PARAMETERS`.
//!
//! After a change of the table: `UPDATE=1 cargo test --test parameters`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::path::Path;

use ood_segmentation::config::{Change, Kind, NODE_PARAMETERS, PARAMETERS, Parameter};
use serde_json::{Map, Value, json};

/// Compares a file with what it should hold, or writes it.
fn keep(file: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap();
    assert!(found == expected, "{file} is out of date: UPDATE=1 cargo test --test parameters");
}

/// The shipped value of a parameter as it stands in the file.
fn shipped(row: &Parameter) -> &'static str {
    let key = row.name.rsplit('.').next().unwrap();
    let value = |line: &'static str| line.trim().strip_prefix(key)?.strip_prefix(": ");
    let value = NODE_PARAMETERS.lines().find_map(value);
    let value = value.unwrap_or_else(|| panic!("{}: no value in the shipped file", row.name));
    value.split(" #").next().unwrap().trim()
}

#[test]
fn the_shipped_file_explains_every_parameter() {
    let mut text = String::from(
        "# Parameters of ood_segmentation_node. Every key is here; a key that --params-file and -p leave out \
         keeps\n# the value below. The comments are made from src/config/parameters.rs.\n\
         #\n# rotation, ego_mask, max_rate_hz, nominal_rate_hz and ood_threshold hold for every camera. A camera gets\n\
         # a value of its own under its name, such as camera_settings.rear.rotation: 180.\n\
         #\n# A topic has QoS of its own as rclcpp spells it, such as\n\
         # qos_overrides./rear/image_raw.subscription.reliability: best_effort.\n\
         /**:\n  ros__parameters:\n",
    );
    let mut group = "";
    for row in PARAMETERS {
        let (outer, key) = row.name.split_once('.').unwrap_or(("", &row.name));
        if outer != group && !outer.is_empty() {
            writeln!(text, "    {outer}:").unwrap();
        }
        group = outer;
        let indent = if outer.is_empty() { "    " } else { "      " };
        let when = if row.change == Change::Live { "; may change while it runs" } else { "" };
        writeln!(text, "{indent}# {}\n{indent}# ({}{when})", row.description, row.allowed())
            .unwrap();
        writeln!(text, "{indent}{key}: {}", shipped(row)).unwrap();
    }
    keep("config/ood_segmentation.param.yaml", &text);
}

fn schema(row: &Parameter) -> Value {
    let mut schema = match row.kind {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::QuarterTurn => json!({"enum": [0, 90, 180, 270]}),
        Kind::Integer { least, most } => {
            json!({"type": "integer", "minimum": least, "maximum": most})
        }
        Kind::Double { least, most } => {
            json!({"type": "number", "minimum": least, "maximum": most})
        }
        Kind::Calibrated { least, most } => {
            json!({"type": "number", "minimum": least, "maximum": most})
        }
        Kind::Choice(words) => json!({"enum": words}),
        Kind::Text => json!({"type": "string"}),
        Kind::Texts => json!({"type": "array", "items": {"type": "string"}}),
    };
    schema["description"] = json!(row.description);
    schema
}

#[test]
fn the_schema_knows_every_parameter_and_no_other() {
    let group = || json!({"type": "object", "additionalProperties": false, "properties": {}});
    let mut keys = Map::new();
    for row in PARAMETERS {
        match row.name.split_once('.') {
            None => drop(keys.insert(row.name.to_string(), schema(row))),
            Some((group_name, key)) => {
                let group = keys.entry(group_name).or_insert_with(group);
                group["properties"][key] = schema(row);
            }
        }
    }
    let mut own = group();
    for row in Parameter::all(&["rear".into()]) {
        let Some(key) = row.name.strip_prefix("camera_settings.rear.") else { continue };
        own["properties"][key] = schema(&row);
    }
    let own = json!({"type": "object", "additionalProperties": own});
    keys.insert("camera_settings".into(), own);
    let mut ends = group();
    for row in Parameter::of_topic("/rear/image_raw") {
        let name = row.name.strip_prefix("qos_overrides./rear/image_raw.").unwrap();
        let (end, policy) = name.split_once('.').unwrap();
        let end = ends["properties"].as_object_mut().unwrap().entry(end).or_insert_with(group);
        end["properties"][policy] = schema(&row);
    }
    let topics =
        json!({"type": "object", "additionalProperties": false, "patternProperties": {"^/": ends}});
    keys.insert("qos_overrides".into(), topics);
    let parameters = json!({"type": "object", "additionalProperties": false, "properties": keys});
    let section = json!({"type": "object", "properties": {"ros__parameters": parameters}});
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ROS parameter file of ood_segmentation_node",
        "type": "object",
        "patternProperties": {"(ood_segmentation|\\*)$": section},
    });
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    keep("config/ood_segmentation.schema.json", &text);
}

#[test]
fn the_readme_lists_every_parameter() {
    let (start, end) = ("<!-- parameters -->\n", "<!-- end of parameters -->");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let (before, rest) = readme.split_once(start).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let mut table = String::from(
        "| parameter | shipped value | allowed | while it runs | meaning |\n|---|---|---|---|---|\n",
    );
    for row in PARAMETERS {
        let when = if row.change == Change::Live { "yes" } else { "no" };
        let (name, shipped, allowed) = (&row.name, shipped(row), row.allowed());
        let meaning = row.description.replace('<', "&lt;");
        writeln!(table, "| `{name}` | `{shipped}` | {allowed} | {when} | {meaning} |").unwrap();
    }
    keep("README.md", &format!("{before}{start}{table}{end}{after}"));
}
