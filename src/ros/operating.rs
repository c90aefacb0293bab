//! What the node says of the model's calibration: whose numbers it uses, and whether they fit.

use crate::config::NodeConfig;
use crate::model::config::Calibration;
use crate::pipeline::Pipeline;

/// For the diagnostics: the calibration, and which parameters were left to it at the start.
pub(crate) fn facts(pipeline: &Pipeline, config: &NodeConfig) -> [(String, String); 3] {
    let found = pipeline.model().config().calibration.as_ref();
    let calibration = found.map_or("n/a".into(), |found| {
        let Calibration { target, score, ood_threshold, dataset, .. } = found;
        format!("{target} at {score} > {ood_threshold} on {dataset}")
    });
    let from = match &left_open(config)[..] {
        [] => "none".into(),
        open => open.join(", "),
    };
    let familiarity = match (found, pipeline.familiarity()) {
        (Some(found), Some(known)) => format!(
            "{} frames of {}, {:.1} % of such are called unfamiliar",
            found.frames,
            found.dataset,
            100.0 * known.false_alarms
        ),
        _ => "n/a".into(),
    };
    [
        ("calibration".into(), calibration),
        ("calibrated_at_start".into(), from),
        ("familiarity".into(), familiarity),
    ]
}

/// Logs why pictures unlike the calibration's are not noticed, where they are not.
fn log_familiarity(pipeline: &Pipeline, config: &NodeConfig) {
    if pipeline.familiarity().is_some() || config.quality.unfamiliar == 0.0 {
        return;
    }
    let calibration = pipeline.model().config().calibration.as_ref();
    let why = match calibration.filter(|found| found.familiarity.is_some()) {
        Some(found) => format!("the calibration holds for plan {}", found.plan),
        None => "the model does not say what is familiar".into(),
    };
    log::info!("unfamiliar pictures are not noticed: {why}; `ood_seg calibrate` measures it");
}

/// Logs the numbers of the parameters that were left to the calibration, and what they do not fit.
pub(crate) fn log(pipeline: &Pipeline, config: &NodeConfig) {
    log_familiarity(pipeline, config);
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
