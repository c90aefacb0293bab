//! How far another precision is from float32 on a labelled set: classes, scores, average precision.

use ood_segmentation::Result;
use ood_segmentation::eval::metrics::{exact_bins, pixel_metrics};
use ood_segmentation::image::Image;
use ood_segmentation::model::{Precision, Score};
use ood_segmentation::pipeline::ScoreMaps;

use crate::evaluate::{SetArgs, WindowArgs, maps};
use crate::model::ModelArgs;

#[derive(clap::Args)]
pub(super) struct AgreementArgs {
    #[command(flatten)]
    set: SetArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    windows: WindowArgs,
    /// Score that is compared
    #[arg(long, default_value = "llr")]
    score: Score,
    /// Labelled frames, the first of the set; all are kept in memory
    #[arg(long, default_value_t = 20)]
    frames: usize,
    /// Run --precision, too, as model.cuda_graphs does
    #[arg(long)]
    graphs: bool,
}

/// The set in float32 and in `--precision` on the same device; one JSON line.
pub(super) fn run(args: &AgreementArgs) -> Result<()> {
    let set = args.set.open_anomalies("the average precision")?;
    let exact = ModelArgs { precision: Precision::F32, ..args.model.clone() };
    let exact = args.windows.open(&exact, args.score)?;
    let mut other = args.windows.open(&args.model, args.score)?;
    if args.graphs {
        other.warm_up()?;
        other.accelerate();
    }
    let mut sums = Sums::default();
    for frame in set.labelled().take(args.frames) {
        let image = Image::read_file(&frame.image, &exact.config().limits)?;
        let labels = set.labels(frame)?.data;
        let [exact, found] =
            [&exact, &other].map(|pipeline| maps(pipeline, &image, frame, &[args.score]));
        sums.add(&exact?, &found?, &labels);
    }
    let average_precision =
        |scores: &[f32]| 100.0 * pixel_metrics(&exact_bins(scores, &sums.labels)).ap;
    let [exact, found] = sums.scores.each_ref().map(|scores| average_precision(scores));
    let line = serde_json::json!({
        "precision": args.model.precision.to_string(),
        "device": format!("{:?}", other.model().device()),
        "way": other.way(),
        "plan": args.windows.plan.to_string(),
        "score": args.score.to_string(),
        "frames": set.labelled().take(args.frames).count(),
        "pixels": sums.labels.len(),
        "other_class_percent": 100.0 * sums.other_class as f64 / sums.labels.len() as f64,
        "score_difference": {
            "mean": sums.difference / sums.labels.len() as f64,
            "max": sums.largest,
        },
        "score_standard_deviation_f32": deviation(&sums.scores[0]),
        "ap_percent_f32": exact,
        "ap_percent": found,
    });
    println!("{line}");
    Ok(())
}

/// Over the frames so far.
#[derive(Default)]
struct Sums {
    labels: Vec<u8>,
    /// In float32 and in the other precision.
    scores: [Vec<f32>; 2],
    other_class: usize,
    /// Sum of the scores' distances.
    difference: f64,
    largest: f32,
}

impl Sums {
    fn add(&mut self, exact: &ScoreMaps, found: &ScoreMaps, labels: &[u8]) {
        self.labels.extend(labels);
        self.other_class +=
            exact.classes.iter().zip(&found.classes).filter(|(a, b)| a != b).count();
        let [a, b] = [exact, found].map(|maps| &maps.scores[0].1);
        for (a, b) in a.iter().zip(b) {
            self.difference += f64::from((a - b).abs());
            self.largest = self.largest.max((a - b).abs());
        }
        self.scores[0].extend(a);
        self.scores[1].extend(b);
    }
}

fn deviation(values: &[f32]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    (values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count).sqrt()
}
