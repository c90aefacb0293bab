//! The node: arguments -> parameters -> model -> loop -> exit code.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, panic, process, thread};

use crossbeam_channel::{Receiver, never};
use log::LevelFilter;
use ood_segmentation::config::{NodeConfig, ObstacleParameters};
use ood_segmentation::model::{Precision, Score, device};
use ood_segmentation::obstacle::ObstacleConfig;
use ood_segmentation::pipeline::{OperatingPoint, Pipeline, PipelineConfig};
use ood_segmentation::ros::{Console, Line, Loaded, Network, Node, Process, RosArgs, Tee, limits};
use ood_segmentation::selftest::SelfTest;
use ood_segmentation::supervisor::{self, Phase, Watch, report_panics};
use ood_segmentation::window::Plan;
use ood_segmentation::{Error, checkpoint, threads};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

const NODE_NAME: &str = "ood_segmentation";

const USAGE: &str = "\
ood_segmentation_node: camera images in, semantic classes and out-of-distribution masks out

usage: ood_segmentation_node [--help] [--version] [--check] [--ros-args ROS_ARGUMENTS]

  --check                    load the weights, warm up, answer the self-test, report, and end
  -p model.weights:=FILE     weights, a .safetensors file with its .yaml beside it (needed)
  -p NAME:=VALUE             any parameter of config/ood_segmentation.param.yaml
  --params-file FILE         a ROS parameter file; of several the later one wins
  -r FROM:=TO                remap a topic, __ns or __node
  --log-level LEVEL          debug, info, warn, error

exit codes: 0 ended by SIGINT or SIGTERM, 65 bad weights, 66 no weights, 69 no such device,
70 internal error, 71 the network or its device failed, 75 DDS cannot start, 78 arguments, parameters or environment";

/// An error and the exit code (sysexits.h) that belongs to where it happened.
struct Failure(u8, Error);

/// For `map_err`: the exit code of this step.
fn exit(code: u8) -> impl Fn(Error) -> Failure {
    move |error| Failure(code, error)
}

fn main() -> ExitCode {
    threads::start_for_libtorch();
    match panic::catch_unwind(run) {
        Err(_reported) => ExitCode::from(70),
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(Failure(code, error))) => {
            #[expect(clippy::print_stderr, reason = "logging may not be set up, or be off")]
            {
                eprintln!("{NODE_NAME}: {}", error.chain());
            }
            ExitCode::from(code)
        }
    }
}

fn run() -> Result<(), Failure> {
    let args = RosArgs::parse(env::args().skip(1)).map_err(exit(78))?;
    if args.help || args.version {
        let version = concat!("ood_segmentation_node ", env!("CARGO_PKG_VERSION"));
        #[expect(clippy::print_stdout, reason = "what the user asked for")]
        {
            println!("{}", if args.help { USAGE } else { version });
        }
        return Ok(());
    }
    let names = args.names(NODE_NAME).map_err(exit(78))?;
    let console = Console::from_env(|name| env::var(name).ok()).map_err(exit(78))?;
    let log =
        start_log(&args, console, names.node_name().trim_start_matches('/').replace('/', "."));
    #[cfg(feature = "fault-injection")]
    ood_segmentation::fault::arm().map_err(exit(78))?;
    report_panics();
    let (watch, stop) = stop_on_signals().map_err(exit(70))?;
    let network = Network::from_env(|name| env::var(name).ok()).map_err(exit(78))?;
    if network.localhost_only {
        watch.stay_local();
    }
    let config = NodeConfig::load(&names.node_name(), &args.overrides(&names)).map_err(exit(78))?;
    watch.limit(supervisor::Limits {
        hang: Duration::from_millis(config.hang_ms.into()),
        memory_mb: config.memory_limit_mb.into(),
    });
    let loaded = (config.autostart || args.check).then(|| load(&config, &watch)).transpose()?;
    if let Some(loaded) = loaded.as_ref().filter(|_| args.check) {
        report(loaded);
        return Ok(());
    }
    watch.enter(Phase::Joining);
    let again = watch.clone();
    let load = Box::new(move |config: &NodeConfig| {
        load(config, &again).map_err(|Failure(_code, error)| error)
    });
    let process = Process { stop, log, watch, load };
    let node = Node::start(&names, network, config, loaded, process).map_err(|error| {
        let code = if matches!(error, Error::Ros { .. }) { 75 } else { 78 };
        Failure(code, error)
    })?;
    log::info!("{} is running in ROS domain {}", names.node_name(), network.domain_id);
    node.run().map_err(|error| Failure(error.exit_code(), error))
}

/// A warm network that has answered the self-test.
fn load(config: &NodeConfig, watch: &Watch) -> Result<Loaded, Failure> {
    let pipeline = pipeline(config)?;
    watch.enter(Phase::Testing);
    let selftest = SelfTest::start(&pipeline).map_err(|error| {
        let code = if matches!(error, Error::Torch { .. }) { 69 } else { 71 };
        Failure(code, error)
    })?;
    if !selftest.stored() {
        log::warn!("the weights came without an answer to the self-test: ood_seg check --write");
    }
    Ok(Loaded { pipeline, selftest })
}

/// What `--check` says of a network that loaded, ran and answered.
fn report(Loaded { pipeline, selftest }: &Loaded) {
    let model = pipeline.model();
    let answer = match selftest.stored() {
        true => "that of the sidecar",
        false => "finite; the sidecar has none to compare with",
    };
    #[expect(clippy::print_stdout, reason = "what the user asked for")]
    {
        println!("weights  sha256 {}", model.config().sha256);
        println!("device   {:?}, {}", model.device(), model.precision());
        println!("way      {}", pipeline.way());
        println!("answer   {answer}");
        println!("check    good");
    }
}

/// The network and how frames go through it, as the parameters say.
fn pipeline(config: &NodeConfig) -> Result<Pipeline, Failure> {
    let precision: Precision = config.model.precision.parse().map_err(exit(78))?;
    let plan: Plan = config.plan.parse().map_err(exit(78))?;
    let score: Score = config.score.parse().map_err(exit(78))?;
    let (device, why) = device::select(&config.model.device).map_err(exit(69))?;
    let weights = &config.model.weights;
    let model = checkpoint::load(weights, device, precision).map_err(|error| {
        let code = match error {
            Error::Io { .. } => 66,
            Error::Torch { .. } => 69,
            _ => 65,
        };
        Failure(code, error)
    })?;
    let (weights, name) = (weights.display(), &model.config().architecture);
    log::info!("{weights}: {name}, {precision}, sha256 {}; {why}", model.config().sha256);
    let calibrated = OperatingPoint::of(model.config(), score);
    let settings = PipelineConfig {
        plan,
        batch: config.batch,
        score,
        ood_threshold: config.ood_threshold.or(calibrated.ood_threshold),
        obstacle: obstacle(&config.obstacle, calibrated),
        limits: limits(config),
    };
    let mut pipeline = Pipeline::new(model, settings).map_err(exit(78))?;
    let times = pipeline.warm_up().map_err(exit(71))?;
    let times: Vec<_> = times.iter().map(|ms| format!("{ms:.0}")).collect();
    log::info!("warm after passes of 1 to {} windows: {} ms", config.batch, times.join(", "));
    if config.model.cuda_graphs {
        pipeline.accelerate();
    }
    Ok(pipeline)
}

#[expect(clippy::cast_possible_truncation, reason = "scores are float32")]
fn obstacle(parameters: &ObstacleParameters, calibrated: OperatingPoint) -> ObstacleConfig {
    ObstacleConfig {
        hysteresis: parameters.hysteresis as f32,
        mean_margin: parameters.mean_margin as f32,
        min_area: parameters.min_area,
        max_area: parameters.max_area,
        min_road: parameters.min_road as f32,
        temperature: parameters.temperature.or(calibrated.temperature),
        offset: parameters.offset.or(calibrated.offset),
        tolerance: parameters.tolerance as f32,
    }
}

/// Logs in the form of ROS to the console, under the node's name; of the libraries' lines only warnings.
/// `RUST_LOG` wins. Returns the node's lines once more, for `/rosout`.
fn start_log(args: &RosArgs, console: Console, node: String) -> Receiver<Line> {
    let mut log = env_logger::Builder::new();
    let level = args.log_level.unwrap_or(LevelFilter::Info);
    log.filter_level(level.min(LevelFilter::Warn));
    log.filter_module("ood_segmentation", level);
    // Said at every start and rebuild: clamped sockets, of which `Node` warns once, and no ROS_DISTRO.
    log.filter_module("rustdds::network", level.min(LevelFilter::Error));
    log.filter_module("ros2_client::distributions", level.min(LevelFilter::Error));
    for (logger, level) in &args.log_levels {
        log.filter_module(logger, *level);
    }
    log.parse_default_env();
    let logger = node.clone();
    if console.stdout {
        log.target(env_logger::Target::Stdout);
    }
    log.format(move |out, record| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = record.target().split("::").next().unwrap_or_default();
        let name = if name.starts_with(NODE_NAME) { &node } else { name };
        writeln!(out, "{}", console.line(record, name, now))
    });
    let log = log.build();
    let level = log.filter();
    let (tee, lines) = Tee::new(Box::new(log), logger);
    // Fails only where a logger is set already, and this is the first.
    if log::set_boxed_logger(Box::new(tee)).is_ok() {
        log::set_max_level(level);
    }
    if args.rosout { lines } else { never() }
}

/// The supervisor, and a channel that closes at the first SIGINT or SIGTERM; while there is no node yet
/// the process ends at once, as it does at a second signal.
fn stop_on_signals() -> Result<(Watch, smol::channel::Receiver<()>), Error> {
    let failed = |error: std::io::Error| Error::Ros {
        what: "catching SIGINT and SIGTERM".into(),
        problem: error.to_string(),
    };
    let watch = Watch::start().map_err(failed)?;
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let (running, stop) = smol::channel::bounded(1);
    let watched = watch.clone();
    let wait = move || {
        for (signal, first) in signals.forever().zip([true, false]) {
            if !first {
                process::exit(128 + signal);
            }
            log::info!("signal {signal}: stopping after the current frame");
            if watched.phase() < Phase::Running {
                low_level::exit(0);
            }
            watched.stop(0);
            running.close();
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(failed)?;
    Ok((watch, stop))
}
