//! Faults on purpose, for the tests of what the node does about them; in no build but theirs.
//!
//! `OOD_SEG_FAULT` says which, as `KIND@FROM..TO:NUMBER`: from that frame on, to before that one (left
//! out: that frame alone; `FROM..`: for ever), with a number where the kind needs one. `none` is none.

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use std::{env, hint, mem, thread};

use tch::{Kind, Tensor};

use crate::model::Fused;
use crate::{Error, Result};

const VARIABLE: &str = "OOD_SEG_FAULT";
const KINDS: &str =
    "none, hang, sleep, panic, thread, dds, leak, drop, stale, nan, error, memory, flip";

/// As libtorch says it.
const OUT_OF_MEMORY: &str = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of \
    7.75 GiB of which 512.00 MiB is free.";

#[derive(Debug)]
struct Fault {
    kind: String,
    from: u64,
    to: u64,
    number: u64,
}

/// Frames looked at so far.
static FRAMES: AtomicU64 = AtomicU64::new(0);
static FAULT: OnceLock<Fault> = OnceLock::new();

/// Reads what is to go wrong.
///
/// # Errors
/// [`Error::Setting`] where the variable is missing: this build must not run by mistake.
pub fn arm() -> Result<()> {
    let text = env::var(VARIABLE).unwrap_or_default();
    let wrong = || {
        let allowed =
            format!("KIND@FROM..TO:NUMBER, KIND one of {KINDS}: this build breaks things");
        Error::setting(VARIABLE, &text, allowed)
    };
    let fault = parse(&text).filter(|fault| KINDS.split(", ").any(|kind| kind == fault.kind));
    drop(FAULT.set(fault.ok_or_else(wrong)?)); // a second time changes nothing
    Ok(())
}

fn parse(text: &str) -> Option<Fault> {
    let (text, number) = text.split_once(':').unwrap_or((text, "0"));
    let (kind, frames) = text.split_once('@').unwrap_or((text, "1"));
    let (from, to) = match frames.split_once("..") {
        Some((from, "")) => (from.parse().ok()?, u64::MAX),
        Some((from, to)) => (from.parse().ok()?, to.parse().ok()?),
        None => (frames.parse().ok()?, frames.parse::<u64>().ok()? + 1),
    };
    Some(Fault { kind: kind.into(), from, to, number: number.parse().ok()? })
}

/// The number of this kind of fault, if it is to happen now.
fn now(kind: &str) -> Option<u64> {
    let frame = FRAMES.load(Relaxed);
    let fault = FAULT.get()?;
    (fault.kind == kind && (fault.from..fault.to).contains(&frame)).then_some(fault.number)
}

/// The library that stands in for NVML, so that a computer without a GPU has a hot one.
pub fn nvml() -> Option<OsString> {
    env::var_os("OOD_SEG_NVML")
}

/// Before a frame: `hang`, `sleep` for NUMBER ms, `panic`, here or in a `thread`, `leak` of NUMBER bytes.
pub fn frame() {
    FRAMES.fetch_add(1, Relaxed);
    if let Some(ms) = now("sleep") {
        thread::sleep(Duration::from_millis(ms));
    }
    if let Some(bytes) = now("leak") {
        let bytes = usize::try_from(bytes).unwrap_or(0);
        hint::black_box(Box::leak(vec![1_u8; bytes].into_boxed_slice()));
    }
    assert!(now("panic").is_none(), "a panic on purpose");
    if now("thread").is_some() {
        let panics = || panic!("a panic on purpose");
        drop(thread::Builder::new().name("RustDDS on purpose".into()).spawn(panics));
    }
    while now("hang").is_some() {
        thread::sleep(Duration::from_secs(1));
    }
}

/// In a line of the log: a panic in the thread of RustDDS that says it, `dds`.
pub fn line() {
    let thread = thread::current();
    let theirs = thread.name().is_some_and(|name| name.starts_with("RustDDS"));
    assert!(!theirs || now("dds").is_none(), "a panic on purpose");
}

/// Whether this frame is to vanish, without a word: `drop`.
pub fn vanishes() -> bool {
    let vanishes = now("drop").is_some();
    FRAMES.fetch_add(vanishes.into(), Relaxed);
    vanishes
}

/// In the network: `error` and `memory`, as libtorch reports them; `flip` of bit NUMBER of one weight.
pub fn network(model: &Fused) {
    assert!(now("error").is_none(), "CUDA error: an illegal memory access was encountered");
    assert!(now("memory").is_none(), "{OUT_OF_MEMORY}");
    static FLIPPED: AtomicBool = AtomicBool::new(false);
    if let Some(bit) = now("flip")
        && !FLIPPED.swap(true, Relaxed)
        && let Some(weight) = model.weights().remove("blocks.1.fc1.weight")
    {
        let one = weight.view_dtype(Kind::Int).view(-1).get(1234);
        drop(one.shallow_clone().bitwise_xor_(1_i64 << bit));
    }
}

/// The score, or one with a pixel that is not a number: `nan`.
pub fn score(score: Tensor) -> Tensor {
    if now("nan").is_some() {
        drop(score.view(-1).get(0).fill_(f64::NAN));
    }
    score
}

/// The mask on its way out, or the one of the frame before with the new header: `stale`.
pub fn mask(mask: Vec<u8>) -> Vec<u8> {
    static BEFORE: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    let Ok(mut before) = BEFORE.lock() else { return mask };
    let old = mem::replace(&mut *before, mask.clone());
    let stale = now("stale").is_some() && old.len() == mask.len();
    if stale { old } else { mask }
}
