//! What is wrong with parameters: all of it at once, with the line of the file where that is known.

use std::path::Path;

use crate::{Error, Result};

/// The problems met so far.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Error>);

impl Problems {
    /// The value, or nothing while its problem is kept.
    pub(super) fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.0.push(error)).ok()
    }

    /// # Errors
    /// The problem, or [`Error::Several`].
    pub(super) fn none(mut self) -> Result<()> {
        match self.0.len() {
            0 => Ok(()),
            1 => Err(self.0.remove(0)),
            _ => Err(Error::Several(self.0)),
        }
    }
}

/// An error about a key, with the file that holds it and the line, if one line alone can be meant.
pub(super) fn in_file(path: &Path, key: &str, error: &Error) -> Error {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let problem = match line_of(&text, key) {
        Some(line) => format!("line {line}: {}", error.chain()),
        None => error.chain(),
    };
    Error::bad_file(path, problem)
}

/// The line of the one entry of this name.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let last = key.rsplit('.').next().unwrap_or(key);
    let is_it = |line: &str| {
        let name = line.trim_start().split(':').next().unwrap_or_default().trim();
        line.contains(':') && [key, last].contains(&name)
    };
    let mut lines = (1..).zip(text.lines()).filter(|(_, line)| is_it(line)).map(|(at, _)| at);
    let first = lines.next()?;
    lines.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_named_where_one_alone_can_be_meant() {
        let text = "/**:\n  ros__parameters:\n    obstacle:\n      min_area: 7\n    plan: a\n/b:\n    plan: c\n";
        assert_eq!(line_of(text, "obstacle.min_area"), Some(4));
        assert_eq!(line_of("obstacle.min_area: 7\n", "obstacle.min_area"), Some(1));
        assert_eq!(line_of(text, "plan"), None, "two sections have it");
        assert_eq!(line_of(text, "batch"), None);
    }

    #[test]
    fn one_problem_is_itself_and_several_are_one_sentence() {
        let wrong = |key: &str| Err::<(), _>(Error::setting(key, "x", "y"));
        let mut problems = Problems::default();
        assert_eq!(problems.keep(Ok(5)), Some(5));
        assert_eq!(problems.keep(wrong("a")), None);
        assert_eq!(problems.keep(wrong("b")), None);
        let text = problems.none().unwrap_err().to_string();
        assert_eq!(text, "`a` is x, allowed: y; `b` is x, allowed: y");
    }
}
