//! `gpu`: how hot the GPU is and whether it slows itself down, as NVML says.

use std::ffi::OsStr;
#[cfg(not(feature = "fault-injection"))]
use std::ffi::OsString;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;

use super::{Finding, Level, or_na, value};

/// Degrees Celsius from which a GPU is hot.
const HOT: u32 = 90;
/// How often it is asked.
const PERIOD: Duration = Duration::from_secs(1);
/// An answer comes within this, or the driver is in trouble.
const ANSWER: Duration = Duration::from_millis(200);
/// The first one may wait for the driver to wake up.
const FIRST: Duration = Duration::from_secs(10);

/// What a GPU says of itself.
#[derive(Clone, Debug)]
struct Reading {
    name: String,
    /// None where the driver does not tell.
    celsius: Option<u32>,
    slowed: ThrottleReasons,
}

/// Asks a thread, which alone may be kept waiting by the driver; it ends with this, or hangs with the process.
pub(super) struct Gpu {
    ask: Sender<()>,
    answers: Receiver<Result<Reading, String>>,
    asked: Instant,
    /// An answer is due.
    waiting: bool,
    last: Option<Result<Reading, String>>,
}

impl Gpu {
    /// The GPU that the network runs on, by the names and values of [`facts`](super::super::loaded::facts);
    /// none on a CPU. GPUs are numbered as NVML does it.
    pub(super) fn of(model: &[(String, String)], now: Instant) -> Option<Self> {
        let device = model.iter().find(|(key, _)| key == "device").map(|(_, device)| &**device);
        let index =
            device.and_then(|name| name.strip_prefix("Cuda(")?.strip_suffix(')')?.parse().ok());
        #[cfg(feature = "fault-injection")]
        let library = crate::fault::nvml();
        #[cfg(not(feature = "fault-injection"))]
        let library: Option<OsString> = None;
        let index = index.or(library.is_some().then_some(0))?;
        let (ask, asked) = bounded(1);
        let (answer, answers) = bounded(1);
        let watch = move || {
            if let Err(error) = watch(library.as_deref(), index, &asked, &answer) {
                log::info!("the GPU's temperature is not known: {error}");
            }
        };
        if let Err(error) = thread::Builder::new().name("gpu".into()).spawn(watch) {
            log::warn!("thread of the GPU's temperature: {error}");
            return None;
        }
        Some(Self { ask, answers, asked: now, waiting: true, last: None })
    }

    /// Hears the answer and asks anew; false where there is no NVML.
    fn listen(&mut self, now: Instant) -> bool {
        match self.answers.try_recv() {
            Ok(answer) => (self.last, self.waiting) = (Some(answer), false),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return false,
        }
        if !self.waiting
            && now.duration_since(self.asked) >= PERIOD
            && self.ask.try_send(()).is_ok()
        {
            (self.asked, self.waiting) = (now, true);
        }
        true
    }

    /// What is to be said of it; `None` where there is no NVML.
    pub(super) fn finding(&mut self, now: Instant) -> Option<Finding> {
        if !self.listen(now) {
            return None;
        }
        let waited = now.duration_since(self.asked);
        let mute = self.waiting && waited > if self.last.is_some() { ANSWER } else { FIRST };
        Some(match &self.last {
            _ if mute => {
                let message = format!("NVML has not answered for {} ms", waited.as_millis());
                Finding::new(Level::WARN, message, Vec::new())
            }
            Some(Err(problem)) => Finding::new(Level::WARN, problem.clone(), Vec::new()),
            Some(Ok(reading)) => reading.finding(),
            None => Finding::new(Level::OK, "NVML is asked for the first time", Vec::new()),
        })
    }
}

impl Reading {
    /// Why its clocks are lower than the work would have them, where that is a fault.
    fn faults(&self) -> Vec<&'static str> {
        let faults = [
            (ThrottleReasons::HW_THERMAL_SLOWDOWN, "hardware thermal slowdown"),
            (ThrottleReasons::SW_THERMAL_SLOWDOWN, "software thermal slowdown"),
            (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power brake"),
        ];
        faults
            .into_iter()
            .filter(|(fault, _)| self.slowed.contains(*fault))
            .map(|(_, name)| name)
            .collect()
    }

    fn finding(&self) -> Finding {
        let faults = self.faults().join(", ");
        let hot = self.celsius.filter(|&celsius| celsius >= HOT);
        let (level, message) = match (hot, &*faults) {
            (None, "") => (Level::OK, "cool and not slowed down".into()),
            (None, faults) => (Level::WARN, format!("slowed down: {faults}")),
            (Some(celsius), "") => (Level::WARN, format!("{celsius} degrees Celsius")),
            (Some(celsius), faults) => {
                (Level::WARN, format!("{celsius} degrees Celsius, slowed down: {faults}"))
            }
        };
        let values = vec![
            value("name", &self.name),
            value("temperature_c", &or_na(self.celsius)),
            value("throttle_reasons", &format!("{:#x}", self.slowed.bits())),
        ];
        Finding::new(level, message, values)
    }
}

/// Answers at once and then whenever asked.
fn watch(
    library: Option<&OsStr>,
    index: u32,
    asked: &Receiver<()>,
    answer: &Sender<Result<Reading, String>>,
) -> Result<(), NvmlError> {
    let nvml = match library {
        Some(path) => Nvml::builder().lib_path(path).init()?,
        None => Nvml::init()?,
    };
    loop {
        let reading = read(&nvml, index).map_err(|error| error.to_string());
        if answer.send(reading).is_err() || asked.recv().is_err() {
            return Ok(()); // nobody wants to know any more
        }
    }
}

fn read(nvml: &Nvml, index: u32) -> Result<Reading, NvmlError> {
    let device = nvml.device_by_index(index)?;
    let celsius = match device.temperature(TemperatureSensor::Gpu) {
        Err(NvmlError::NotSupported) => None,
        celsius => Some(celsius?),
    };
    let slowed = match device.current_throttle_reasons() {
        Err(NvmlError::NotSupported) => ThrottleReasons::empty(),
        slowed => slowed?,
    };
    Ok(Reading { name: device.name()?, celsius, slowed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heat_and_a_thermal_slowdown_are_warnings_and_a_power_cap_is_not() {
        let finding = |celsius, slowed| {
            let Finding { level, message, .. } =
                Reading { name: "a".into(), celsius, slowed }.finding();
            (level, message)
        };
        let (none, cap) = (ThrottleReasons::empty(), ThrottleReasons::SW_POWER_CAP);
        for cool in [finding(Some(89), cap), finding(None, none)] {
            assert_eq!(cool, (Level::OK, "cool and not slowed down".into()));
        }
        assert_eq!(finding(Some(90), none), (Level::WARN, "90 degrees Celsius".into()));
        let (level, message) = finding(Some(60), cap | ThrottleReasons::SW_THERMAL_SLOWDOWN);
        assert_eq!((level, &*message), (Level::WARN, "slowed down: software thermal slowdown"));
    }

    #[test]
    fn a_network_on_the_cpu_asks_nobody() {
        assert!(Gpu::of(&[("device".into(), "Cpu".into())], Instant::now()).is_none());
    }
}
