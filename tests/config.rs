//! The shipped configuration files and the structs they fill, key for key.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ood_segmentation::config::{ClassTable, NODE_PARAMETERS, NodeConfig, Override};
use serde_yaml::Value;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

fn yaml(path: &Path) -> Value {
    serde_yaml::from_str(&std::fs::read_to_string(path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Dotted keys and values of nested mappings.
fn flat(value: &Value) -> BTreeMap<String, Value> {
    fn walk(prefix: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
        let Some(mapping) = value.as_mapping() else {
            into.insert(prefix.to_owned(), value.clone());
            return;
        };
        for (key, value) in mapping {
            let dot = if prefix.is_empty() { "" } else { "." };
            walk(&format!("{prefix}{dot}{}", key.as_str().unwrap()), value, into);
        }
    }
    let mut keys = BTreeMap::new();
    walk("", value, &mut keys);
    keys
}

/// The parameters in the shipped file.
fn parameters() -> BTreeMap<String, Value> {
    flat(&yaml(&shipped("ood_segmentation.param.yaml"))["/**"]["ros__parameters"])
}

fn weights() -> Override {
    Override::Value { key: "model.weights".into(), yaml: "a.safetensors".into() }
}

#[test]
fn the_parameter_file_comes_back_from_its_struct_with_every_key_and_value() {
    let file = shipped("ood_segmentation.param.yaml");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), NODE_PARAMETERS, "the one compiled in");
    let config = NodeConfig::load("/ood_segmentation", &[Override::File(file), weights()]).unwrap();
    let mut written = flat(&serde_yaml::to_value(&config).unwrap());
    assert_eq!(written.insert("model.weights".into(), "".into()), Some("a.safetensors".into()));
    assert_eq!(written, parameters());
}

#[test]
fn every_shipped_value_is_one_that_a_command_line_may_set() {
    for (key, value) in parameters() {
        let set = Override::Value {
            key: key.clone(),
            yaml: serde_yaml::to_string(&value).unwrap().trim().to_owned(),
        };
        let changed = NodeConfig::load("/ood_segmentation", &[set, weights()]);
        let changed = changed.unwrap_or_else(|error| panic!("{key}: {}", error.chain()));
        let kept = NodeConfig::load("/ood_segmentation", &[weights()]).unwrap();
        assert_eq!(changed, kept, "{key}");
        let misspelt = Override::Value { key: format!("{key}x"), yaml: "1".into() };
        let error = NodeConfig::load("/ood_segmentation", &[weights(), misspelt]).unwrap_err();
        assert!(error.chain().contains(&format!("did you mean `{key}`")), "{}", error.chain());
    }
}

#[test]
fn the_class_table_is_cityscapes_and_whole() {
    let rows = yaml(&shipped("classes/cityscapes.yaml"));
    let table: ClassTable = serde_yaml::from_value(rows.clone()).unwrap();
    table.validate().unwrap();
    assert_eq!(table, ClassTable::cityscapes());
    assert_eq!(table.0.len(), 19);
    let colours: BTreeSet<_> = table.0.iter().map(|class| class.colour).collect();
    assert_eq!(colours.len(), 19, "two classes of one colour");
    let road = &table.0[0];
    assert_eq!((road.name.as_str(), road.colour), ("road", [128, 64, 128]));
    assert_eq!((table.0[18].name.as_str(), table.0[18].colour), ("bicycle", [119, 11, 32]));
    let drivable: Vec<_> = table.0.iter().filter(|class| class.drivable).map(|c| c.id).collect();
    assert_eq!(drivable, [0], "the road");
    // Back as YAML it has the keys of the file, and those of `drivable: false` that rows leave out.
    let written = serde_yaml::to_value(&table).unwrap();
    for (row, written) in rows.as_sequence().unwrap().iter().zip(written.as_sequence().unwrap()) {
        let (row, mut written) = (flat(row), flat(written));
        if !row.contains_key("drivable") {
            assert_eq!(written.remove("drivable"), Some(false.into()));
        }
        assert_eq!(row, written);
    }
    let mut twice = rows.as_sequence().unwrap().clone();
    twice[1].as_mapping_mut().unwrap().insert("colr".into(), 1.into());
    let error = serde_yaml::from_value::<ClassTable>(Value::Sequence(twice)).unwrap_err();
    assert!(error.to_string().contains("colr"), "{error}");
}
