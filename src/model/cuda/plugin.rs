//! The functions of `plugin.h`, opened.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::{env, fmt, mem, ptr};

use tch::Device;

use super::super::device::loader_error;
use crate::{Error, Result};

/// `OOD_SEGMENTATION_CUDA_ABI` of `plugin.h`.
const ABI: u32 = 1;

const FILE: &str = "libood_segmentation_cuda.so";

pub(super) type Free = unsafe extern "C" fn(*mut c_void);
pub(super) type New = unsafe extern "C" fn(c_int, *mut *mut c_void) -> c_int;
type With = unsafe extern "C" fn(*mut c_void) -> c_int;
pub(super) type Pair = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;

/// `struct ood_segmentation_cuda` of `plugin.h`, field by field.
#[repr(C)]
pub(super) struct Table {
    pub(super) abi: u32,
    pub(super) error: unsafe extern "C" fn() -> *const c_char,
    pub(super) stream_new: New,
    pub(super) stream_free: Free,
    pub(super) stream_enter: With,
    pub(super) stream_leave: With,
    pub(super) event_new: New,
    pub(super) event_free: Free,
    pub(super) event_record: Pair,
    pub(super) event_block: Pair,
    pub(super) event_sync: With,
    pub(super) event_elapsed: unsafe extern "C" fn(*mut c_void, *mut c_void, *mut f32) -> c_int,
    pub(super) pinned_new: unsafe extern "C" fn(c_int, usize, *mut *mut c_void) -> c_int,
    pub(super) pinned_free: Free,
    pub(super) copy: unsafe extern "C" fn(*mut c_void, *const c_void, usize, *mut c_void) -> c_int,
    pub(super) graph_begin: unsafe extern "C" fn(c_int, *mut c_void, *mut *mut c_void) -> c_int,
    pub(super) graph_end: With,
    pub(super) graph_replay: With,
    pub(super) graph_free: Free,
    pub(super) cache_empty: unsafe extern "C" fn() -> c_int,
}

/// The open plug-in, for one device; it stays open for the life of the process.
#[derive(Clone, Copy)]
pub struct Plugin {
    pub(super) table: &'static Table,
    pub(super) device: Device,
    /// The device's number.
    pub(super) index: c_int,
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FILE} for {:?}", self.device)
    }
}

/// What failed, as an [`Error::Torch`] says it.
const OPENING: &str = "opening the CUDA plug-in (`make cuda-plugin`)";

impl Plugin {
    /// Opens the plug-in beside the executable, else where the loader finds `libtorch_cuda.so`.
    ///
    /// [`device::select`](crate::model::device::select) has opened that library before.
    ///
    /// # Errors
    /// [`Error::Torch`]: a device that is no GPU; the loader's word; a plug-in for another release of
    /// this program.
    pub fn open(device: Device) -> Result<Self> {
        if !device.is_cuda() {
            let problem = format!("the network runs on {device:?}, not on a GPU");
            return Err(Error::Torch { what: OPENING, problem });
        }
        let beside = env::current_exe().ok().map(|program| program.with_file_name(FILE));
        match beside.filter(|path| path.exists()) {
            Some(path) => Self::open_at(&path, device),
            None => Self::open_at(Path::new(FILE), device),
        }
    }

    /// Opens this file.
    ///
    /// # Errors
    /// As [`Plugin::open`].
    pub(super) fn open_at(path: &Path, device: Device) -> Result<Self> {
        let failed = |problem: String| Error::Torch { what: OPENING, problem };
        let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|error| failed(error.to_string()))?;
        // SAFETY: a C string; the plug-in and the libraries it needs run no code when they are opened but
        // constructors that register things.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            return Err(failed(loader_error()));
        }
        // SAFETY: the library is open, the name is a C string.
        let symbol = unsafe { libc::dlsym(library, c"ood_segmentation_cuda_table".as_ptr()) };
        if symbol.is_null() {
            return Err(failed(loader_error()));
        }
        // SAFETY: plugin.h says that the symbol of this name is this function; it returns a constant.
        let table = unsafe {
            mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *const Table>(symbol)()
        };
        // SAFETY: every table begins with this number, whatever follows it.
        let abi = unsafe { ptr::addr_of!((*table).abi).read() };
        if abi != ABI {
            let path = path.display();
            return Err(failed(format!(
                "{path} has interface {abi}, this program {ABI}: build it again"
            )));
        }
        let index = match device {
            Device::Cuda(index) => c_int::try_from(index).unwrap_or(0),
            _ => 0,
        };
        // SAFETY: of this interface number, so the fields are those of `Table`; never closed.
        Ok(Self { table: unsafe { &*table }, device, index })
    }

    /// Gives back device memory that libtorch keeps and nothing uses.
    pub(super) fn empty_cache(&self) -> Result<()> {
        // SAFETY: takes nothing.
        self.check("emptying CUDA's cache", unsafe { (self.table.cache_empty)() })
    }

    /// The error that a function's result stands for.
    pub(super) fn check(&self, what: &'static str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: a C string of this thread, valid until its next failure.
        let text = unsafe { CStr::from_ptr((self.table.error)()) }.to_string_lossy();
        let text = text.lines().next().unwrap_or_default().to_owned();
        // As libtorch says it, for those who tell this error from others by its words.
        let memory = code == 2 && !text.contains("CUDA out of memory");
        let problem = if memory { format!("CUDA out of memory: {text}") } else { text };
        Err(Error::Torch { what, problem })
    }
}

#[cfg(test)]
mod tests {
    use super::super::stub;
    use super::*;

    #[test]
    fn a_plug_in_that_is_absent_foreign_or_of_another_interface_is_refused_and_says_so() {
        let refused = |path: &Path| Plugin::open_at(path, Device::Cpu).unwrap_err().to_string();
        let absent = refused(Path::new("/nowhere/libood_segmentation_cuda.so"));
        assert!(absent.contains("make cuda-plugin") && absent.contains("No such file"), "{absent}");
        let foreign = refused(Path::new("libc.so.6"));
        assert!(foreign.contains("undefined symbol: ood_segmentation_cuda_table"), "{foreign}");
        let other = refused(&stub::file(&["-DSTUB_ABI=99"]));
        assert!(other.contains("has interface 99, this program 1: build it again"), "{other}");
        let cpu = Plugin::open(Device::Cpu).unwrap_err().to_string();
        assert!(cpu.contains("not on a GPU"), "{cpu}");
    }

    #[test]
    fn the_headers_interface_number_is_ours() {
        let header = include_str!("plugin.h");
        assert!(header.contains(&format!("#define OOD_SEGMENTATION_CUDA_ABI {ABI}\n")));
    }
}
