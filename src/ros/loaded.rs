//! What the node works with once it is configured: the network and how each camera is seen.

use std::fmt;

use super::operating;
use crate::Result;
use crate::config::NodeConfig;
use crate::image::Limits;
use crate::pipeline::{EgoMask, Pipeline, Rotation, View};
use crate::selftest::SelfTest;

/// A warm network, and the test that it has passed once.
#[expect(missing_docs, reason = "each is what its type says")]
pub struct Loaded {
    pub pipeline: Pipeline,
    pub selftest: SelfTest,
}

/// From the parameters to a network.
pub type Load = Box<dyn Fn(&NodeConfig) -> Result<Loaded>>;

/// What runs where, for people.
pub(crate) fn facts(pipeline: &Pipeline, config: &NodeConfig) -> Vec<(String, String)> {
    let model = pipeline.model().config();
    let fact = |key: &str, value: &dyn fmt::Display| (key.to_owned(), value.to_string());
    let mut facts = vec![
        fact("weights", &config.model.weights.display()),
        fact("sha256", &model.sha256),
        fact("architecture", &model.architecture),
        fact("variant", &model.variant()),
        fact("device", &format!("{:?}", pipeline.model().device())),
        fact("precision", &config.model.precision),
        fact("way", &pipeline.way()),
        fact("plan", &config.plan),
        fact("score", &pipeline.config().score),
    ];
    facts.extend(operating::facts(pipeline, config));
    facts
}

/// Largest picture that is taken.
pub fn limits(config: &NodeConfig) -> Limits {
    let NodeConfig { max_width, max_height, max_bytes, .. } = *config;
    Limits { max_width, max_height, max_bytes }
}

/// How the camera of this name is seen; whether at a threshold of its own is known with the network.
pub(crate) fn view(camera: &str, config: &NodeConfig) -> Result<View> {
    let own = config.of_camera(camera);
    let rotation = Rotation::from_degrees(own.rotation.unwrap_or(config.rotation).into())?;
    let mask = own.ego_mask.as_ref().unwrap_or(&config.ego_mask);
    let has_mask = !mask.as_os_str().is_empty();
    let ego_mask = has_mask.then(|| EgoMask::read_file(mask, &limits(config))).transpose()?;
    let resolution = config.output_resolution.parse()?;
    Ok(View { rotation, ego_mask, ood_threshold: None, resolution })
}
