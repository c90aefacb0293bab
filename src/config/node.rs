//! The node's parameters: the shipped file is the documentation, the default and the list of keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value as Yaml};

use super::parameters::{Change, PARAMETERS, Parameter, Value};
use crate::{Error, Result};

/// `config/ood_segmentation.param.yaml`, compiled in.
pub const NODE_PARAMETERS: &str = include_str!("../../config/ood_segmentation.param.yaml");

/// The parameters, key for key as in [`NODE_PARAMETERS`], where each has its meaning, unit and range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped file documents every key, once")]
pub struct NodeConfig {
    pub cameras: Vec<String>,
    pub transport: Transport,
    pub reliability: Reliability,
    pub silence_ms: u32,
    pub max_width: u32,
    pub max_height: u32,
    pub max_bytes: u64,
    pub model: ModelParameters,
    pub plan: String,
    pub batch: usize,
    pub score: String,
    pub ood_threshold: f64,
    pub mask_reliability: MaskReliability,
    pub jpeg_quality: u8,
    pub use_sim_time: bool,
}

/// Which weights run where; names are parsed by `model` when it is built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped file documents every key, once")]
pub struct ModelParameters {
    pub weights: PathBuf,
    pub device: String,
    pub precision: String,
}

/// Which of a camera's two topics is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// The one that has a publisher, raw first.
    Auto,
    /// `image_raw`, `sensor_msgs/Image`.
    Raw,
    /// `image_raw/compressed`, `sensor_msgs/CompressedImage`.
    Compressed,
}

/// Reliability asked of a camera.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reliability {
    /// Reliable when every publisher offers it, else best effort.
    Auto,
    /// Lost fragments are asked for again; a best-effort publisher does not match.
    Reliable,
    /// Matches every publisher.
    BestEffort,
}

/// Reliability offered to readers of masks and scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskReliability {
    /// The newest picture once; nothing is held for a slow reader.
    BestEffort,
    /// Unacknowledged pictures are held, up to 256 of them.
    Reliable,
}

/// Values that replace defaults, in the order of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Override {
    /// A ROS parameter file; the sections whose name matches the node count.
    File(PathBuf),
    /// `-p key:=yaml`.
    Value {
        /// Dotted key, such as `model.device`.
        key: String,
        /// The value as YAML text.
        yaml: String,
    },
}

/// Values by parameter name.
type Values = BTreeMap<&'static str, Value>;

impl NodeConfig {
    /// Largest parameter file read, bytes.
    const MAX_FILE: u64 = 1 << 20;

    /// The shipped values with `overrides` on top, later ones winning; `node` is the fully qualified
    /// name (`/front/ood_segmentation`) that decides which sections of a file count.
    ///
    /// # Errors
    /// A file that cannot be read, a key the node does not have, a value of the wrong type or range.
    pub fn load(node: &str, overrides: &[Override]) -> Result<Self> {
        let mut values = Values::new();
        for (key, yaml) in flat_section(NODE_PARAMETERS, Path::new("built-in parameters"), "/")? {
            set(&mut values, &key, &yaml)?;
        }
        for source in overrides {
            match source {
                Override::Value { key, yaml } => set(&mut values, key, &parse(key, yaml)?)?,
                Override::File(path) => {
                    let text = read(path)?;
                    for (key, yaml) in flat_section(&text, path, node)? {
                        set(&mut values, &key, &yaml)
                            .map_err(|error| Error::bad_file(path, error.chain()))?;
                    }
                }
            }
        }
        Self::from_values(values)
    }

    /// Every parameter with its value, in the order of [`PARAMETERS`].
    ///
    /// # Errors
    /// None, unless a field of this struct has no row.
    pub fn values(&self) -> Result<Vec<(&'static Parameter, Value)>> {
        let wrong = |error| Error::setting("parameters", &error, "what YAML can hold");
        let mut flat = Vec::new();
        flatten("", &serde_yaml::to_value(self).map_err(wrong)?, &mut flat);
        let mut values = Values::new();
        for (key, yaml) in flat {
            set(&mut values, &key, &yaml)?;
        }
        let row = |row: &'static Parameter| Some((row, values.remove(row.name)?));
        Ok(PARAMETERS.iter().filter_map(row).collect())
    }

    /// This with changes made while the node runs: all of them or, when one is refused, none.
    ///
    /// # Errors
    /// [`Error::Setting`]: no such parameter, a read-only one, a value of the wrong type or range.
    pub fn changed(&self, changes: Vec<(String, Value)>) -> Result<Self> {
        let mut values: Values =
            self.values()?.into_iter().map(|(row, value)| (row.name, value)).collect();
        for (name, value) in changes {
            let row = Parameter::named(&name)?;
            if row.change == Change::ReadOnly {
                let allowed = "to be set at start only, by -p or --params-file";
                return Err(Error::setting(name, "read-only", allowed));
            }
            values.insert(row.name, row.check(value)?);
        }
        Self::from_values(values)
    }

    fn from_values(values: Values) -> Result<Self> {
        let wrong = |error| Error::setting("parameters", &error, "what the shipped file lists");
        let config: Self = serde_yaml::from_value(nested(values).map_err(wrong)?).map_err(wrong)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what no single range can say.
    fn validate(&self) -> Result<()> {
        let mut names: Vec<_> = self.cameras.iter().collect();
        names.sort();
        names.dedup();
        if names.is_empty() || names.len() < self.cameras.len() {
            let allowed = "one or more names, each different from the others";
            return Err(Error::setting("cameras", &format!("{:?}", self.cameras), allowed));
        }
        if self.model.weights.as_os_str().is_empty() {
            let allowed = "the path of a .safetensors file: \
                -p model.weights:=<file>, or model.weights in a --params-file";
            return Err(Error::setting("model.weights", "empty", allowed));
        }
        Ok(())
    }
}

/// The file's text, if it is no larger than a parameter file can be.
fn read(path: &Path) -> Result<String> {
    let size = std::fs::metadata(path).map_err(Error::io(path))?.len();
    if size > NodeConfig::MAX_FILE {
        let problem =
            format!("{size} bytes, a parameter file has at most {}", NodeConfig::MAX_FILE);
        return Err(Error::bad_file(path, problem));
    }
    std::fs::read_to_string(path).map_err(Error::io(path))
}

fn parse(key: &str, yaml: &str) -> Result<Yaml> {
    serde_yaml::from_str(yaml)
        .map_err(|error| Error::setting(key, yaml, format!("a YAML value; {error}")))
}

/// Dotted keys and values of every section of a parameter file whose node name matches `node`.
fn flat_section(text: &str, path: &Path, node: &str) -> Result<Vec<(String, Yaml)>> {
    let yaml = |source| Error::Yaml { path: path.to_path_buf(), source };
    let file: Option<Mapping> = serde_yaml::from_str(text).map_err(yaml)?;
    let mut values = Vec::new();
    sections("", &file.unwrap_or_default(), &mut |name, section| {
        if name_matches(name, node) {
            flatten("", section, &mut values);
        }
    });
    Ok(values)
}

/// Calls `found` with the full name and the content of every `ros__parameters`.
fn sections(prefix: &str, names: &Mapping, found: &mut impl FnMut(&str, &Yaml)) {
    for (key, content) in names {
        let (Some(key), Some(inner)) = (key.as_str(), content.as_mapping()) else { continue };
        let name = format!("{prefix}/{}", key.trim_matches('/'));
        if let Some(section) = inner.get("ros__parameters") {
            found(&name, section);
        }
        sections(&name, inner, found);
    }
}

fn flatten(prefix: &str, value: &Yaml, into: &mut Vec<(String, Yaml)>) {
    let Some(mapping) = value.as_mapping() else {
        into.push((prefix.to_owned(), value.clone()));
        return;
    };
    for (key, value) in mapping {
        let key = key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned);
        let dot = if prefix.is_empty() { "" } else { "." };
        flatten(&format!("{prefix}{dot}{key}"), value, into);
    }
}

/// Whether a section's name covers a node: `*` stands for one part of the name, `**` for any number.
fn name_matches(pattern: &str, node: &str) -> bool {
    fn parts_match(pattern: &[&str], node: &[&str]) -> bool {
        match (pattern, node) {
            ([], []) => true,
            (["**", rest @ ..], _) => (0..=node.len()).any(|n| parts_match(rest, &node[n..])),
            ([first, rest @ ..], [part, parts @ ..]) => {
                (*first == "*" || first == part) && parts_match(rest, parts)
            }
            _ => false,
        }
    }
    let split = |name| str::split(name, '/').filter(|part| !part.is_empty()).collect::<Vec<_>>();
    parts_match(&split(pattern), &split(node))
}

/// Puts the value of a known parameter in its own type.
fn set(values: &mut Values, key: &str, yaml: &Yaml) -> Result<()> {
    let row = Parameter::named(key)?;
    let Ok(value) = Value::deserialize(yaml) else {
        return Err(row.refuse(serde_yaml::to_string(yaml).unwrap_or_default().trim()));
    };
    values.insert(row.name, row.check(value)?);
    Ok(())
}

/// The inverse of [`flatten`] for keys of at most two parts.
fn nested(values: Values) -> Result<Yaml, serde_yaml::Error> {
    let mut groups: BTreeMap<&str, Mapping> = BTreeMap::new();
    let mut top = Mapping::new();
    for (key, value) in values {
        let value = serde_yaml::to_value(value)?;
        match key.split_once('.') {
            Some((group, key)) => {
                groups.entry(group).or_default().insert(key.into(), value);
            }
            None => {
                top.insert(key.into(), value);
            }
        }
    }
    top.extend(groups.into_iter().map(|(group, keys)| (group.into(), keys.into())));
    Ok(top.into())
}

#[cfg(test)]
mod tests {
    use super::super::parameters::Kind;
    use super::*;

    fn value(key: &str, yaml: &str) -> Override {
        Override::Value { key: key.into(), yaml: yaml.into() }
    }

    fn load(overrides: &[Override]) -> Result<NodeConfig> {
        let weights = [value("model.weights", "a.safetensors")];
        NodeConfig::load("/front/ood_segmentation", &[&weights, overrides].concat())
    }

    #[test]
    fn the_struct_has_a_field_for_every_row_and_no_other() {
        let config = load(&[]).unwrap();
        let values = config.values().unwrap();
        assert_eq!(values.len(), PARAMETERS.len());
        assert_eq!(
            NodeConfig::from_values(values.into_iter().map(|(p, v)| (p.name, v)).collect())
                .unwrap(),
            config
        );
        for row in PARAMETERS {
            let Kind::Choice(words) = row.kind else { continue };
            for word in words {
                let config = load(&[value(row.name, word)]).unwrap();
                let now = config.values().unwrap();
                assert!(now.contains(&(row, Value::Text((*word).into()))), "{word}");
            }
        }
    }

    #[test]
    fn a_running_node_takes_all_changes_or_none() {
        let config = load(&[]).unwrap();
        let change = |changes: &[(&str, Value)]| {
            config.changed(
                changes.iter().map(|(key, value)| ((*key).into(), value.clone())).collect(),
            )
        };
        let threshold = ("ood_threshold", Value::Integer(3)); // as `ros2 param set` sends a 3
        let changed = change(&[threshold.clone(), ("jpeg_quality", Value::Integer(7))]).unwrap();
        assert_eq!((changed.ood_threshold, changed.jpeg_quality), (3.0, 7));
        let refused = [
            ("batch", Value::Integer(2), "read-only"),
            ("jpeg_quality", Value::Integer(101), "1 to 100"),
            ("jpeg_quality", Value::Double(7.0), "whole number"),
            ("use_sim_time", Value::Text("true".into()), "true or false"),
            ("ood_threshold", Value::Double(f64::INFINITY), "finite"),
            ("jpeg_qualty", Value::Integer(7), "did you mean `jpeg_quality`"),
        ];
        for (key, value, expected) in refused {
            let error = change(&[threshold.clone(), (key, value)]).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn files_count_where_the_name_matches_and_the_later_one_wins() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            Override::File(path)
        };
        let first = file(
            "a.yaml",
            "/**:\n  ros__parameters: {batch: 2, plan: paper}\n\
             /rear/ood_segmentation:\n  ros__parameters: {batch: 9}\n\
             front:\n  ood_segmentation:\n    ros__parameters: {model: {device: cpu}}\n",
        );
        let second = file(
            "b.yaml",
            "/*/ood_segmentation:\n  ros__parameters: {batch: 4, model.precision: bf16}\n",
        );
        let config = load(&[first, second, value("ood_threshold", "3")]).unwrap();
        assert_eq!((config.batch, config.plan.as_str()), (4, "paper"));
        assert_eq!((config.model.device.as_str(), config.ood_threshold), ("cpu", 3.0));
        assert_eq!(config.model.precision, "bf16");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_key_and_the_remedy() {
        let cases = [
            ("ood_treshold", "1.0", "did you mean `ood_threshold`"),
            ("batch", "two", "whole number"),
            ("batch", "0", "1 to 64"),
            ("batch", "-1", "whole number"),
            ("ood_threshold", ".nan", "finite"),
            ("transport", "h264", "auto, raw, compressed"),
            ("model.device", "3", "quote"),
            ("use_sim_time", "1", "true or false"),
            ("cameras", "[a, a]", "different"),
            ("cameras", "[]", "one or more"),
            ("plan", "[", "YAML"),
            ("model.weights", "\"\"", "safetensors"),
        ];
        for (key, yaml, expected) in cases {
            let error = load(&[value(key, yaml)]).unwrap_err().chain();
            assert!(error.contains(expected), "{key}:={yaml}: {error}");
        }
    }

    #[test]
    fn a_bad_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.yaml");
        let texts = [
            ("/**:\n  ros__parameters: {tresholds: 1}\n", "tresholds"),
            ("/**: [", "line 2"),
            ("- 1\n", "expected a YAML mapping"),
        ];
        for (text, expected) in texts {
            std::fs::write(&path, text).unwrap();
            let error = load(&[Override::File(path.clone())]).unwrap_err().chain();
            assert!(error.contains("bad.yaml") && error.contains(expected), "{error}");
        }
        let error = load(&[Override::File("absent.yaml".into())]).unwrap_err().chain();
        assert!(error.contains("absent.yaml") && error.contains("No such file"), "{error}");
    }
}
