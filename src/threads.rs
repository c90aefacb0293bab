//! How libtorch's worker threads wait for each other, and what becomes of memory it gives back.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Read by the OpenMP runtime and by glibc when the process starts; each with those that a user may
/// have set to the same end.
///
/// Worker threads that wait sleep. By default they spin, and on a computer that others use too the
/// spinning ones take the cores from those that work: a small network on two busy cores took 0.35 s a
/// window instead of 0.035 s.
///
/// Memory that a layer gives back is kept for the next. By default glibc returns blocks of 32 MiB and
/// more to the kernel, which clears every page anew: about 700 thousand page faults a full-size window.
/// Fragments of frames are copied by vector instructions. By default glibc copies 2 KiB and more by `rep movsb`,
/// which is slow on x86 where the target is not aligned: receiving 1080p took 14 % more CPU time.
const SETTINGS: [(&str, &str, &[&str]); 2] = [
    ("OMP_WAIT_POLICY", "PASSIVE", &["GOMP_SPINCOUNT"]),
    (
        "GLIBC_TUNABLES",
        "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=4294967296:\
         glibc.malloc.hugetlb=1:glibc.cpu.x86_rep_movsb_threshold=1048576",
        &["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"],
    ),
];

/// Starts this program anew with these settings, unless the user chose.
///
/// They are read before `main`, hence the second start, with the same process id. Returns if that
/// fails, with the reason in the log.
pub fn start_for_libtorch() {
    let chosen = |name: &&str| env::var_os(name).is_some();
    let missing =
        SETTINGS.iter().filter(|(name, _, same)| !chosen(name) && !same.iter().any(chosen));
    let missing: Vec<_> = missing.map(|(name, value, _)| (name, value)).collect();
    if missing.is_empty() {
        return;
    }
    let error = match env::current_exe() {
        Ok(program) => Command::new(program).args(env::args_os().skip(1)).envs(missing).exec(),
        Err(error) => error,
    };
    log::warn!("not started anew for libtorch, it will be slower: {error}");
}
