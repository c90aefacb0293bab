//! `ood_seg prepare-coco`: the masks that stage 2 pastes from.

use std::path::PathBuf;

use ood_segmentation::Result;
use ood_segmentation::data::coco;

use crate::segment::progress;

/// Where COCO is.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder that holds annotations/instances_train2017.json and train2017/
    root: PathBuf,
}

/// Writes the masks and says what was left out.
pub(crate) fn run(args: &Args) -> Result<()> {
    let bar = progress(0);
    let done = coco::prepare(&args.root, |i, count| {
        bar.set_length(count as u64);
        bar.set_position(i as u64);
    })?;
    bar.finish();
    println!("{} masks in {}", done.written, args.root.join(coco::MASKS).display());
    println!("left out: {} that show {}", done.excluded, coco::EXCLUDED.join(", "));
    println!("left out: {} smaller than {} px on a side", done.small, coco::MIN_SIDE);
    println!("left out: {} without any instance", done.empty);
    Ok(())
}
