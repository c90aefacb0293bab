//! Where the network runs: one binary serves CPU and CUDA, the CUDA library is opened at start when it is there.
#![expect(
    unsafe_code,
    reason = "dlopen is the only way to add libtorch_cuda to a CPU-linked binary"
)]

use std::ffi::CStr;
use std::sync::OnceLock;

use tch::{Cuda, Device};

use crate::{Error, Result};

/// The outcome of opening `libtorch_cuda.so`, once per process.
///
/// Must come before the first question to libtorch about CUDA: an early `Cuda::is_available()`
/// leaves the CUDA hooks absent for the life of the process.
fn cuda_library() -> &'static std::result::Result<(), String> {
    static OPENED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    OPENED.get_or_init(|| {
        // SAFETY: the name is a C string constant; libtorch's constructors only register kernels.
        let handle = unsafe {
            libc::dlopen(c"libtorch_cuda.so".as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL)
        };
        if !handle.is_null() {
            return Ok(());
        }
        Err(loader_error())
    })
}

/// Why the loader's last call in this thread failed.
pub(super) fn loader_error() -> String {
    // SAFETY: dlerror returns null or a C string valid until the next dl call of this thread.
    let text = unsafe { libc::dlerror().as_ref().map(|text| CStr::from_ptr(text)) };
    text.map_or("no reason given".into(), |text| text.to_string_lossy().into_owned())
}

/// The device named `auto`, `cpu`, `cuda` or `cuda:N`, and a sentence for the log that says why.
///
/// `auto` takes the first GPU, else the CPU.
///
/// # Errors
/// A GPU asked for by name that libtorch cannot reach, or another name.
pub fn select(name: &str) -> Result<(Device, String)> {
    let opened = cuda_library();
    let gpus = if opened.is_ok() { Cuda::device_count() } else { 0 };
    let why_not = match opened {
        Ok(()) => format!("libtorch_cuda.so is loaded and sees {gpus} GPUs"),
        Err(reason) => format!("libtorch_cuda.so is not loaded: {reason}"),
    };
    let index = match name {
        "cpu" => return Ok((Device::Cpu, "running on the CPU, as asked".into())),
        "auto" if gpus == 0 => {
            return Ok((Device::Cpu, format!("running on the CPU: {why_not}")));
        }
        "auto" | "cuda" => 0,
        _ => name.strip_prefix("cuda:").and_then(|n| n.parse().ok()).ok_or_else(|| {
            Error::setting("model.device", name, "auto, cpu, cuda or cuda:N with a number N")
        })?,
    };
    if i64::try_from(index).is_ok_and(|n| n < gpus) {
        return Ok((Device::Cuda(index), format!("running on cuda:{index}")));
    }
    Err(Error::setting("model.device", name, format!("a GPU that libtorch sees; {why_not}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_always_there_and_a_missing_gpu_is_named() {
        assert_eq!(select("cpu").unwrap().0, Device::Cpu);
        let error = select("cuda:99").unwrap_err().to_string();
        assert!(error.contains("cuda:99") && error.contains("libtorch_cuda.so"), "{error}");
        assert!(select("tpu").is_err());
    }
}
