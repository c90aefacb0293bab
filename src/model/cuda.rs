//! What CUDA has and tch does not wrap, through a plug-in of our own: graphs, streams, pinned memory.
//!
//! `plugin.cpp`, built by `make cuda-plugin`, is opened only where `model.cuda_graphs` asks for it on a
//! GPU. **None of this has ever run on a GPU.** So it is off by default, and what it makes is compared
//! with libtorch's plain way before it is used: [`Copies::new`] and [`Graphs::new`] fail where the two
//! differ. The tests run the protocols against `stub.c`, which has the same interface on host memory and
//! is as late as CUDA may be.
#![expect(unsafe_code, reason = "tch has no streams, events, pinned buffers and graphs")]

mod copies;
mod graphs;
mod objects;
mod plugin;

pub use copies::{Copies, Download, Downloaded};
pub use graphs::{Graphs, Maps};
pub use objects::Event;
pub use plugin::Plugin;

/// The stub that the tests open instead of the plug-in.
#[cfg(test)]
pub(crate) mod stub {
    use std::cell::RefCell;
    use std::ffi::CString;
    use std::mem;
    use std::path::PathBuf;
    use std::process::Command;

    use tch::{Device, Tensor};

    use super::{Maps, Plugin};

    /// Does what a graph does: from the input, into the memory of the maps.
    pub(crate) type Replay = Box<dyn Fn(&Tensor, &Maps)>;

    thread_local! {
        /// Input and maps of each graph recorded by this thread.
        static RECORDED: RefCell<Vec<(Tensor, Maps)>> = RefCell::default();
        static REPLAY: RefCell<Option<Replay>> = const { RefCell::new(None) };
    }

    /// Compiles `stub.c` with these flags; the file stays for the life of the process.
    pub(crate) fn file(flags: &[&str]) -> PathBuf {
        let folder = tempfile::tempdir().unwrap().keep();
        let file = folder.join("stub.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/model/cuda/stub.c");
        let mut compile = Command::new("cc");
        compile.args(["-std=c11", "-O1", "-shared", "-fPIC", source, "-o"]).arg(&file).args(flags);
        assert!(compile.status().unwrap().success(), "{compile:?}");
        file
    }

    pub(crate) fn open(flags: &[&str]) -> Plugin {
        Plugin::open_at(&file(flags), Device::Cpu).unwrap()
    }

    /// One whose graphs, recorded by this thread from now on, do this.
    pub(crate) fn replaying(work: impl Fn(&Tensor, &Maps) + 'static) -> Plugin {
        let file = file(&[]);
        let plugin = Plugin::open_at(&file, Device::Cpu).unwrap();
        let path = CString::new(file.to_str().unwrap()).unwrap();
        type Hook = unsafe extern "C" fn(unsafe extern "C" fn(usize));
        // SAFETY: C strings; the library is open already; a function of stub.c with this signature, whose
        // state is this thread's.
        unsafe {
            let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
            let symbol = libc::dlsym(library, c"stub_on_replay".as_ptr());
            mem::transmute::<*mut libc::c_void, Hook>(symbol)(replay);
        }
        RECORDED.with_borrow_mut(Vec::clear);
        REPLAY.set(Some(Box::new(work)));
        plugin
    }

    /// Maps that were recorded as the next graph.
    pub(crate) fn recorded(x: &Tensor, maps: &Maps) {
        let uem = maps.uem.as_ref().map(Tensor::shallow_clone);
        let [logits, descriptor] = [&maps.logits, &maps.descriptor].map(Tensor::shallow_clone);
        let both = (x.shallow_clone(), Maps { logits, uem, descriptor });
        RECORDED.with_borrow_mut(|recorded| recorded.push(both));
    }

    /// Copies new maps into the memory of recorded ones.
    pub(crate) fn overwrite(maps: &Maps, new: &Maps) {
        maps.logits.shallow_clone().copy_(&new.logits);
        maps.descriptor.shallow_clone().copy_(&new.descriptor);
        if let (Some(uem), Some(new)) = (&maps.uem, &new.uem) {
            uem.shallow_clone().copy_(new);
        }
    }

    unsafe extern "C" fn replay(graph: usize) {
        RECORDED.with_borrow(|recorded| {
            let (x, maps) = &recorded[graph];
            REPLAY.with_borrow(|replay| replay.as_ref().unwrap()(x, maps));
        });
    }
}
