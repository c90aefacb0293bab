//! A parameter that may be left to the model's calibration.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number, or none where the model's calibration is to say it. In files and in ROS none is NaN, because
/// a ROS parameter keeps one type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibrated(pub Option<f64>);

impl Calibrated {
    /// The number, else `calibration`'s.
    #[expect(clippy::cast_possible_truncation, reason = "scores are float32")]
    pub fn or(self, calibration: f32) -> f32 {
        self.0.map_or(calibration, |number| number as f32)
    }
}

impl Serialize for Calibrated {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.unwrap_or(f64::NAN))
    }
}

impl<'de> Deserialize<'de> for Calibrated {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        Ok(Self((!number.is_nan()).then_some(number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_the_calibrations_number_and_any_other_is_kept() {
        let read = |text| serde_yaml::from_str::<Calibrated>(text).unwrap();
        assert_eq!((read(".nan"), read("2")), (Calibrated(None), Calibrated(Some(2.0))));
        assert_eq!((read(".nan").or(-5.0), read("2.5").or(-5.0)), (-5.0, 2.5));
        assert_eq!(serde_yaml::to_string(&Calibrated(None)).unwrap(), ".nan\n");
        assert_eq!(serde_yaml::to_string(&read("2.5")).unwrap(), "2.5\n");
    }
}
