//! `ood_seg calibrate`: an operating threshold and a probability from labelled frames, into the sidecar.

use ood_segmentation::data::Shard;
use ood_segmentation::eval::benchmark::size_limits;
use ood_segmentation::eval::calibrate::{
    FrameCounts, Pool, Sigmoid, Target, bootstrap, fit_sigmoid, missed_bound, missed_threshold,
    obstacle_scores,
};
use ood_segmentation::model::Score;
use ood_segmentation::model::config::Calibration;
use ood_segmentation::model::familiar::{FEWEST, Familiarity};
use ood_segmentation::{Error, Result, checkpoint};

use crate::evaluate::{SetArgs, WindowArgs, for_each};
use crate::model::ModelArgs;

/// Resamples behind the interval.
const ROUNDS: usize = 1000;

/// Which frames, which score, and what the threshold is to hold.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    set: SetArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    windows: WindowArgs,
    /// Score to calibrate: llr, ood, neg_id, msp, max_logit, entropy, energy, rba
    #[arg(long, default_value = "llr")]
    score: Score,
    #[command(flatten)]
    target: TargetArgs,
    /// Share of frames like these that may be called unfamiliar; with n frames 1 / (n + 1) at least
    #[arg(long, default_value_t = 0.01, value_parser = share)]
    unfamiliar: f64,
}

/// What the threshold is to hold: exactly one.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct TargetArgs {
    /// Share of the anomalous pixels to find, such as 0.95
    #[arg(long, value_parser = share)]
    tpr: Option<f64>,
    /// Share of the normal pixels that may be called anomalous, such as 0.001
    #[arg(long, value_parser = share)]
    fpr: Option<f64>,
    /// Bound on the expected share of obstacles missed in a new frame, such as 0.1 (conformal)
    #[arg(long, value_parser = share)]
    missed: Option<f64>,
}

/// A share strictly between 0 and 1.
fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| *share > 0.0 && *share < 1.0);
    share.ok_or_else(|| "a share above 0 and below 1".into())
}

/// What the labelled frames of a set say.
#[derive(Default)]
struct Measured {
    counts: Vec<FrameCounts>,
    /// Per frame with obstacles, the score at which each is found.
    obstacles: Vec<Vec<f32>>,
    /// Per frame, what it looks like to the backbone.
    descriptors: Vec<Vec<f32>>,
}

/// Scores the frames, finds the threshold and writes it beside the weights.
pub(crate) fn run(args: &Args) -> Result<()> {
    let set = args.set.open_anomalies("calibration")?;
    let pipeline = args.windows.open(&args.model, args.score)?;
    let smallest = size_limits(set.layout).labelled;
    let mut measured = Measured::default();
    for_each(&set, &pipeline, &[args.score], (Shard::WHOLE, false), |_, labels, maps| {
        let Some((_, labels)) = labels else { return Ok(()) };
        let scores = &maps.scores[0].1;
        measured.counts.push(FrameCounts::new(scores, &labels.data));
        let obstacles = obstacle_scores(scores, &labels.data, labels.width, smallest);
        measured.obstacles.extend(Some(obstacles).filter(|found| !found.is_empty()));
        measured.descriptors.push(maps.descriptor.clone());
        Ok(())
    })?;
    let dataset = format!("{} {}", set.layout.name(), set.split);
    let calibration = calibration(args, &measured, dataset)?;
    print(&calibration);
    checkpoint::set_calibration(&args.model.weights, calibration)?;
    println!("written into {}", args.model.weights.with_extension("yaml").display());
    Ok(())
}

fn calibration(args: &Args, measured: &Measured, dataset: String) -> Result<Calibration> {
    let pool = Pool::new(&measured.counts);
    let (ood_threshold, interval, target) = operating_point(&args.target, measured, &pool)?;
    let (tpr, fpr) = pool.rates(ood_threshold);
    let Sigmoid { temperature, offset } = fit_sigmoid(&pool.points())?;
    Ok(Calibration {
        score: args.score,
        plan: args.windows.plan.to_string(),
        precision: args.model.precision.to_string(),
        target,
        ood_threshold,
        interval,
        tpr,
        fpr,
        missed_obstacles: missed_bound(measured.obstacles.iter().map(Vec::as_slice), ood_threshold),
        temperature,
        offset,
        dataset,
        frames: measured.counts.len(),
        frames_with_obstacles: measured.obstacles.len(),
        familiarity: Familiarity::of(&measured.descriptors, args.unfamiliar),
    })
}

/// The threshold, its interval, and the target in words.
fn operating_point(
    target: &TargetArgs,
    measured: &Measured,
    pool: &Pool<'_>,
) -> Result<(f32, [f32; 2], String)> {
    let (frames, obstacles) = (measured.counts.len(), measured.obstacles.len());
    let find = |frames: usize, threshold: &dyn Fn(&[usize]) -> Option<f32>| {
        let all: Vec<usize> = (0..frames).collect();
        threshold(&all).zip(bootstrap(frames, ROUNDS, 0, threshold))
    };
    let rate = |target| find(frames, &|picked: &[usize]| pool.threshold(target, picked));
    let bound = |alpha| {
        find(obstacles, &|picked: &[usize]| missed_threshold(&measured.obstacles, alpha, picked))
    };
    let (found, text) = match (target.tpr, target.fpr, target.missed) {
        (Some(wanted), _, _) => (rate(Target::Tpr(wanted)), format!("tpr {wanted}")),
        (_, Some(budget), _) => (rate(Target::Fpr(budget)), format!("fpr {budget}")),
        (_, _, missed) => {
            let alpha = missed.unwrap_or(1.0);
            (bound(alpha), format!("missed {alpha}"))
        }
    };
    let (threshold, interval) = found.ok_or_else(|| {
        let allowed = format!(
            "more frames: {frames} here, {obstacles} with obstacles; a bound of x on missed obstacles \
             takes 1/x - 1 frames with obstacles at least, a rate takes one pixel of its class"
        );
        Error::setting("target", &text, allowed)
    })?;
    Ok((threshold, interval, text))
}

fn print(calibration: &Calibration) {
    let c = calibration;
    let [low, high] = c.interval;
    println!(
        "measured on  {}, {} frames, {} with obstacles",
        c.dataset, c.frames, c.frames_with_obstacles
    );
    println!("target       {}", c.target);
    println!("threshold    {} > {} (95 % of resamples: {low} to {high})", c.score, c.ood_threshold);
    println!("at it        TPR {:.2} %, FPR {:.3} %", 100.0 * c.tpr, 100.0 * c.fpr);
    println!(
        "missed       at most {:.1} % of a new frame's obstacles, on average",
        100.0 * c.missed_obstacles
    );
    println!("probability  1 / (1 + exp(-({} - {:.4}) / {:.4}))", c.score, c.offset, c.temperature);
    match &c.familiarity {
        Some(known) => println!(
            "familiarity  {:.2} % of frames like these are called unfamiliar, at most, on average",
            100.0 * known.false_alarms
        ),
        None => println!("familiarity  unknown: it takes {FEWEST} frames"),
    }
}
