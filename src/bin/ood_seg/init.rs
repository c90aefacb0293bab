//! `ood_seg init`: a network with random weights, in the same format as a trained one.

use std::path::PathBuf;

use ood_segmentation::{Result, checkpoint};

/// Which network.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// vits14, vitb14, vitl14 or vitg14, each also with _reg; or demo, tiny
    #[arg(long, default_value = "tiny")]
    arch: String,
    /// Inlier head and UEM head, d (linear) or g (mixtures): d-d, g-d, g-g; d or g without UEM
    #[arg(long, default_value = "d-d")]
    variant: String,
    /// The same seed gives the same file
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Weights to write, with the sidecar beside them [default: ARCH_VARIANT.safetensors]
    #[arg(short, long)]
    out: Option<PathBuf>,
}

/// Writes the weights and their sidecar.
pub(crate) fn run(args: &Args) -> Result<()> {
    let default = || format!("{}_{}.safetensors", args.arch, args.variant).into();
    let out = args.out.clone().unwrap_or_else(default);
    let model = checkpoint::init(&args.arch, &args.variant, args.seed)?;
    checkpoint::save(&model, &out)?;
    println!("{}: {} {}, random weights", out.display(), args.arch, args.variant);
    Ok(())
}
