//! `ood_seg`: the offline tools. One file and one match arm per command.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool prints")]

mod bag_out;
mod bench;
mod calibrate;
mod check;
mod convert;
mod dataset;
mod demo;
mod evaluate;
mod evaluate_quality;
mod init;
mod inputs;
mod model;
mod outputs;
mod prepare_coco;
mod replay;
mod segment;
mod session;
mod signal;
mod soak;
mod synth;
mod synth_bag;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ood_segmentation::{Result, threads};

/// Segment road scenes and mark what the network was never taught: the tools around the node.
#[derive(Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A camera in, two masks out: the node over DDS, pictures of what it sees
    Demo(demo::Args),
    /// Segment images, folders of images and bags
    Segment(segment::Args),
    /// Write a network with random weights
    Init(init::Args),
    /// Turn published weights into safetensors with a sidecar
    Convert(convert::Args),
    /// Load weights strictly and run one window
    Check(check::Args),
    /// Look at an evaluation set: what it holds and what it lacks
    Dataset(dataset::Args),
    /// Measure what the scores are worth on a labelled set
    Evaluate(evaluate::Args),
    /// Measure what the input monitor is worth on drawn scenes spoilt on purpose
    EvaluateQuality(evaluate_quality::Args),
    /// Find an operating threshold on labelled frames and write it into the model's sidecar
    Calibrate(calibrate::Args),
    /// Play a rosbag2 bag onto DDS with its recorded timing
    Replay(replay::Args),
    /// Draw data sets of the road world in the published layouts
    Synth(synth::Args),
    /// Train a small backbone from random weights, for a model like the demo's
    TrainBackbone(train::Args),
    /// Train decoder and inlier head on a frozen backbone (stage 1)
    TrainSegmentor(train::Args),
    /// Train the UEM on a frozen segmentor (stage 2)
    TrainUem(train::Args),
    /// Make the masks of outliers that stage 2 pastes from
    PrepareCoco(prepare_coco::Args),
    /// Time the network or the node; one JSON line
    Bench(bench::Args),
    /// Run the node behind a camera that is too fast, with bad pictures in between
    Soak(soak::Args),
}

fn run(cli: &Cli) -> Result<()> {
    match &cli.command {
        Command::Demo(args) => demo::run(args),
        Command::Segment(args) => segment::run(args),
        Command::Init(args) => init::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Check(args) => check::run(args),
        Command::Dataset(args) => dataset::run(args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::EvaluateQuality(args) => evaluate_quality::run(args),
        Command::Calibrate(args) => calibrate::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Synth(args) => synth::run(args),
        Command::TrainBackbone(args) => train::backbone(args),
        Command::TrainSegmentor(args) => train::segmentor(args),
        Command::TrainUem(args) => train::uem(args),
        Command::PrepareCoco(args) => prepare_coco::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Soak(args) => soak::run(args),
    }
}

fn main() -> ExitCode {
    threads::start_for_libtorch();
    // The transport warns of clamped sockets at every start; the commands say it where it matters.
    let level = "warn,rustdds=error,ros2_client=error";
    let level = env_logger::Env::default().default_filter_or(level);
    env_logger::Builder::from_env(level).init();
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ood_seg: {}", error.chain());
            ExitCode::from(if signal::is_interruption(&error) { signal::EXIT_CODE } else { 2 })
        }
    }
}
