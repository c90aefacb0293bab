//! A status of `/diagnostics` in the making, and its numbers as texts.

use std::fmt::Display;
use std::time::Instant;

/// One status in the making.
pub(crate) struct Finding {
    pub(crate) level: u8,
    pub(crate) message: String,
    pub(crate) values: Vec<(String, String)>,
}

impl Finding {
    pub(crate) fn new(
        level: u8,
        message: impl Into<String>,
        values: Vec<(String, String)>,
    ) -> Self {
        Self { level, message: message.into(), values }
    }
}

pub(crate) fn value(key: &str, value: &dyn Display) -> (String, String) {
    (key.to_owned(), value.to_string())
}

/// "n/a" rather than a number that was not measured.
pub(crate) fn or_na(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "n/a".into(), |value| value.to_string())
}

pub(crate) fn ms(time: Option<f32>) -> String {
    or_na(time.map(|ms| format!("{ms:.1}")))
}

pub(crate) fn since(time: Option<Instant>, now: Instant) -> String {
    or_na(time.map(|time| now.duration_since(time).as_millis()))
}
