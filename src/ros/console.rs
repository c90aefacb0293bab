//! How log lines look on the console, as the environment variables of rcutils say.

use std::time::Duration;

use log::{Level, Record};

use crate::{Error, Result};

/// Where log lines go and how they are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// `RCUTILS_LOGGING_USE_STDOUT`: to stdout, not stderr.
    pub stdout: bool,
    /// `RCUTILS_CONSOLE_OUTPUT_FORMAT`.
    format: String,
}

/// That of ROS.
const FORMAT: &str = "[{severity}] [{time}] [{name}]: {message}";

impl Console {
    /// Reads the variables of rcutils.
    ///
    /// # Errors
    /// [`Error::Setting`] for a `RCUTILS_LOGGING_USE_STDOUT` that is neither 0 nor 1.
    pub fn from_env(var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let stdout = match var("RCUTILS_LOGGING_USE_STDOUT").as_deref() {
            None | Some("0") => false,
            Some("1") => true,
            Some(other) => {
                return Err(Error::setting("RCUTILS_LOGGING_USE_STDOUT", other, "0 or 1"));
            }
        };
        let format = var("RCUTILS_CONSOLE_OUTPUT_FORMAT").unwrap_or_else(|| FORMAT.into());
        Ok(Self { stdout, format })
    }

    /// The line of a record, made `now` (since the epoch) by the logger `name`; tokens that are not
    /// known stay as they are.
    pub fn line(&self, record: &Record<'_>, name: &str, now: Duration) -> String {
        let mut line = String::new();
        let mut rest = self.format.as_str();
        while let Some(at) = rest.find('{') {
            line.push_str(&rest[..at]);
            rest = &rest[at..];
            let end = rest.find('}').map_or(rest.len(), |end| end + 1);
            line.push_str(&meaning(&rest[..end], record, (name, now)));
            rest = &rest[end..];
        }
        line + rest
    }
}

/// What stands for a token.
fn meaning(token: &str, record: &Record<'_>, (name, now): (&str, Duration)) -> String {
    match token {
        "{severity}" => match record.level() {
            Level::Trace => "DEBUG".into(), // the lowest that ROS has
            level => level.to_string(),
        },
        "{name}" => name.into(),
        "{message}" => record.args().to_string(),
        "{time}" => format!("{}.{:09}", now.as_secs(), now.subsec_nanos()),
        "{time_as_nanoseconds}" => now.as_nanos().to_string(),
        "{function_name}" => record.module_path().unwrap_or_default().into(),
        "{file_name}" => record.file().unwrap_or_default().into(),
        "{line_number}" => record.line().unwrap_or_default().to_string(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(set: &[(&str, &str)]) -> Result<Console> {
        let find = |name: &str| set.iter().find(|(key, _)| *key == name);
        Console::from_env(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    fn line(console: &Console) -> String {
        let now = Duration::new(7, 5);
        let line = Some(3);
        let message = format_args!("a {{time}} b");
        let mut record = Record::builder();
        record.level(Level::Warn).file(Some("a.rs")).line(line);
        console.line(&record.args(message).build(), "car.seg", now)
    }

    #[test]
    fn lines_are_those_of_ros_unless_the_environment_says_otherwise() {
        let plain = console(&[]).unwrap();
        assert!(!plain.stdout);
        assert_eq!(line(&plain), "[WARN] [7.000000005] [car.seg]: a {time} b");
        let format = "{time_as_nanoseconds}|{file_name}:{line_number} {unknown} {message} {";
        let set = [("RCUTILS_CONSOLE_OUTPUT_FORMAT", format), ("RCUTILS_LOGGING_USE_STDOUT", "1")];
        let other = console(&set).unwrap();
        assert!(other.stdout);
        assert_eq!(line(&other), "7000000005|a.rs:3 {unknown} a {time} b {");
    }

    #[test]
    fn a_switch_is_0_or_1() {
        let error = console(&[("RCUTILS_LOGGING_USE_STDOUT", "yes")]).unwrap_err().to_string();
        assert!(error.contains("RCUTILS_LOGGING_USE_STDOUT"), "{error}");
    }
}
