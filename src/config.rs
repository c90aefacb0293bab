//! YAML files as structs: load and validate, nothing else.

mod calibrated;
mod node;
mod parameters;
mod problems;
mod qos;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

pub use calibrated::Calibrated;
pub use node::{
    CameraSettings, ModelParameters, NODE_PARAMETERS, NodeConfig, ObstacleParameters, Override,
    QualityParameters, RecordParameters,
};
pub use parameters::{Change, Kind, PARAMETERS, Parameter, Value};
pub use qos::{MaskReliability, QosOverrides, Reliability, Transport};

/// The class table: one row per inlier class, in the order of the logits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClassTable(pub Vec<Class>);

/// One inlier class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Train id: the value in the semantic mask, 0 to 254.
    pub id: u8,
    /// Name, such as `road`.
    pub name: String,
    /// Red, green, blue for overlays and viewers.
    pub colour: [u8; 3],
    /// Cityscapes' group, such as `flat`, `human`, `vehicle`.
    pub group: String,
    /// Part of the drivable area (road and pavement).
    #[serde(default)]
    pub drivable: bool,
}

impl ClassTable {
    /// The 19 evaluated classes of Cityscapes in train-id order.
    pub fn cityscapes() -> Self {
        let rows = include_str!("../config/classes/cityscapes.yaml");
        serde_yaml::from_str(rows).unwrap_or_else(|error| unreachable!("built-in table: {error}"))
    }

    /// Checks that ids count from 0 and names are distinct.
    ///
    /// # Errors
    /// [`Error::Setting`] with the row.
    pub fn validate(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for (row, class) in self.0.iter().enumerate() {
            if usize::from(class.id) != row {
                let allowed = format!("{row}: ids count from 0 in the order of the logits");
                return Err(Error::setting(format!("classes[{row}].id"), &class.id, allowed));
            }
            if !names.insert(&class.name) {
                let allowed = "a name that no other class has";
                return Err(Error::setting(format!("classes[{row}].name"), &class.name, allowed));
            }
        }
        Ok(())
    }
}

/// `config/demo/backbone.yaml`: a small backbone from random weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainBackboneConfig {
    /// Where, how often, how many at a time.
    pub run: RunConfig,
    /// The network.
    pub model: BackboneTrainConfig,
    /// The pictures.
    pub data: StreetConfig,
    /// What is done to them.
    pub augment: AugmentConfig,
    /// The loss.
    pub loss: BackboneLossConfig,
    /// AdamW.
    pub optimizer: AdamWConfig,
    /// The learning rate.
    pub schedule: ScheduleConfig,
}

/// `config/train_segmentor.yaml`: stage 1, the decoder and the inlier head on a frozen backbone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSegmentorConfig {
    /// Where, how often, how many at a time.
    pub run: RunConfig,
    /// The network and where its frozen part comes from.
    pub model: SegmentorConfig,
    /// The pictures.
    pub data: StreetConfig,
    /// What is done to them.
    pub augment: AugmentConfig,
    /// AdamW.
    pub optimizer: AdamWConfig,
    /// The learning rate.
    pub schedule: ScheduleConfig,
    /// Sinkhorn-EM; read where `model.head` is `gmm`.
    pub em: EmConfig,
}

/// `config/train_uem.yaml`: stage 2, the UEM on a frozen segmentor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainUemConfig {
    /// Where, how often, how many at a time.
    pub run: RunConfig,
    /// The UEM and the segmentor it reads.
    pub model: UemTrainConfig,
    /// The street pictures.
    pub data: StreetConfig,
    /// The outliers pasted into them.
    pub outliers: OutlierConfig,
    /// What is done to the pictures after that.
    pub augment: AugmentConfig,
    /// The loss.
    pub loss: LossConfig,
    /// AdamW.
    pub optimizer: AdamWConfig,
    /// The learning rate.
    pub schedule: ScheduleConfig,
    /// Sinkhorn-EM; read where `model.head` is `gmm`.
    pub em: EmConfig,
}

/// Where a run writes, how often, and how many pictures it takes at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Folder of `last` and `best` weights, `state.safetensors`, `log.csv` and `log.png`.
    pub out: PathBuf,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Seed of the weights, the order of the pictures and their augmentation.
    pub seed: u64,
    /// Pictures per step.
    pub batch_size: usize,
    /// Threads that read and augment pictures.
    pub workers: usize,
    /// Steps between two states on disk; an interrupted run loses no more.
    pub checkpoint_every_steps: u64,
    /// Steps between two validations; the best weights are chosen at them.
    pub validate_every_steps: u64,
    /// Validation pictures at most, evenly over the split; 0 takes all.
    pub validation_frames: usize,
}

/// The two kinds of head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// "D", one linear layer.
    Linear,
    /// "G", GMMSeg's mixtures.
    Gmm,
}

impl HeadKind {
    /// The letter of the published variant names.
    pub fn variant(self) -> &'static str {
        match self {
            Self::Linear => "d",
            Self::Gmm => "g",
        }
    }
}

/// The network of the pre-training.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneTrainConfig {
    /// `demo`, or one of the other architectures.
    pub architecture: String,
}

/// The network of stage 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentorConfig {
    /// `vits14`, `vitb14`, `vitl14`, `vitg14`, each also with `_reg`, or `demo`, `tiny`.
    pub architecture: String,
    /// The inlier head.
    pub head: HeadKind,
    /// Weights of the backbone with their sidecar beside them, from `ood_seg convert`.
    pub backbone: PathBuf,
}

/// The network of stage 2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UemTrainConfig {
    /// Weights of stage 1, with their sidecar beside them.
    pub segmentor: PathBuf,
    /// The UEM's head.
    pub head: HeadKind,
    /// Width of the two hidden layers of the UEM.
    pub hidden: i64,
    /// Channels handed to the UEM's head.
    pub channels: i64,
    /// Gaussians per class of a `gmm` head.
    pub num_components: i64,
    /// Whether the segmentor's batch norms keep their statistics, so that it stays what it was to the bit.
    pub frozen_norm: bool,
}

/// A data set in the Cityscapes layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreetConfig {
    /// Folder that holds `leftImg8bit` and `gtFine`.
    pub root: PathBuf,
    /// Split to learn from.
    pub train: String,
    /// Split to validate on.
    pub validation: String,
}

/// Anomaly-Mix from COCO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutlierConfig {
    /// Folder that holds `train2017` and the masks of `ood_seg prepare-coco`.
    pub root: PathBuf,
    /// Pictures of the shuffled list that are pasted from.
    pub pool_size: usize,
    /// Share of street pictures that get an outlier.
    pub probability: f64,
}

/// Augmentation; albumentations' names for it are in `train::augment`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentConfig {
    /// Least and largest factor of the random scale.
    pub scale: [f64; 2],
    /// Height and width of the crop, px; it is padded to the network's window.
    pub crop: [usize; 2],
    /// Probability of a mirror image.
    pub flip: f64,
    /// Probability of the colour jitter.
    pub colour_jitter: f64,
}

/// The loss of the pre-training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneLossConfig {
    /// Weight of the pixels' squared error beside the classes' cross-entropy.
    pub reconstruction: f64,
}

/// The loss of stage 2.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossConfig {
    /// Weight of the UEM's own cross-entropy beside that of the ratio.
    pub alpha: f64,
}

/// AdamW's constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the first and of the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// The learning rate over the run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Largest learning rate, at the end of the warm-up.
    pub lr: f64,
    /// Learning rate at `max_steps`.
    pub lr_end: f64,
    /// Exponent of the decay.
    pub power: f64,
    /// Steps of linear warm-up from 0.
    pub warmup_steps: u64,
    /// Steps of the run.
    pub max_steps: u64,
}

/// Sinkhorn-EM of a `gmm` head.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmConfig {
    /// Features kept per Gaussian.
    pub memory_size: i64,
    /// Features a step adds per Gaussian at most.
    pub max_sample_size: i64,
    /// Steps between two updates of the Gaussians.
    pub update_interval: i64,
    /// Share of the old mean in an update.
    pub gamma_mean: f64,
    /// Weight of the contrastive loss.
    pub contrast_weight: f64,
}

impl TrainBackboneConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Yaml`] with the key, or [`Error::Setting`].
    pub fn load(path: &Path) -> Result<Self> {
        let config: Self = read(path)?;
        config.run.validate()?;
        config.augment.validate()?;
        config.schedule.validate()?;
        config.optimizer.validate()?;
        let weight = config.loss.reconstruction;
        require(weight.is_finite() && weight >= 0.0, "loss.reconstruction", &weight, "0 or more")?;
        Ok(config)
    }
}

impl TrainSegmentorConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Yaml`] with the key, or [`Error::Setting`].
    pub fn load(path: &Path) -> Result<Self> {
        let config: Self = read(path)?;
        config.run.validate()?;
        config.augment.validate()?;
        config.schedule.validate()?;
        config.optimizer.validate()?;
        config.em.validate()?;
        Ok(config)
    }
}

impl TrainUemConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Yaml`] with the key, or [`Error::Setting`].
    pub fn load(path: &Path) -> Result<Self> {
        let config: Self = read(path)?;
        config.run.validate()?;
        config.augment.validate()?;
        config.schedule.validate()?;
        config.optimizer.validate()?;
        config.em.validate()?;
        share("outliers.probability", config.outliers.probability)?;
        require(config.outliers.pool_size > 0, "outliers.pool_size", &0, "at least 1")?;
        let alpha = config.loss.alpha;
        require(alpha.is_finite() && alpha >= 0.0, "loss.alpha", &alpha, "0 or more")?;
        Ok(config)
    }
}

impl RunConfig {
    fn validate(&self) -> Result<()> {
        require(self.batch_size > 0, "run.batch_size", &self.batch_size, "at least 1")?;
        let workers = self.workers;
        require((1..=64).contains(&workers), "run.workers", &workers, "1 to 64")?;
        for (key, steps) in [
            ("run.checkpoint_every_steps", self.checkpoint_every_steps),
            ("run.validate_every_steps", self.validate_every_steps),
        ] {
            require(steps > 0, key, &steps, "at least 1")?;
        }
        Ok(())
    }
}

impl AugmentConfig {
    fn validate(&self) -> Result<()> {
        let [least, most] = self.scale;
        let ordered = 0.01 <= least && least <= most && most <= 100.0;
        require(
            ordered,
            "augment.scale",
            &format!("{:?}", self.scale),
            "[least, largest], 0.01 to 100",
        )?;
        let crop = format!("{:?}", self.crop);
        require(self.crop.iter().all(|&n| n > 0), "augment.crop", &crop, "[height, width] px")?;
        share("augment.flip", self.flip)?;
        share("augment.colour_jitter", self.colour_jitter)
    }
}

impl ScheduleConfig {
    fn validate(&self) -> Result<()> {
        let rate = |lr: f64| lr.is_finite() && lr >= 0.0;
        require(rate(self.lr), "schedule.lr", &self.lr, "0 or more")?;
        require(rate(self.lr_end), "schedule.lr_end", &self.lr_end, "0 or more")?;
        require(rate(self.power), "schedule.power", &self.power, "0 or more")?;
        let (warmup, max) = (self.warmup_steps, self.max_steps);
        require(max > 0, "schedule.max_steps", &max, "at least 1")?;
        require(warmup <= max, "schedule.warmup_steps", &warmup, &format!("0 to max_steps, {max}"))
    }
}

impl AdamWConfig {
    fn validate(&self) -> Result<()> {
        let betas = format!("{:?}", self.betas);
        let decays = self.betas.iter().all(|beta| (0.0..1.0).contains(beta));
        require(decays, "optimizer.betas", &betas, "two numbers of 0 to below 1")?;
        require(self.eps > 0.0, "optimizer.eps", &self.eps, "above 0")?;
        let decay = self.weight_decay;
        require((0.0..1.0).contains(&decay), "optimizer.weight_decay", &decay, "0 to below 1")
    }
}

impl EmConfig {
    fn validate(&self) -> Result<()> {
        let (memory, sample) = (self.memory_size, self.max_sample_size);
        require((2..=100_000).contains(&memory), "em.memory_size", &memory, "2 to 100000")?;
        let fits = (2..=memory).contains(&sample);
        require(fits, "em.max_sample_size", &sample, &format!("2 to memory_size, {memory}"))?;
        require(
            self.update_interval > 0,
            "em.update_interval",
            &self.update_interval,
            "at least 1",
        )?;
        share("em.gamma_mean", self.gamma_mean)?;
        let weight = self.contrast_weight;
        require(weight.is_finite() && weight >= 0.0, "em.contrast_weight", &weight, "0 or more")
    }
}

/// A YAML file as its struct.
fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let yaml = |source| Error::Yaml { path: path.to_path_buf(), source };
    serde_yaml::from_str(&text).map_err(yaml)
}

/// [`Error::Setting`] unless `holds`.
fn require(holds: bool, key: &str, value: &impl ToString, allowed: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::setting(key, value, allowed)) }
}

/// A probability or share.
fn share(key: &str, value: f64) -> Result<()> {
    require((0.0..=1.0).contains(&value), key, &value, "0 to 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
    }

    /// Every `section.key` of a YAML text.
    fn keys(text: &str) -> BTreeSet<String> {
        let value: serde_json::Value = serde_yaml::from_str(text).unwrap();
        let sections = value.as_object().unwrap().iter();
        let inside = |(section, keys): (&String, &serde_json::Value)| {
            let keys = keys.as_object().unwrap().keys();
            keys.map(|key| format!("{section}.{key}")).collect::<Vec<_>>()
        };
        sections.flat_map(inside).collect()
    }

    #[test]
    fn the_shipped_training_files_have_every_key_and_no_other() {
        let backbone = shipped("demo/backbone.yaml");
        let written =
            serde_yaml::to_string(&TrainBackboneConfig::load(&backbone).unwrap()).unwrap();
        assert_eq!(keys(&written), keys(&std::fs::read_to_string(backbone).unwrap()));
        for demo in ["demo/segmentor.yaml", "demo/uem.yaml"] {
            let text = std::fs::read_to_string(shipped(demo)).unwrap();
            let whole = format!("train_{}", demo.trim_start_matches("demo/"));
            assert_eq!(keys(&text), keys(&std::fs::read_to_string(shipped(&whole)).unwrap()));
        }
        TrainSegmentorConfig::load(&shipped("demo/segmentor.yaml")).unwrap();
        TrainUemConfig::load(&shipped("demo/uem.yaml")).unwrap();
        let (stage_1, stage_2) = (shipped("train_segmentor.yaml"), shipped("train_uem.yaml"));
        let written =
            serde_yaml::to_string(&TrainSegmentorConfig::load(&stage_1).unwrap()).unwrap();
        assert_eq!(keys(&written), keys(&std::fs::read_to_string(stage_1).unwrap()));
        let written = serde_yaml::to_string(&TrainUemConfig::load(&stage_2).unwrap()).unwrap();
        assert_eq!(keys(&written), keys(&std::fs::read_to_string(stage_2).unwrap()));
    }

    #[test]
    fn a_misspelt_key_and_a_value_out_of_range_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.yaml");
        let shipped = std::fs::read_to_string(shipped("train_uem.yaml")).unwrap();
        for (from, to, named) in [
            ("batch_size: 4", "batchsize: 4", "batchsize"),
            ("probability: 0.2", "probability: 1.2", "outliers.probability"),
            ("warmup_steps: 1500", "warmup_steps: 4001", "schedule.warmup_steps"),
            ("max_sample_size: 20", "max_sample_size: 8001", "em.max_sample_size"),
            ("alpha: 0.0", "alpha: -1", "loss.alpha"),
        ] {
            assert!(shipped.contains(from), "{from}");
            std::fs::write(&path, shipped.replace(from, to)).unwrap();
            let error = TrainUemConfig::load(&path).unwrap_err().chain();
            assert!(error.contains(named), "{error}");
        }
    }
}
