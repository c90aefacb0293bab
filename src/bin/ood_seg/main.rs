//! `ood_seg`: the offline tools. One file and one match arm per command.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool prints")]

mod check;
mod convert;
mod dataset;
mod evaluate;
mod init;
mod model;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ood_segmentation::Result;

/// Segment road scenes and mark what the network was never taught: the tools around the node.
#[derive(Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
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
}

fn run(cli: &Cli) -> Result<()> {
    match &cli.command {
        Command::Init(args) => init::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Check(args) => check::run(args),
        Command::Dataset(args) => dataset::run(args),
        Command::Evaluate(args) => evaluate::run(args),
    }
}

fn main() -> ExitCode {
    let level = env_logger::Env::default().default_filter_or("warn");
    env_logger::Builder::from_env(level).init();
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ood_seg: {}", error.chain());
            ExitCode::from(2)
        }
    }
}
