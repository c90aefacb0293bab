//! Links libtorch so that `cargo run`, `cargo test` and an installed binary find it without LD_LIBRARY_PATH.

use std::path::Path;

/// The PyTorch release that tch 0.24 wraps; torch-sys checks it only for downloads of its own.
const PYTORCH: &str = "2.11.0";

fn main() {
    println!("cargo:rerun-if-env-changed=OOD_SEGMENTATION_RELEASE");
    let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") else {
        panic!("torch-sys gave no library path: it must stay a direct dependency in Cargo.toml");
    };
    let version = Path::new(&lib).join("../version.py");
    if let Ok(text) = std::fs::read_to_string(&version) {
        assert!(
            text.contains(&format!("__version__ = '{PYTORCH}")),
            "{} is not PyTorch {PYTORCH}, the release that tch 0.24 needs: run `make setup`, or \
             point LIBTORCH at one that is. It says:\n{text}",
            version.display()
        );
    }
    // Installed layout: <bin>/libtorch or <prefix>/lib/libtorch, a folder or a link to .../torch/lib.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/libtorch:$ORIGIN/../lib/libtorch");
    // The developer's own libtorch; release artefacts leave the absolute path out.
    if std::env::var_os("OOD_SEGMENTATION_RELEASE").is_none() {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
