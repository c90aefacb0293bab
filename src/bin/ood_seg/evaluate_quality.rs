//! `ood_seg evaluate-quality`: what the input monitor is worth, on drawn scenes spoilt on purpose.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ood_segmentation::config::{NodeConfig, Override, QualityParameters};
use ood_segmentation::data::synth::{Scene, SceneConfig, scene_seed};
use ood_segmentation::eval::metrics::{Sweep, exact_bins, totals};
use ood_segmentation::eval::plot::curves;
use ood_segmentation::image::{self, Image, Limits};
use ood_segmentation::quality::{Monitor, Quality, bit};
use ood_segmentation::{Error, Result, file};

/// How many scenes, and where the results go.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Scenes, each clean and spoilt in every way
    #[arg(long, default_value_t = 60)]
    scenes: u64,
    /// The same seed draws the same scenes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Columns of a picture; rows are 9/16 of it
    #[arg(long, default_value_t = 1280)]
    width: u32,
    /// Folder of results.md, results.json and roc.png
    #[arg(short, long, default_value = "out/quality")]
    out: PathBuf,
}

/// A picture of the drawn world: rows, columns, RGB, and the same scene 0.7 s later.
struct Shot {
    height: usize,
    width: usize,
    now: Vec<u8>,
    later: Vec<u8>,
    index: usize,
}

/// A way to spoil a picture, what measures it (higher is worse), and the bit that it should set.
type Fault = (&'static str, fn(&Shot) -> Vec<u8>, fn(&Quality) -> f32, u16);

const FAULTS: [Fault; 7] = [
    ("dark", |shot| each(shot, |v| v / 25.0), |q| -q.mean, bit::DARK),
    ("bright", |shot| each(shot, |v| 4.0 * v + 160.0), |q| q.mean, bit::BRIGHT),
    ("saturated", |shot| each(shot, |v| 2.5 * v), |q| q.saturated, bit::SATURATED),
    ("blurred", blurred, |q| -q.sharpness, bit::BLURRED),
    ("covered", covered, |q| q.covered as f32, bit::COVERED),
    ("torn", torn, |q| q.torn, bit::TORN),
    ("skewed", skewed, |q| q.skewed, bit::TORN),
];

/// Draws, spoils, measures.
pub(crate) fn run(args: &Args) -> Result<()> {
    let thresholds = shipped()?;
    let mut clean = Vec::new();
    let mut spoilt = vec![Vec::new(); FAULTS.len()];
    let mut time = Duration::ZERO;
    for index in 0..args.scenes {
        let shot = draw(args, index)?;
        let start = Instant::now();
        clean.extend(look(&shot, shot.now.clone(), &thresholds));
        time += start.elapsed();
        for (found, (_, spoil, ..)) in spoilt.iter_mut().zip(FAULTS) {
            found.extend(look(&shot, spoil(&shot), &thresholds));
        }
    }
    let ms = time.as_secs_f64() * 1e3 / args.scenes.max(1) as f64;
    let mut text = format!(
        "{} drawn scenes, {} px wide, seed {}; {ms:.2} ms a picture\n\n\
         | fault | AUROC | found at the shipped threshold | clean pictures flagged |\n|---|--:|--:|--:|\n",
        args.scenes, args.width, args.seed
    );
    let (mut series, mut rows) = (Vec::new(), Vec::new());
    for ((name, _, measure, bit), spoilt) in FAULTS.into_iter().zip(&spoilt) {
        let (auroc, curve) = roc(&clean, spoilt, measure);
        let share = |all: &[Quality]| {
            let flagged = all.iter().filter(|quality| quality.bits & bit != 0).count();
            flagged as f64 / all.len().max(1) as f64
        };
        let (found, false_alarms) = (share(spoilt), share(&clean));
        let percent = [found, false_alarms].map(|share| format!("{:.1} %", 100.0 * share));
        writeln!(text, "| {name} | {auroc:.4} | {} | {} |", percent[0], percent[1])
            .unwrap_or_default();
        series.push((name.to_owned(), curve));
        rows.push(serde_json::json!({
            "fault": name, "auroc": auroc, "found": found, "false_alarms": false_alarms,
        }));
    }
    let report = serde_json::json!({ "scenes": args.scenes, "width": args.width, "seed": args.seed,
        "ms_per_picture": ms, "faults": rows });
    let json = serde_json::to_string_pretty(&report).unwrap_or_default();
    std::fs::create_dir_all(&args.out).map_err(Error::io(&args.out))?;
    file::write(&args.out.join("results.json"), |file| file.write_all(json.as_bytes()))?;
    file::write(&args.out.join("results.md"), |file| file.write_all(text.as_bytes()))?;
    let (h, w, rgb) = curves("ROC: faults found over clean pictures flagged", &series);
    image::write_png(&args.out.join("roc.png"), h, w, &rgb)?;
    println!("{text}\nresults in {}", args.out.display());
    Ok(())
}

/// The thresholds that the node is shipped with.
fn shipped() -> Result<QualityParameters> {
    let weights = Override::Value { key: "model.weights".into(), yaml: "none".into() };
    Ok(NodeConfig::load("/ood_segmentation", &[weights])?.quality)
}

fn draw(args: &Args, index: u64) -> Result<Shot> {
    let height = args.width * 9 / 16;
    let config = SceneConfig { width: args.width, height, ..SceneConfig::default() };
    let scene = Scene::new(scene_seed(args.seed, 77, index), &config)?;
    let [now, later] = [0, 7].map(|frame| scene.render(frame).rgb);
    let (height, width) = (height as usize, args.width as usize);
    Ok(Shot { height, width, now, later, index: usize::try_from(index).unwrap_or_default() })
}

fn look(shot: &Shot, rgb: Vec<u8>, thresholds: &QualityParameters) -> Option<Quality> {
    let image = Image::packed(Default::default(), (shot.height, shot.width), "rgb8", rgb);
    Monitor::default().look(&image, &Limits::default(), thresholds, Instant::now())
}

/// Area under the curve, and the curve as false over true positive rate.
fn roc(clean: &[Quality], spoilt: &[Quality], of: fn(&Quality) -> f32) -> (f64, Vec<(f64, f64)>) {
    let scores: Vec<f32> = clean.iter().chain(spoilt).map(of).collect();
    let labels = [vec![0; clean.len()], vec![1; spoilt.len()]].concat();
    let bins = exact_bins(&scores, &labels);
    let (positives, negatives) = totals(&bins);
    let mut sweep = Sweep::new(positives, negatives);
    let mut curve = vec![(0.0, 0.0)];
    for bin in bins {
        let point = sweep.push(bin);
        curve.push((point.fpr, point.recall));
    }
    (sweep.finish().auroc, curve)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn each(shot: &Shot, change: fn(f32) -> f32) -> Vec<u8> {
    shot.now.iter().map(|&v| change(f32::from(v)) as u8).collect()
}

/// Out of focus: three box blurs of about a 200th of the width to either side, with sensor noise after.
fn blurred(shot: &Shot) -> Vec<u8> {
    let (w, h, radius) = (shot.width, shot.height, shot.width / 200);
    let mut rgb = shot.now.clone();
    for _ in 0..3 {
        for (step, count, lines) in [(3, w, h), (3 * w, h, w)] {
            for line in 0..lines {
                let start = if step == 3 { 3 * w * line } else { 3 * line };
                for c in 0..3 {
                    let at = |i: usize| start + c + i * step;
                    let row: Vec<u32> = (0..count).map(|i| u32::from(rgb[at(i)])).collect();
                    let mut sum: u32 = row[..radius].iter().sum();
                    for i in 0..count {
                        sum += row.get(i + radius).copied().unwrap_or_default();
                        sum -= if i > radius { row[i - radius - 1] } else { 0 };
                        let many = (i + radius + 1).min(count) - i.saturating_sub(radius);
                        rgb[at(i)] = u8::try_from(sum as usize / many).unwrap_or(255);
                    }
                }
            }
        }
    }
    let noisy = rgb.into_iter().enumerate().map(|(i, v)| v.saturating_add(noise(i, 7)));
    noisy.collect()
}

/// Something dark before a third of the lens.
fn covered(shot: &Shot) -> Vec<u8> {
    let hidden = |i: usize| {
        let (y, x) = (i / 3 / shot.width, i / 3 % shot.width);
        3 * x < 2 * shot.width && 2 * y > shot.height
    };
    let pixels = shot.now.iter().enumerate();
    pixels.map(|(i, &v)| if hidden(i) { 8 + noise(i, 5) } else { v }).collect()
}

/// The lower part is that of a later picture.
fn torn(shot: &Shot) -> Vec<u8> {
    let row = shot.height / 4 + shot.index * 37 % (shot.height / 2);
    let at = 3 * shot.width * row;
    [&shot.now[..at], &shot.later[at..]].concat()
}

/// Read with a step that is 12 bytes off.
fn skewed(shot: &Shot) -> Vec<u8> {
    let step = 3 * shot.width + 12;
    let all = shot.now.len();
    let rows = (0..shot.height).map(|y| (y * step) % (all - step));
    rows.flat_map(|start| &shot.now[start..start + 3 * shot.width]).copied().collect()
}

/// A number below `most` that looks random.
#[expect(clippy::cast_possible_truncation, reason = "below 256")]
fn noise(i: usize, most: u32) -> u8 {
    let mixed = (i as u32).wrapping_mul(0x9e37_79b1);
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca77);
    ((mixed ^ mixed >> 13) % most) as u8
}
