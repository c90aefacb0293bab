//! How libtorch's worker threads wait for each other.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Read by the OpenMP runtime when the process starts.
const WAIT_POLICY: &str = "OMP_WAIT_POLICY";

/// Starts this program anew with worker threads that sleep while they wait, unless the user chose.
///
/// By default they spin, and on a computer that others use too the spinning ones take the cores from
/// those that work: a small network on two busy cores took 0.35 s a window instead of 0.035 s. The
/// runtime reads its setting before `main`, hence the second start, with the same process id.
/// Returns if that fails, with the reason in the log.
pub fn sleep_while_waiting() {
    let chosen = [WAIT_POLICY, "GOMP_SPINCOUNT"].iter().any(|name| env::var_os(name).is_some());
    if chosen {
        return;
    }
    let error = match env::current_exe() {
        Ok(program) => {
            Command::new(program).args(env::args_os().skip(1)).env(WAIT_POLICY, "PASSIVE").exec()
        }
        Err(error) => error,
    };
    log::warn!("{WAIT_POLICY} cannot be set, worker threads will spin: {error}");
}
