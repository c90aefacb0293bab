//! `ood_seg convert`: published weights into safetensors with a sidecar.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use ood_segmentation::checkpoint::{self, Options};
use ood_segmentation::{Error, Result};

/// What to convert.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Meta's dinov2_*.pth, Hugging Face's DINOv2 model.safetensors, or the authors' .ckpt of a
    /// segmentor, of a UEM (which holds its segmentor), or both
    #[arg(required = true, num_args = 1..=2)]
    source: Vec<PathBuf>,
    /// Weights to write, ending in .safetensors; the sidecar stands beside them
    #[arg(short, long)]
    out: PathBuf,
    /// The four tapped blocks, counted from 0, such as 1,4,8,11 [default: as the source says]
    #[arg(long, value_delimiter = ',')]
    taps: Vec<i64>,
    /// Height and width of the window in pixels, such as 518,1036 [default: as the source says]
    #[arg(long, value_delimiter = ',')]
    window: Vec<i64>,
    /// Attention heads [default: one per 64 channels]
    #[arg(long)]
    heads: Option<i64>,
    /// Class table (YAML) [default: Cityscapes for 19 classes]
    #[arg(long)]
    classes: Option<PathBuf>,
}

/// Converts and says what came of it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let options = Options {
        taps: numbers("--taps", &args.taps)?,
        window: numbers("--window", &args.window)?,
        heads: args.heads,
        classes: args.classes.clone(),
    };
    let template = "{wide_bar} {bytes}/{total_bytes}  {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    let bar = ProgressBar::new(0).with_style(style);
    let done = checkpoint::convert(&args.source, &args.out, &options, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let done = done?;
    if args.source.len() == 2 {
        println!(
            "every tensor is the UEM file's; its segmentor's batch statistics moved in training"
        );
    }
    println!("weights   {}", args.out.display());
    println!("network   {} {}", done.architecture, done.variant);
    println!("taps      {:?}, {}", done.taps, done.taps_from);
    println!(
        "tensors   {} written, {} that only training needs left out",
        done.written, done.dropped
    );
    if done.variant == "backbone" {
        println!("next      train a segmentor on it; alone it cannot segment");
    } else {
        println!("next      ood_seg check --write --device cpu --weights {}", args.out.display());
    }
    Ok(())
}

/// Exactly `N` numbers, or none where the option was not given.
fn numbers<const N: usize>(option: &str, given: &[i64]) -> Result<Option<[i64; N]>> {
    if given.is_empty() {
        return Ok(None);
    }
    let numbers = given.try_into().ok();
    let wrong = || Error::setting(option, &format!("{given:?}"), format!("{N} numbers"));
    numbers.map(Some).ok_or_else(wrong)
}
