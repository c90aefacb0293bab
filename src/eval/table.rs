//! An evaluation as text: Markdown whose columns line up, for the terminal as well as for a file.

use super::benchmark::{Evaluation, ScoreResult};

/// The tables of an evaluation, values in percent with two decimals; `-` where one has no meaning.
///
/// First the pixel metrics, one row per score and family; then the segment metrics, one row per score;
/// then the inlier classes, where the set labels them.
pub fn markdown(evaluation: &Evaluation) -> String {
    let protocol = &evaluation.protocol;
    let mut text = format!(
        "## {} {}: {} frames, plan {}, {}\n\nWeights sha256 {}.\n",
        protocol.dataset,
        protocol.split,
        protocol.frames,
        protocol.plan,
        protocol.precision,
        protocol.weights
    );
    if protocol.reference_compatible {
        text += "Rows `exact` see the scores through the reference's float32 sigmoid.\n";
    }
    if !evaluation.scores.is_empty() {
        text += "\n";
        text += &table(&pixel_rows(&evaluation.scores));
        text += "\nComponents, at the F1-optimal threshold of the `smiyc` rows:\n\n";
        text += &table(&segment_rows(&evaluation.scores));
    }
    if let Some(inliers) = &evaluation.inliers {
        let mut rows = vec![vec!["class".to_string(), "IoU".to_string()]];
        rows.extend(inliers.iou.iter().map(|(name, iou)| vec![name.clone(), percent(*iou)]));
        rows.push(vec!["mean".into(), percent(inliers.miou)]);
        text += "\n";
        text += &table(&rows);
    }
    text
}

fn pixel_rows(scores: &[ScoreResult]) -> Vec<Vec<String>> {
    let head = ["score", "family", "AP", "FPR95", "AUROC", "best F1", "threshold"];
    let mut rows = vec![head.map(String::from).to_vec()];
    for result in scores {
        for (family, m) in [("smiyc", &result.smiyc), ("exact", &result.exact)] {
            let mut row = vec![result.score.clone(), family.to_string()];
            row.extend([m.ap, m.fpr95, m.auroc, m.best_f1].map(percent));
            row.push(number(m.best_f1_threshold, 3));
            rows.push(row);
        }
    }
    rows
}

fn segment_rows(scores: &[ScoreResult]) -> Vec<Vec<String>> {
    let head = ["score", "sIoU gt", "PPV", "mean F1"];
    let row = |result: &ScoreResult| {
        let m = &result.segments;
        let mut row = vec![result.score.clone()];
        row.extend([m.siou_gt, m.ppv, m.mean_f1].map(percent));
        row
    };
    std::iter::once(head.map(String::from).to_vec()).chain(scores.iter().map(row)).collect()
}

fn percent(share: f64) -> String {
    number(100.0 * share, 2)
}

fn number(value: f64, decimals: usize) -> String {
    if value.is_nan() { "-".into() } else { format!("{value:.decimals$}") }
}

/// A Markdown table of equally long rows; the first is the head, columns of numbers align right.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows[0].len();
    let width = |c: usize| rows.iter().map(|row| row[c].len()).max().unwrap_or(0).max(3);
    let is_number =
        |c: usize| rows[1..].iter().all(|row| row[c] == "-" || row[c].parse::<f64>().is_ok());
    let mut text = String::new();
    for (line, row) in rows.iter().enumerate() {
        for (c, cell) in row.iter().enumerate() {
            let (width, right) = (width(c), is_number(c));
            let padded = if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            text += &format!("| {padded} ");
        }
        text += "|\n";
        if line == 0 {
            for c in 0..columns {
                let dashes = "-".repeat(width(c) + 1);
                let end = if is_number(c) { ":" } else { "-" };
                text += &format!("|{dashes}{end}");
            }
            text += "|\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_align_right() {
        let rows = [vec!["score", "AP"], vec!["llr", "9.50"], vec!["max_logit", "-"]];
        let rows = rows.map(|row| row.into_iter().map(String::from).collect());
        let expected = "| score     |   AP |\n\
                        |-----------|-----:|\n\
                        | llr       | 9.50 |\n\
                        | max_logit |    - |\n";
        assert_eq!(table(&rows), expected);
        assert_eq!((percent(0.98765), percent(f64::NAN)), ("98.77".into(), "-".into()));
    }
}
