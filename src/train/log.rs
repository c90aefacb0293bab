//! The record of a run: `log.csv`, a row per step, and its picture `log.png`.

use std::io::Write;
use std::path::Path;

use crate::eval::plot;
use crate::{Error, Result, file, image};

/// One step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Steps done, this one included.
    pub step: u64,
    /// Loss before the step.
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Pictures per second since the step before.
    pub crops_per_s: f64,
    /// Validation after the step, where there was one.
    pub score: Option<f64>,
}

/// Points that a curve is drawn with at most; a point is the mean of its steps.
const POINTS: usize = 300;

/// Writes the rows as CSV; `score` names the last column.
///
/// # Errors
/// [`Error::Io`].
pub fn write_csv(rows: &[Row], score: &str, path: &Path) -> Result<()> {
    file::write(path, |out| {
        writeln!(out, "step,loss,lr,crops_per_s,{score}")?;
        for row in rows {
            let score = row.score.map(|score| score.to_string()).unwrap_or_default();
            writeln!(out, "{},{},{:e},{:.3},{score}", row.step, row.loss, row.lr, row.crops_per_s)?;
        }
        Ok(())
    })
}

/// The rows of a CSV up to a step.
///
/// # Errors
/// A file that [`write_csv`] did not write.
pub fn read_csv(path: &Path, last: u64) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let row = |line: &str| {
        let fields: Vec<_> = line.split(',').collect();
        let [step, loss, lr, rate, score] = fields[..] else { return None };
        Some(Row {
            step: step.parse().ok()?,
            loss: loss.parse().ok()?,
            lr: lr.parse().ok()?,
            crops_per_s: rate.parse().ok()?,
            score: if score.is_empty() { None } else { Some(score.parse().ok()?) },
        })
    };
    let rows: Option<Vec<Row>> = text.lines().skip(1).map(row).collect();
    let mut rows = rows.ok_or_else(|| Error::bad_file(path, "not a log of this program"))?;
    rows.retain(|row| row.step <= last);
    Ok(rows)
}

/// Draws loss (as a share of its largest value) and validation over the steps, as a PNG.
///
/// # Errors
/// [`Error::Io`].
pub fn write_picture(rows: &[Row], score: &str, path: &Path) -> Result<()> {
    let Some(last) = rows.last() else { return Ok(()) };
    let largest = rows.iter().map(|row| row.loss).fold(f64::MIN_POSITIVE, f64::max);
    let x = |row: &Row| row.step as f64 / last.step as f64;
    let mean = |rows: &[Row]| {
        let sum: f64 = rows.iter().map(|row| row.loss).sum();
        (x(&rows[rows.len() - 1]), sum / rows.len() as f64 / largest)
    };
    let losses = rows.chunks(rows.len().div_ceil(POINTS)).map(mean).collect();
    let scores = rows.iter().filter_map(|row| Some((x(row), row.score?))).collect();
    let title = format!("{} steps - 1.0 is a loss of {largest:.3}", last.step);
    let series = [("loss".to_string(), losses), (score.to_string(), scores)];
    let (height, width, rgb) = plot::curves(&title, &series);
    image::write_png(path, height, width, &rgb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_reads_back_up_to_the_step_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.csv");
        let row =
            |step, score| Row { step, loss: 0.1 * step as f64, lr: 5e-4, crops_per_s: 2.5, score };
        let rows = [row(1, None), row(2, Some(0.25)), row(3, None)];
        write_csv(&rows, "miou", &path).unwrap();
        assert_eq!(read_csv(&path, 2).unwrap(), rows[..2]);
        std::fs::write(&path, "step,loss\n1,2\n").unwrap();
        assert!(read_csv(&path, 2).unwrap_err().to_string().contains("log.csv"));
        write_picture(&rows, "miou", &folder.path().join("log.png")).unwrap();
    }
}
