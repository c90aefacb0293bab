//! What the node says of the model's calibration: whose numbers it uses, and whether they fit.

use crate::config::NodeConfig;
use crate::model::config::Calibration;
use crate::pipeline::Pipeline;

/// For the diagnostics: the calibration, and which parameters were left to it at the start.
pub(crate) fn facts(pipeline: &Pipeline, config: &NodeConfig) -> [(String, String); 2] {
    let found = pipeline.model().config().calibration.as_ref();
    let calibration = found.map_or("n/a".into(), |found| {
        let Calibration { target, score, ood_threshold, dataset, .. } = found;
        format!("{target} at {score} > {ood_threshold} on {dataset}")
    });
    let from = match &left_open(config)[..] {
        [] => "none".into(),
        open => open.join(", "),
    };
    [("calibration".into(), calibration), ("calibrated_at_start".into(), from)]
}

/// Logs the numbers of the parameters that were left to the calibration, and what they do not fit.
pub(crate) fn log(pipeline: &Pipeline, config: &NodeConfig) {
    let open = left_open(config).join(", ");
    if open.is_empty() {
        return;
    }
    let (used, score) = (pipeline.config(), pipeline.config().score);
    let (threshold, obstacle) = (used.ood_threshold, &used.obstacle);
    let numbers = format!(
        "ood_threshold {threshold}, temperature {}, offset {}",
        obstacle.temperature, obstacle.offset
    );
    let found = pipeline.model().config().calibration.as_ref();
    let Some(found) = found.filter(|found| found.score == score) else {
        log::info!("the model has no calibration for {score}: {numbers}");
        return;
    };
    log::info!("{open} from the calibration on {}: {numbers}", found.dataset);
    let here = [config.plan.as_str(), config.model.precision.as_str()];
    let there = [found.plan.as_str(), found.precision.as_str()];
    if here != there {
        let ([plan, precision], [plan_there, precision_there]) = (here, there);
        log::warn!(
            "the calibration holds for plan {plan_there} in {precision_there}, this is {plan} in \
             {precision}: measure again with `ood_seg calibrate`"
        );
    }
}

/// The parameters that are left to the calibration.
fn left_open(config: &NodeConfig) -> Vec<&'static str> {
    let parameters = [
        ("ood_threshold", config.ood_threshold),
        ("obstacle.temperature", config.obstacle.temperature),
        ("obstacle.offset", config.obstacle.offset),
    ];
    parameters.into_iter().filter(|(_, number)| number.0.is_none()).map(|(name, _)| name).collect()
}
