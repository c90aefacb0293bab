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
    pub rotation: u16,
    pub ego_mask: PathBuf,
    pub max_rate_hz: f64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub camera_settings: BTreeMap<String, CameraSettings>,
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
    pub output_resolution: String,
    pub batch: usize,
    pub batch_cameras: usize,
    pub batch_wait_ms: u32,
    pub score: String,
    pub ood_threshold: f64,
    pub obstacle: ObstacleParameters,
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

/// What one camera has different from the others: `camera_settings.<name>.<key>`, the keys those of
/// [`NodeConfig`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the shipped file documents every key, once")]
pub struct CameraSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ego_mask: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rate_hz: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ood_threshold: Option<f64>,
}

impl CameraSettings {
    /// Its fields.
    const KEYS: [&'static str; 4] = ["rotation", "ego_mask", "max_rate_hz", "ood_threshold"];
}

/// What counts as an obstacle; [`crate::obstacle::ObstacleConfig`] has the same fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped file documents every key, once")]
pub struct ObstacleParameters {
    pub hysteresis: f64,
    pub mean_margin: f64,
    pub min_area: usize,
    pub max_area: usize,
    pub min_road: f64,
    pub temperature: f64,
    pub offset: f64,
    pub tolerance: f64,
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
        let mut given = Vec::new(); // each with the file it is from
        for source in overrides {
            match source {
                Override::Value { key, yaml } => {
                    given.push((None, key.clone(), parse(key, yaml)?));
                }
                Override::File(path) => {
                    let values = flat_section(&read(path)?, path, node)?;
                    given.extend(values.into_iter().map(|(key, value)| (Some(path), key, value)));
                }
            }
        }
        let shipped = flat_section(NODE_PARAMETERS, Path::new("built-in parameters"), "/")?;
        let mut values: BTreeMap<String, Value> = shipped.into_iter().collect();
        let last = given.iter().rfind(|(_, key, _)| key == "cameras").map(|(_, _, names)| names);
        let known = with_cameras(&values, last);
        for (path, key, value) in given {
            check(&known, &key, &value).map_err(|error| match path {
                Some(path) => Error::bad_file(path, error.chain()),
                None => error,
            })?;
            values.insert(key, value);
        }
        let config: Self = serde_yaml::from_value(nested(values)).map_err(|error| {
            Error::setting("parameters", &error, "the values that the shipped file lists")
        })?;
        config.validate()?;
        Ok(config)
    }

    /// What the camera of this name has different from the others.
    pub fn of_camera(&self, name: &str) -> CameraSettings {
        self.camera_settings.get(name).cloned().unwrap_or_default()
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
            ("batch_cameras", self.batch_cameras as u64, 1, 64),
            ("batch_wait_ms", u64::from(self.batch_wait_ms), 0, 1000),
            ("jpeg_quality", u64::from(self.jpeg_quality), 1, 100),
        ];
        for (key, value, least, most) in whole {
            if !(least..=most).contains(&value) {
                return Err(Error::setting(key, &value, format!("{least} to {most}")));
            }
        }
        Self::validate_settings(
            "",
            &CameraSettings {
                rotation: Some(self.rotation),
                ego_mask: None,
                max_rate_hz: Some(self.max_rate_hz),
                ood_threshold: Some(self.ood_threshold),
            },
        )?;
        for (name, settings) in &self.camera_settings {
            Self::validate_settings(&format!("camera_settings.{name}."), settings)?;
        }
        if self.model.weights.as_os_str().is_empty() {
            let allowed = "the path of a .safetensors file: \
                -p model.weights:=<file>, or model.weights in a --params-file";
            return Err(Error::setting("model.weights", "empty", allowed));
        }
        Ok(())
    }

    /// Checks what may differ between cameras; `prefix` comes before the keys.
    fn validate_settings(prefix: &str, settings: &CameraSettings) -> Result<()> {
        let wrong = |key: &str, value: &dyn std::fmt::Display, allowed: &str| {
            Err(Error::setting(format!("{prefix}{key}"), &value.to_string(), allowed))
        };
        match *settings {
            CameraSettings { rotation: Some(degrees), .. }
                if ![0, 90, 180, 270].contains(&degrees) =>
            {
                wrong("rotation", &degrees, "0, 90, 180, 270 degrees clockwise")
            }
            CameraSettings { max_rate_hz: Some(rate), .. } if !(0.0..=1000.0).contains(&rate) => {
                wrong("max_rate_hz", &rate, "0 (no limit) to 1000")
            }
            CameraSettings { ood_threshold: Some(threshold), .. } if !threshold.is_finite() => {
                wrong("ood_threshold", &threshold, "a finite number")
            }
            _ => Ok(()),
        }
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

/// The shipped keys and values, and those that the cameras of the list `cameras` may have, like the
/// shipped one that holds for all.
fn with_cameras(
    shipped: &BTreeMap<String, Value>,
    cameras: Option<&Value>,
) -> BTreeMap<String, Value> {
    let mut known = shipped.clone();
    let cameras = cameras.or(shipped.get("cameras")).and_then(Value::as_sequence);
    for name in cameras.into_iter().flatten().filter_map(Value::as_str) {
        for key in CameraSettings::KEYS {
            let own = format!("camera_settings.{name}.{key}");
            known.extend(shipped.get(key).map(|value| (own, value.clone())));
        }
    }
    known
}

/// Checks a value that was given: the key must be a known one, the type the one it has there.
fn check(known: &BTreeMap<String, Value>, key: &str, value: &Value) -> Result<()> {
    let Some(default) = known.get(key) else {
        let near = |known: &str| strsim::jaro_winkler(known, key);
        let nearest = known.keys().max_by(|a, b| near(a).total_cmp(&near(b)));
        let nearest = nearest.map(String::as_str).unwrap_or_default();
        let allowed = format!("the keys of ood_segmentation.param.yaml; did you mean `{nearest}`?");
        return Err(Error::setting(key, "not a parameter of this node", allowed));
    };
    let (same, kind) = match default {
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
    Ok(())
}

/// The inverse of [`flatten`].
fn nested(values: impl IntoIterator<Item = (String, Value)>) -> Value {
    let mut top = Mapping::new();
    let mut groups: BTreeMap<String, Vec<(String, Value)>> = BTreeMap::new();
    for (key, value) in values {
        match key.split_once('.') {
            Some((group, key)) => {
                groups.entry(group.to_owned()).or_default().push((key.to_owned(), value));
            }
            None => {
                top.insert(key.into(), value);
            }
        }
    }
    top.extend(groups.into_iter().map(|(group, keys)| (group.into(), nested(keys))));
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
            (
                "camera_settings.camera.rotaton",
                "90",
                "did you mean `camera_settings.camera.rotation`",
            ),
            (
                "camera_settings.rear.rotation",
                "90",
                "did you mean `camera_settings.camera.rotation`",
            ),
            ("camera_settings.camera.rotation", "45", "270 degrees"),
            ("camera_settings.camera.max_rate_hz", "-1", "0 (no limit) to 1000"),
            ("rotation", "9", "`rotation`"),
            ("ego_mask", "7", "quote"),
            ("batch_cameras", "0", "1 to 64"),
            ("obstacle.min_aera", "5", "did you mean `obstacle.min_area`"),
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
    fn a_camera_has_its_own_settings_and_else_those_of_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        let text = "/**:\n  ros__parameters:\n    camera_settings:\n      front: {rotation: 180}\n    \
            cameras: [front, rear]\n    max_rate_hz: 10\n";
        std::fs::write(&path, text).unwrap();
        let rear = value("camera_settings.rear.ood_threshold", "2.5");
        let config = load(&[Override::File(path), rear]).unwrap();
        assert_eq!((config.rotation, config.max_rate_hz), (0, 10.0));
        let front = CameraSettings { rotation: Some(180), ..CameraSettings::default() };
        assert_eq!(config.of_camera("front"), front);
        let rear = CameraSettings { ood_threshold: Some(2.5), ..CameraSettings::default() };
        assert_eq!(config.of_camera("rear"), rear);
        let shipped = serde_yaml::to_value(load(&[]).unwrap()).unwrap();
        for key in CameraSettings::KEYS {
            assert!(shipped.get(key).is_some(), "{key} of all cameras");
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
