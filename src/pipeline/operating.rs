//! Threshold and probability where they are left to the model's calibration.

use crate::model::Score;
use crate::model::config::ModelConfig;

/// Threshold of the mask, temperature and offset of a detection's probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OperatingPoint {
    /// A pixel is out of distribution when its score is above this.
    pub ood_threshold: f32,
    /// The probability of a score is `1 / (1 + exp(-(score - offset) / temperature))`.
    pub temperature: f32,
    /// Score of even odds.
    pub offset: f32,
}

impl OperatingPoint {
    /// That of the model's calibration; where it has none for this score, the plain sigmoid and its middle,
    /// which the LLR is trained for.
    pub fn of(model: &ModelConfig, score: Score) -> Self {
        let found = model.calibration.as_ref().filter(|found| found.score == score);
        #[expect(clippy::cast_possible_truncation, reason = "scores are float32")]
        found.map_or(Self { ood_threshold: 0.0, temperature: 1.0, offset: 0.0 }, |found| Self {
            ood_threshold: found.ood_threshold,
            temperature: found.temperature as f32,
            offset: found.offset as f32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint;
    use std::path::Path;

    #[test]
    fn a_calibration_counts_for_its_own_score_only() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.safetensors");
        let mut model = checkpoint::read_config(&demo).unwrap();
        let calibration = model.calibration.as_mut().unwrap();
        (calibration.score, calibration.ood_threshold) = (Score::Llr, -4.5);
        (calibration.temperature, calibration.offset) = (2.0, -1.0);
        let found = OperatingPoint { ood_threshold: -4.5, temperature: 2.0, offset: -1.0 };
        let plain = OperatingPoint { ood_threshold: 0.0, temperature: 1.0, offset: 0.0 };
        assert_eq!(OperatingPoint::of(&model, Score::Llr), found);
        assert_eq!(OperatingPoint::of(&model, Score::Energy), plain);
        model.calibration = None;
        assert_eq!(OperatingPoint::of(&model, Score::Llr), plain);
    }
}
