//! The node's parameters: the shipped file is the documentation, the default and the list of keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value as Yaml};

use super::calibrated::Calibrated;
use super::parameters::{Change, Parameter, Value};
use super::problems::{Problems, in_file};
use super::qos::{MaskReliability, QosOverrides, Reliability, Transport};
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
    pub nominal_rate_hz: f64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub camera_settings: BTreeMap<String, CameraSettings>,
    pub transport: Transport,
    pub reliability: Reliability,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub qos_overrides: QosOverrides,
    pub silence_ms: u32,
    pub writer_lock_ms: u32,
    pub max_age_ms: u32,
    pub allow_zero_stamp: bool,
    pub stale_after_ms: u32,
    pub budget_ms: u32,
    pub degrade_after_ms: u32,
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
    pub ood_threshold: Calibrated,
    pub obstacle: ObstacleParameters,
    pub quality: QualityParameters,
    pub record: RecordParameters,
    pub mask_reliability: MaskReliability,
    pub jpeg_quality: u8,
    pub overlay_alpha: f64,
    pub topic_statistics: bool,
    pub autostart: bool,
    pub allow_duplicate: bool,
    pub selftest_period_s: u32,
    pub hang_ms: u32,
    pub memory_limit_mb: u32,
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
    pub cuda_graphs: bool,
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
    pub nominal_rate_hz: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ood_threshold: Option<Calibrated>,
}

impl CameraSettings {
    /// Its fields.
    pub const KEYS: [&'static str; 5] =
        ["rotation", "ego_mask", "max_rate_hz", "nominal_rate_hz", "ood_threshold"];
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
    pub temperature: Calibrated,
    pub offset: Calibrated,
    pub tolerance: f64,
}

/// When [`crate::quality`] finds fault with a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped file documents every key, once")]
pub struct QualityParameters {
    pub enabled: bool,
    pub dark: f64,
    pub bright: f64,
    pub saturated: f64,
    pub sharpness: f64,
    pub frozen_ms: u32,
    pub covered: u32,
    pub torn: f64,
    pub unfamiliar: f64,
}

/// What is kept of the seconds around something remarkable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped file documents every key, once")]
pub struct RecordParameters {
    pub directory: PathBuf,
    pub before_s: f64,
    pub after_s: f64,
    pub memory_mb: u64,
    pub max_mb: u64,
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
type Values = BTreeMap<String, Value>;

impl NodeConfig {
    /// Largest parameter file read, bytes.
    const MAX_FILE: u64 = 1 << 20;

    /// The shipped values with `overrides` on top, later ones winning; `node` is the fully qualified
    /// name (`/front/ood_segmentation`) that decides which sections of a file count.
    ///
    /// # Errors
    /// A file that cannot be read, a key the node does not have, a value of the wrong type or range.
    pub fn load(node: &str, overrides: &[Override]) -> Result<Self> {
        let shipped = flat_section(NODE_PARAMETERS, Path::new("built-in parameters"), "/")?;
        let mut given: Vec<_> = shipped.into_iter().map(|(key, yaml)| (None, key, yaml)).collect();
        let mut problems = Problems::default();
        for source in overrides {
            match source {
                Override::Value { key, yaml } => {
                    let yaml = problems.keep(parse(key, yaml));
                    given.extend(yaml.map(|yaml| (None, key.clone(), yaml)));
                }
                Override::File(path) => {
                    let section = flat_section(&read(path)?, path, node)?;
                    given.extend(section.into_iter().map(|(key, yaml)| (Some(path), key, yaml)));
                }
            }
        }
        // They decide which keys there are, wherever they stand.
        let cameras = given.iter().rfind(|(_, key, _)| key == "cameras");
        let cameras = cameras.and_then(|(_, _, names)| Vec::deserialize(names).ok());
        let cameras: Vec<String> = cameras.unwrap_or_default();
        let mut values = Values::new();
        for (path, key, yaml) in given {
            let checked = typed(&key, &yaml, &cameras).map_err(|error| match path {
                Some(path) => in_file(path, &key, &error),
                None => error,
            });
            values.extend(problems.keep(checked));
        }
        problems.none()?;
        Self::from_values(values)
    }

    /// What the camera of this name has different from the others.
    pub fn of_camera(&self, name: &str) -> CameraSettings {
        self.camera_settings.get(name).cloned().unwrap_or_default()
    }

    /// Every parameter with its value, in the order of [`Parameter::all`]; of what a camera or a topic
    /// may have of its own what it has.
    ///
    /// # Errors
    /// None, unless a field of this struct has no row.
    pub fn values(&self) -> Result<Vec<(Parameter, Value)>> {
        let wrong = |error| Error::setting("parameters", &error, "what YAML can hold");
        let mut flat = Vec::new();
        flatten("", &serde_yaml::to_value(self).map_err(wrong)?, &mut flat);
        let typed = flat.iter().map(|(key, yaml)| typed(key, yaml, &self.cameras));
        let mut values = typed.collect::<Result<Values>>()?;
        let overrides = self.qos_overrides.keys().flat_map(|topic| Parameter::of_topic(topic));
        let known = Parameter::all(&self.cameras).chain(overrides);
        Ok(known.filter_map(|row| values.remove(&*row.name).map(|value| (row, value))).collect())
    }

    /// This with changes made while the node runs: all of them or, when one is refused, none.
    ///
    /// # Errors
    /// [`Error::Setting`]: no such parameter, a read-only one, a value of the wrong type or range.
    pub fn changed(&self, changes: Vec<(String, Value)>) -> Result<Self> {
        let values = self.values()?.into_iter();
        let mut values: Values = values.map(|(row, value)| (row.name.into(), value)).collect();
        for (name, value) in changes {
            let row = Parameter::named(&name, &self.cameras)?;
            if row.change == Change::ReadOnly {
                let allowed = "to be set at start only, by -p or --params-file";
                return Err(Error::setting(name, "read-only", allowed));
            }
            values.insert(name, row.check(value)?);
        }
        Self::from_values(values)
    }

    fn from_values(values: Values) -> Result<Self> {
        let wrong = |error| Error::setting("parameters", &error, "what the shipped file lists");
        let yaml = values.into_iter().map(|(key, value)| Ok((key, serde_yaml::to_value(value)?)));
        let yaml = yaml.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        let config: Self = serde_yaml::from_value(nested(yaml)).map_err(wrong)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what no single range can say.
    fn validate(&self) -> Result<()> {
        let mut names: Vec<_> = self.cameras.iter().collect();
        names.sort();
        names.dedup();
        let unnamed = names.iter().any(|name| name.is_empty());
        if names.is_empty() || unnamed || names.len() < self.cameras.len() {
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

/// The name and value of a known parameter, in its own type.
fn typed(key: &str, yaml: &Yaml, cameras: &[String]) -> Result<(String, Value)> {
    let row = Parameter::named(key, cameras)?;
    let Ok(value) = Value::deserialize(yaml) else {
        return Err(row.refuse(serde_yaml::to_string(yaml).unwrap_or_default().trim()));
    };
    Ok((key.to_owned(), row.check(value)?))
}

/// The inverse of [`flatten`].
fn nested(values: impl IntoIterator<Item = (String, Yaml)>) -> Yaml {
    let mut top = Mapping::new();
    let mut groups: BTreeMap<String, Vec<(String, Yaml)>> = BTreeMap::new();
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
    use super::super::parameters::{Kind, PARAMETERS};
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
            |list: &[(String, Yaml)]| list.iter().map(|(k, _)| k.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&ours), keys(&shipped));
    }

    #[test]
    fn the_struct_has_a_field_for_every_row_and_no_other() {
        let config = load(&[]).unwrap();
        let values = config.values().unwrap();
        assert_eq!(values.len(), PARAMETERS.len());
        assert_eq!(
            NodeConfig::from_values(values.into_iter().map(|(p, v)| (p.name.into(), v)).collect())
                .unwrap(),
            config
        );
        for row in PARAMETERS {
            let Kind::Choice(words) = row.kind else { continue };
            for word in words {
                let config = load(&[value(&row.name, word)]).unwrap();
                let now = config.values().unwrap();
                assert!(now.contains(&(row.clone(), Value::Text((*word).into()))), "{word}");
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
        assert_eq!((changed.ood_threshold, changed.jpeg_quality), (Calibrated(Some(3.0)), 7));
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
        assert_eq!(config.ood_threshold, Calibrated(Some(3.0)));
        assert_eq!(config.model.device, "cpu");
        assert_eq!(config.model.precision, "bf16");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_key_and_the_remedy() {
        let cases = [
            ("ood_treshold", "1.0", "did you mean `ood_threshold`"),
            ("batch", "two", "whole number"),
            ("batch", "0", "1 to 64"),
            ("batch", "-1", "whole number"),
            ("ood_threshold", ".inf", "finite"),
            ("obstacle.hysteresis", ".nan", "finite"),
            ("transport", "h264", "auto, raw, compressed"),
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
            ("camera_settings.camera.max_rate_hz", "-1", "0 to 1000"),
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
        let rear = CameraSettings {
            ood_threshold: Some(Calibrated(Some(2.5))),
            ..CameraSettings::default()
        };
        assert_eq!(config.of_camera("rear"), rear);
        let shipped = serde_yaml::to_value(load(&[]).unwrap()).unwrap();
        for key in CameraSettings::KEYS {
            assert!(shipped.get(key).is_some(), "{key} of all cameras");
        }
    }

    #[test]
    fn what_a_camera_has_of_its_own_is_listed_starts_the_same_node_and_stays() {
        let own = [
            value("cameras", "[front, rear]"),
            value("camera_settings.rear.rotation", "270"),
            value("camera_settings.front.ood_threshold", "2"),
            value("camera_settings.front.ego_mask", "front.png"),
        ];
        let config = load(&own).unwrap();
        let values = config.values().unwrap();
        let listed: Vec<_> =
            values[PARAMETERS.len()..].iter().map(|(p, v)| (&*p.name, v)).collect();
        let expected = [
            ("camera_settings.front.ego_mask", &Value::Text("front.png".into())),
            ("camera_settings.front.ood_threshold", &Value::Double(2.0)),
            ("camera_settings.rear.rotation", &Value::Integer(270)),
        ];
        assert_eq!(listed, expected);
        let dumped = values.iter().map(|(p, v)| value(&p.name, &serde_yaml::to_string(v).unwrap()));
        assert_eq!(load(&dumped.collect::<Vec<_>>()).unwrap(), config);
        let changed = config.changed(vec![("ood_threshold".into(), Value::Double(5.0))]).unwrap();
        assert_eq!(changed, NodeConfig { ood_threshold: Calibrated(Some(5.0)), ..config.clone() });
        for (key, expected) in [
            ("camera_settings.front.ood_threshold", "read-only"),
            ("camera_settings.rear.ood_threshold", "read-only"),
            ("camera_settings.left.ood_threshold", "did you mean `camera_settings."),
        ] {
            let error = config.changed(vec![(key.into(), Value::Double(1.0))]).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
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
