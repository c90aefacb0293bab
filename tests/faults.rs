//! The table behind `make faults`: every row of the catalogue once, with tests that exist or a reason.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap_or_default()
}

/// The source of a test such as `node::name` or `lib::image::tests::name`, and its function.
fn place(test: &str) -> (String, &str) {
    let (module, function) = test.rsplit_once("::").unwrap();
    let module = module.strip_suffix("::tests").unwrap_or(module);
    let Some(path) = module.strip_prefix("lib::") else {
        return (read(&format!("tests/{module}.rs")), function);
    };
    let path = path.replace("::", "/");
    (read(&format!("src/{path}.rs")) + &read(&format!("src/{path}/mod.rs")), function)
}

/// Rows that a test of tests/*.rs names in its own name.
fn named() -> BTreeSet<u64> {
    let mut rows = BTreeSet::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")).unwrap() {
        let source = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        for name in source.split("\nfn row_").skip(1) {
            let name = name.split('(').next().unwrap();
            let parts =
                name.split('_').take_while(|part| *part == "and" || part.parse::<u64>().is_ok());
            rows.extend(parts.filter_map(|part| part.parse::<u64>().ok()));
        }
    }
    rows
}

#[test]
fn every_row_is_there_once_with_tests_that_exist_or_the_reason_why_not() {
    let rows: Vec<Value> = serde_json::from_str(&read("tests/faults/rows.json")).unwrap();
    let named = named();
    let numbers: Vec<u64> = rows.iter().map(|row| row["row"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=96).collect::<Vec<_>>());
    let mut automatic = 0;
    for row in &rows {
        let tests = row["tests"].as_array().unwrap();
        for test in tests {
            let (source, function) = place(test.as_str().unwrap());
            assert!(
                source.contains(&format!("fn {function}(")),
                "row {}: no test {test}",
                row["row"]
            );
        }
        let has_test = !tests.is_empty() || named.contains(&row["row"].as_u64().unwrap());
        assert!(has_test || row["why_not"].is_string(), "row {}: no test, no reason", row["row"]);
        assert!(tests.is_empty() || row["why_not"].is_null(), "row {}: both", row["row"]);
        automatic += u32::from(has_test);
    }
    assert!(automatic > 40, "{automatic} rows have tests");
}
