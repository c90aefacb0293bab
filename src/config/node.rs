//! The node's parameters: the shipped file is the documentation, the default and the list of keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

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
    pub stale_after_ms: u32,
    pub budget_ms: u32,
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

impl NodeConfig {
    /// Largest parameter file read, bytes.
    const MAX_FILE: u64 = 1 << 20;

    /// The shipped values with `overrides` on top, later ones winning; `node` is the fully qualified
    /// name (`/front/ood_segmentation`) that decides which sections of a file count.
    ///
    /// # Errors
    /// A file that cannot be read, a key the node does not have, a value of the wrong type or range.
    pub fn load(node: &str, overrides: &[Override]) -> Result<Self> {
        let mut values = flat_section(NODE_PARAMETERS, Path::new("built-in parameters"), "/")?;
        for source in overrides {
            match source {
                Override::Value { key, yaml } => set(&mut values, key, &parse(key, yaml)?)?,
                Override::File(path) => {
                    let text = read(path)?;
                    for (key, value) in flat_section(&text, path, node)? {
                        set(&mut values, &key, &value)
                            .map_err(|error| Error::bad_file(path, error.chain()))?;
                    }
                }
            }
        }
        let config: Self = serde_yaml::from_value(nested(values)).map_err(|error| {
            Error::setting("parameters", &error, "the values that the shipped file lists")
        })?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what one value, or two together, can get wrong.
    fn validate(&self) -> Result<()> {
        let mut names: Vec<_> = self.cameras.iter().collect();
        names.sort();
        names.dedup();
        if names.is_empty() || names.len() < self.cameras.len() {
            let allowed = "one or more names, each different from the others";
            return Err(Error::setting("cameras", &format!("{:?}", self.cameras), allowed));
        }
        let whole = [
            ("silence_ms", u64::from(self.silence_ms), 0, 600_000),
            ("stale_after_ms", u64::from(self.stale_after_ms), 1, 600_000),
            ("budget_ms", u64::from(self.budget_ms), 1, 600_000),
            ("max_width", u64::from(self.max_width), 1, 65_535),
            ("max_height", u64::from(self.max_height), 1, 65_535),
            ("max_bytes", self.max_bytes, 1, 1 << 30),
            ("batch", self.batch as u64, 1, 64),
            ("jpeg_quality", u64::from(self.jpeg_quality), 1, 100),
        ];
        for (key, value, least, most) in whole {
            if !(least..=most).contains(&value) {
                return Err(Error::setting(key, &value, format!("{least} to {most}")));
            }
        }
        if !self.ood_threshold.is_finite() {
            return Err(Error::setting("ood_threshold", &self.ood_threshold, "a finite number"));
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

fn parse(key: &str, yaml: &str) -> Result<Value> {
    serde_yaml::from_str(yaml)
        .map_err(|error| Error::setting(key, yaml, format!("a YAML value; {error}")))
}

/// Dotted keys and values of every section of a parameter file whose node name matches `node`.
fn flat_section(text: &str, path: &Path, node: &str) -> Result<Vec<(String, Value)>> {
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
fn sections(prefix: &str, names: &Mapping, found: &mut impl FnMut(&str, &Value)) {
    for (key, content) in names {
        let (Some(key), Some(inner)) = (key.as_str(), content.as_mapping()) else { continue };
        let name = format!("{prefix}/{}", key.trim_matches('/'));
        if let Some(section) = inner.get("ros__parameters") {
            found(&name, section);
        }
        sections(&name, inner, found);
    }
}

fn flatten(prefix: &str, value: &Value, into: &mut Vec<(String, Value)>) {
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

/// Replaces a value: the key must be one of the shipped file's, and keep the type it has there.
fn set(values: &mut [(String, Value)], key: &str, value: &Value) -> Result<()> {
    let Some((_, old)) = values.iter_mut().find(|(known, _)| known == key) else {
        let near = |known: &str| strsim::jaro_winkler(known, key);
        let nearest = values.iter().map(|(known, _)| known.as_str());
        let nearest = nearest.max_by(|a, b| near(a).total_cmp(&near(b))).unwrap_or_default();
        let allowed = format!("the keys of ood_segmentation.param.yaml; did you mean `{nearest}`?");
        return Err(Error::setting(key, "not a parameter of this node", allowed));
    };
    let (same, kind) = match old {
        Value::Bool(_) => (value.is_bool(), "true or false"),
        Value::Number(number) if number.is_f64() => (value.is_number(), "a number"),
        Value::Number(_) => (value.is_u64(), "a whole number, 0 or more"),
        Value::Sequence(_) => {
            let strings = |list: &serde_yaml::Sequence| list.iter().all(Value::is_string);
            (value.as_sequence().is_some_and(strings), "a list of names, such as [front, rear]")
        }
        _ => (value.is_string(), "a text; quote one that looks like a number"),
    };
    if !same {
        let found = serde_yaml::to_string(value).unwrap_or_default();
        return Err(Error::setting(key, found.trim(), kind));
    }
    *old = value.clone();
    Ok(())
}

/// The inverse of [`flatten`] for keys of at most two parts.
fn nested(values: Vec<(String, Value)>) -> Value {
    let mut groups: BTreeMap<String, Mapping> = BTreeMap::new();
    let mut top = Mapping::new();
    for (key, value) in values {
        match key.split_once('.') {
            Some((group, key)) => {
                groups.entry(group.to_owned()).or_default().insert(key.into(), value);
            }
            None => {
                top.insert(key.into(), value);
            }
        }
    }
    top.extend(groups.into_iter().map(|(group, keys)| (group.into(), keys.into())));
    top.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(key: &str, yaml: &str) -> Override {
        Override::Value { key: key.into(), yaml: yaml.into() }
    }

    fn load(overrides: &[Override]) -> Result<NodeConfig> {
        let weights = [value("model.weights", "a.safetensors")];
        NodeConfig::load("/front/ood_segmentation", &[&weights, overrides].concat())
    }

    #[test]
    fn the_shipped_file_and_the_struct_have_the_same_keys() {
        let config = load(&[]).unwrap();
        let mut ours = Vec::new();
        flatten("", &serde_yaml::to_value(&config).unwrap(), &mut ours);
        let shipped = flat_section(NODE_PARAMETERS, Path::new(""), "/").unwrap();
        let keys =
            |list: &[(String, Value)]| list.iter().map(|(k, _)| k.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&ours), keys(&shipped));
        for line in NODE_PARAMETERS.lines().filter(|line| line.starts_with("    ")) {
            let is_group = line.trim_end().ends_with(':');
            assert!(is_group || line.contains('#'), "no comment: {line}");
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
            ("transport", "h264", "unknown variant `h264`"),
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
