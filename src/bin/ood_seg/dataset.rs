//! `ood_seg dataset check`: what an evaluation set on disk holds, and what it lacks.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use ood_segmentation::data::ood_sets::{Census, OodSet, census};
use ood_segmentation::{Error, Result};

/// Looks at data sets.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Recognise the layout, count frames, sizes and label values, name what is missing or left over
    Check {
        /// Folder of a set in its published layout, or one above several
        path: PathBuf,
        /// Only this split, such as validation, test, testNoKnown
        #[arg(long)]
        split: Option<String>,
    },
}

/// Prints the census of every set found; an error at the end when any of them is not whole.
pub(crate) fn run(args: &Args) -> Result<()> {
    let Command::Check { path, split } = &args.command;
    let mut incomplete = Vec::new();
    for set in OodSet::find(path, split.as_deref())? {
        let census = census(&set);
        print(&set, &census);
        if !census.problems.is_empty() {
            incomplete.push(set.root.clone());
        }
    }
    report(path, &incomplete)
}

fn report(path: &Path, incomplete: &[PathBuf]) -> Result<()> {
    if incomplete.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = incomplete.iter().map(|root| root.display().to_string()).collect();
    let problem = format!("not whole, see the problems above: {}", names.join(", "));
    Err(Error::bad_file(path, problem))
}

#[expect(clippy::cast_precision_loss, reason = "a percentage for the eye")]
fn print(set: &OodSet, census: &Census) {
    println!("{}", set.root.display());
    println!("  layout    {}, split {}", set.layout.name(), set.split);
    let labelled = set.labelled().count();
    println!("  frames    {}, {labelled} with labels", set.frames.len());
    if let Some(published) = set.layout.published_frames(&set.split) {
        println!("            the published set has {published}");
    }
    for ((height, width), count) in &census.sizes {
        println!("  size      {height}x{width} px (height, width): {count}");
    }
    let pixels: u64 = census.values.values().sum();
    for (value, count) in &census.values {
        let meaning = match (set.layout.has_classes(), value) {
            (_, 255) => "ignored",
            (true, _) => "train id",
            (false, 0) => "normal",
            (false, _) => "anomaly",
        };
        let share = 100.0 * *count as f64 / pixels as f64;
        println!("  label     {value:>3} {meaning:<9} {count:>12} px {share:>7.3} %");
    }
    for problem in &census.problems {
        println!("  problem   {problem}");
    }
}
