//! Every parameter of the node: one row for what may be set, what it means and when.
//!
//! From these rows come the checks at start and at run time, the answers to `ros2 param describe`, and,
//! kept equal by `tests/parameters.rs`, the comments of `config/ood_segmentation.param.yaml`,
//! `config/ood_segmentation.schema.json` and the README's table. The values at start are those of the
//! YAML file alone.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{CameraSettings, qos};
use crate::{Error, Result};

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Dotted name, such as `model.device`.
    pub name: Cow<'static, str>,
    /// Type and range.
    pub kind: Kind,
    /// Whether a running node takes a new value.
    pub change: Change,
    /// Meaning and unit, for people.
    pub description: &'static str,
}

/// Type and range of a parameter; both ends of a range are allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "least and most are what they say")]
pub enum Kind {
    /// true or false.
    Bool,
    /// Degrees: 0, 90, 180 or 270.
    QuarterTurn,
    /// A whole number.
    Integer { least: i64, most: i64 },
    /// A number; a whole one is taken too.
    Double { least: f64, most: f64 },
    /// A number, or NaN for the one in the model's calibration.
    Calibrated { least: f64, most: f64 },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text.
    Text,
    /// A list of texts.
    Texts,
}

/// When a parameter may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// At start only.
    ReadOnly,
    /// At any time; the next frame uses it.
    Live,
}

/// A parameter's value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "each holds what it says")]
pub enum Value {
    Bool(bool),
    Integer(i64),
    Double(f64),
    Text(String),
    Texts(Vec<String>),
}

use Change::{Live, ReadOnly};
use Kind::{Bool, Calibrated, Choice, Double, Integer, QuarterTurn, Text, Texts};

/// The parameters in the order of the shipped file.
#[rustfmt::skip] // a table
pub const PARAMETERS: &[Parameter] = &[
    row("cameras", Texts, ReadOnly,
        "names, one namespace each: <name>/image_raw in, <name>/ood/image out"),
    row("rotation", QuarterTurn, ReadOnly,
        "clockwise, that bring up to the top; masks are turned back"),
    row("ego_mask", Text, ReadOnly,
        "path of a grey PNG of the camera's size, not black on the own vehicle: class 255, mask 0, score NaN; empty: none"),
    row("max_rate_hz", Double { least: 0.0, most: 1000.0 }, ReadOnly,
        "frames above this rate are left out and counted in status; 0: no limit"),
    row("nominal_rate_hz", Double { least: 0.0, most: 1000.0 }, ReadOnly,
        "diagnostics: WARN when a camera sends less than 80 % of it; 0: not checked"),
    row("transport", Choice(&["auto", "raw", "compressed"]), ReadOnly,
        "raw: <name>/image_raw; compressed: <name>/image_raw/compressed; auto: the one that has a publisher, raw first"),
    row("reliability", Choice(&["auto", "reliable", "best_effort"]), ReadOnly,
        "of the inputs; auto: reliable when every publisher offers it"),
    row("silence_ms", Integer { least: 0, most: 600_000 }, Live,
        "a camera silent for so many ms gets a new DDS participant; 0: never"),
    row("writer_lock_ms", Integer { least: 0, most: 600_000 }, ReadOnly,
        "of several publishers of one camera's topic the first is read, until it was silent for so many ms; 0: all are"),
    row("max_age_ms", Integer { least: 0, most: 600_000 }, Live,
        "a frame that is older on the ROS clock is refused, once one of its camera was younger; 0: never"),
    row("allow_zero_stamp", Bool, Live,
        "false: a frame without a stamp is refused; true: it is segmented, and no stamp of zero is compared"),
    row("stale_after_ms", Integer { least: 1, most: 600_000 }, ReadOnly,
        "diagnostics: ERROR when a camera's newest image came longer ago"),
    row("budget_ms", Integer { least: 1, most: 600_000 }, ReadOnly,
        "diagnostics: WARN for a frame that took longer, ERROR after 1 s of it; status: late above it"),
    row("degrade_after_ms", Integer { least: 0, most: 600_000 }, ReadOnly,
        "frames over budget_ms for so long: the next of tiles, single, segmentor_only, no_result; 0: never"),
    row("max_width", Integer { least: 1, most: 65_535 }, ReadOnly,
        "px; a larger image is refused before anything is allocated"),
    row("max_height", Integer { least: 1, most: 65_535 }, ReadOnly,
        "px; a larger image is refused before anything is allocated"),
    row("max_bytes", Integer { least: 1, most: 1 << 30 }, ReadOnly,
        "bytes of pixel data; a larger image is refused before anything is allocated"),
    row("model.weights", Text, ReadOnly,
        "path of a .safetensors file with its .yaml beside it"),
    row("model.device", Text, ReadOnly,
        "auto (the first GPU, else the CPU), cpu, cuda, cuda:N"),
    row("model.precision", Choice(&["f32", "bf16", "f16"]), ReadOnly,
        "floating-point type of the network"),
    row("model.cuda_graphs", Bool, ReadOnly,
        "on a GPU, as far as each proves equal at start: passes recorded as CUDA graphs, copies through pinned buffers; needs the plug-in of make cuda-plugin; never tried on a GPU yet"),
    row("plan", Choice(&["paper", "tiles", "single"]), ReadOnly,
        "paper: a window every 140 px; tiles: the fewest windows; single: one, resized"),
    row("output_resolution", Choice(&["input", "network"]), ReadOnly,
        "size of every output: input (the camera's) or network (with plan: single smaller)"),
    row("batch", Integer { least: 1, most: 64 }, ReadOnly,
        "windows through the network at a time, of one or several cameras"),
    row("batch_cameras", Integer { least: 1, most: 64 }, ReadOnly,
        "cameras whose frames are taken at a time; they take turns when more wait"),
    row("batch_wait_ms", Integer { least: 0, most: 1000 }, ReadOnly,
        "how long the first frame waits for those of other cameras; 0: what is there now"),
    row("score", Choice(&["llr", "neg_id", "ood", "msp", "max_logit", "entropy", "energy", "rba"]), ReadOnly,
        "what a pixel's strangeness is measured by, higher is stranger"),
    row("ood_threshold", Calibrated { least: -1e6, most: 1e6 }, Live,
        "in units of the score; a pixel above it is an obstacle; .nan: the calibration's, 0 where the model has none"),
    row("obstacle.hysteresis", Double { least: 0.0, most: 1e6 }, ReadOnly,
        "an obstacle reaches on as far as scores > ood_threshold - hysteresis; as shipped, every pixel above is one"),
    row("obstacle.mean_margin", Double { least: 0.0, most: 1e6 }, ReadOnly,
        "least mean score of an obstacle, above ood_threshold - hysteresis"),
    row("obstacle.min_area", Integer { least: 1, most: u32::MAX as i64 }, ReadOnly,
        "px; fewest pixels of an obstacle; 1: every speck is a detection of its own"),
    row("obstacle.max_area", Integer { least: 1, most: u32::MAX as i64 }, ReadOnly,
        "px; most pixels of an obstacle"),
    row("obstacle.min_road", Double { least: 0.0, most: 1.0 }, ReadOnly,
        "least share of it, or of its lower edge, on the drivable area; 0: anywhere"),
    row("obstacle.temperature", Calibrated { least: 1e-6, most: 1e6 }, ReadOnly,
        "probability of a detection: mean sigmoid((score - offset) / temperature); .nan: the calibration's, else 1"),
    row("obstacle.offset", Calibrated { least: -1e6, most: 1e6 }, ReadOnly,
        "the score whose probability is one half; .nan: the calibration's, else 0"),
    row("obstacle.tolerance", Double { least: 0.0, most: 1e6 }, ReadOnly,
        "px; how far ood/outlines may run from the pixels' edges"),
    row("quality.enabled", Bool, Live,
        "look at every picture before it is segmented; status and diagnostics say what is wrong, masks come all the same"),
    row("quality.dark", Double { least: 0.0, most: 255.0 }, Live,
        "a picture with a lower mean is dark"),
    row("quality.bright", Double { least: 0.0, most: 255.0 }, Live,
        "a picture with a higher mean is overexposed"),
    row("quality.saturated", Double { least: 0.0, most: 1.0 }, Live,
        "largest share of pixels at full scale"),
    row("quality.sharpness", Double { least: 0.0, most: 1.0 }, Live,
        "least steepness of the strongest edges, their change over a 240th of the longer side by that over six times as much; below it the picture is blurred"),
    row("quality.frozen_ms", Integer { least: 1, most: 600_000 }, Live,
        "the same picture with new stamps for so long is frozen; diagnostics: ERROR after three times as long"),
    row("quality.covered", Integer { least: 1, most: 17 }, Live,
        "fewest of the 16 blocks of a picture that show nothing for it to be partly covered; 17: never"),
    row("quality.torn", Double { least: 0.0, most: 1.0 }, Live,
        "largest share of columns that jump up between two rows, and as many down; above it the picture is torn"),
    row("quality.unfamiliar", Double { least: 0.0, most: 1e6 }, Live,
        "times the bound of the model's calibration by which a picture's features may differ from its pictures'; 0: never unfamiliar"),
    row("record.directory", Text, ReadOnly,
        "where bags of the seconds around an obstacle, a fault, a bad picture or a call of ~/record go; empty: none, and nothing is kept"),
    row("record.before_s", Double { least: 0.0, most: 60.0 }, ReadOnly,
        "s before the cause that a bag holds, as far as record.memory_mb reaches"),
    row("record.after_s", Double { least: 0.1, most: 60.0 }, ReadOnly,
        "s after the last cause that a bag holds; it ends a minute after the first"),
    row("record.memory_mb", Integer { least: 1, most: 1 << 20 }, ReadOnly,
        "MB of memory for the seconds before the cause"),
    row("record.max_mb", Integer { least: 1, most: 1 << 20 }, ReadOnly,
        "MB of all bags in the directory; the oldest go first"),
    row("mask_reliability", Choice(&["best_effort", "reliable"]), ReadOnly,
        "of the outputs; reliable: up to 256 pictures are held per slow reader"),
    row("jpeg_quality", Integer { least: 1, most: 100 }, Live,
        "of overlay/image/compressed"),
    row("overlay_alpha", Double { least: 0.0, most: 1.0 }, Live,
        "of overlay/image: share of the classes' colours, the rest is the picture"),
    row("topic_statistics", Bool, ReadOnly,
        "publish on /statistics, every second, how old each camera's images were and how far apart they came"),
    row("autostart", Bool, ReadOnly,
        "true: the node becomes active by itself; false: it waits, unconfigured, for lifecycle clients"),
    row("allow_duplicate", Bool, ReadOnly,
        "false: the node ends, exit code 78, where another one has its name already"),
    row("selftest_period_s", Integer { least: 0, most: 3600 }, ReadOnly,
        "the network answers a known picture that often, between frames; 0: at start only"),
    row("hang_ms", Integer { least: 0, most: 600_000 }, ReadOnly,
        "least time after which a frame in work is taken for a hang, exit code 71; ten times the usual if that is longer; 0: never"),
    row("memory_limit_mb", Integer { least: 0, most: 1 << 20 }, ReadOnly,
        "resident memory at which the node ends, exit code 70, to be started again; 0: no limit"),
    row("use_sim_time", Bool, Live,
        "true: ages and latencies are on the time of /clock; stamps pass through unchanged either way"),
];

const fn row(
    name: &'static str,
    kind: Kind,
    change: Change,
    description: &'static str,
) -> Parameter {
    Parameter { name: Cow::Borrowed(name), kind, change, description }
}

impl Parameter {
    /// The rows, and after them those that each of `cameras` may have of its own, such as
    /// `camera_settings.rear.rotation`, which are set at start only.
    pub fn all(cameras: &[String]) -> impl Iterator<Item = Self> {
        let of_all = |key: &str| PARAMETERS.iter().find(|row| row.name == key);
        let own = move |camera: &String, key: &str| {
            let name = format!("camera_settings.{camera}.{key}").into();
            Some(Self { name, change: ReadOnly, ..of_all(key)?.clone() })
        };
        let own_of =
            move |camera| CameraSettings::KEYS.into_iter().filter_map(move |key| own(camera, key));
        PARAMETERS.iter().cloned().chain(cameras.iter().flat_map(own_of))
    }

    /// The one called `name`, of [`Parameter::all`] or [`Parameter::of_topic`].
    ///
    /// # Errors
    /// [`Error::Setting`] with the most similar name.
    pub fn named(name: &str, cameras: &[String]) -> Result<Self> {
        let near = |row: &Self| strsim::jaro_winkler(&row.name, name);
        let topic = qos::topic_of(name);
        let rows =
            || Self::all(cameras).chain(topic.iter().flat_map(|topic| Self::of_topic(topic)));
        rows().find(|row| row.name == name).ok_or_else(|| {
            let nearest = rows().max_by(|a, b| near(a).total_cmp(&near(b)));
            let nearest = nearest.map_or(Cow::Borrowed(""), |row| row.name);
            let allowed =
                format!("the keys of ood_segmentation.param.yaml; did you mean `{nearest}`?");
            Error::setting(name, "not a parameter of this node", allowed)
        })
    }

    /// The value in the parameter's own type, if it is in range.
    ///
    /// # Errors
    /// [`Error::Setting`] with the range.
    pub fn check(&self, value: Value) -> Result<Value> {
        match (self.kind, value) {
            (Bool, value @ Value::Bool(_))
            | (Text, value @ Value::Text(_))
            | (Texts, value @ Value::Texts(_)) => Ok(value),
            (QuarterTurn, Value::Integer(n @ (0 | 90 | 180 | 270))) => Ok(Value::Integer(n)),
            (Integer { least, most }, Value::Integer(n)) if (least..=most).contains(&n) => {
                Ok(Value::Integer(n))
            }
            (Double { least, most }, Value::Double(x)) if (least..=most).contains(&x) => {
                Ok(Value::Double(x))
            }
            (Calibrated { least, most }, Value::Double(x))
                if x.is_nan() || (least..=most).contains(&x) =>
            {
                Ok(Value::Double(x))
            }
            #[expect(clippy::cast_precision_loss, reason = "ranges lie far below 2^53")]
            (Double { .. } | Calibrated { .. }, Value::Integer(n)) => {
                self.check(Value::Double(n as f64))
            }
            (Choice(words), Value::Text(word)) if words.contains(&word.as_str()) => {
                Ok(Value::Text(word))
            }
            (_, value) => Err(self.refuse(&value.to_string())),
        }
    }

    /// The error for a value that is not one of this parameter.
    pub fn refuse(&self, value: &str) -> Error {
        let why = if qos::topic_of(&self.name).is_some() { self.description } else { "" };
        let colon = if why.is_empty() { "" } else { ": " };
        Error::setting(&*self.name, value, format!("{}{colon}{why}", self.allowed()))
    }

    /// The type and range in words.
    pub fn allowed(&self) -> String {
        match self.kind {
            Bool => "true or false".into(),
            QuarterTurn => "0, 90, 180, 270 degrees".into(),
            Integer { least, most } => format!("a whole number, {least} to {most}"),
            Double { least, most } => format!("a finite number, {least} to {most}"),
            Calibrated { least, most } => format!("a finite number, {least} to {most}, or .nan"),
            Choice(words) => words.join(", "),
            Text => "a text; quote one that looks like a number".into(),
            Texts => "a list of texts, such as [front, rear]".into(),
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Double(value) => write!(f, "{value:?}"), // 0.0, not 0
            Self::Text(value) => write!(f, "{value}"),
            Self::Texts(value) => write!(f, "[{}]", value.join(", ")),
        }
    }
}
