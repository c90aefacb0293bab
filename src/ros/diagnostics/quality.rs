//! `image_quality/<camera>`: what is wrong with a camera's pictures.

use super::{Camera, Finding, Health, Level, or_na, value};
use crate::quality::{Quality, names};

impl Health {
    /// What was seen of a camera's newest picture.
    pub(crate) fn quality(&mut self, camera: usize, quality: Option<Quality>) {
        self.cameras[camera].quality = quality;
    }
}

impl Camera {
    pub(super) fn image_quality(&self) -> Finding {
        let (level, message) = match &self.quality {
            Some(quality) => (quality.level, names(quality.bits)),
            None => (Level::OK, "no picture was looked at".into()),
        };
        let of = |part: fn(&Quality) -> String| or_na(self.quality.as_ref().map(part));
        let unfamiliarity = self.quality.as_ref().and_then(|q| q.unfamiliarity);
        let unfamiliarity = unfamiliarity.map(|ratio| format!("{ratio:.2}"));
        let values = vec![
            value("mean", &of(|q| format!("{:.1}", q.mean))),
            value("saturated", &of(|q| format!("{:.3}", q.saturated))),
            value("sharpness", &of(|q| format!("{:.3}", q.sharpness))),
            value("covered_blocks", &of(|q| q.covered.to_string())),
            value("torn", &of(|q| format!("{:.3}", q.torn))),
            value("skewed", &of(|q| format!("{:.2}", q.skewed))),
            value("frozen_ms", &of(|q| q.frozen.as_millis().to_string())),
            value("unfamiliarity", &or_na(unfamiliarity)),
        ];
        Finding::new(level, message, values)
    }
}
