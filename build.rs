//! Links libtorch so that `cargo run`, `cargo test` and an installed binary find it without LD_LIBRARY_PATH,
//! and holds the build of rustdds to the patches of this repository.

use std::path::{Path, PathBuf};

/// The PyTorch release that tch 0.24 wraps; torch-sys checks it only for downloads of its own.
const PYTORCH: &str = "2.11.0";

fn main() {
    patches();
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

/// Writes the text of all patches for `src/ros/patches.rs`, which compares it with that in rustdds.
fn patches() {
    println!("cargo:rerun-if-changed=patches");
    println!("cargo:rerun-if-env-changed=RUSTC_WRAPPER");
    let wrapper = std::env::var_os("RUSTC_WRAPPER").map(PathBuf::from).unwrap_or_default();
    assert!(
        wrapper.ends_with("patches/rustc"),
        "rustdds would be built without patches/: RUSTC_WRAPPER is {wrapper:?}, it must be \
         patches/rustc as in .cargo/config.toml. Build inside this repository, and unset RUSTC_WRAPPER"
    );
    if let Err(error) = join_patches() {
        panic!("joining the files of patches/: {error}");
    }
}

fn join_patches() -> std::io::Result<()> {
    let files: std::io::Result<Vec<_>> =
        std::fs::read_dir("patches")?.map(|entry| Ok(entry?.path())).collect();
    let mut files = files?;
    files.retain(|file| file.extension().is_some_and(|ending| ending == "patch"));
    files.sort();
    let text: std::io::Result<String> = files.iter().map(std::fs::read_to_string).collect();
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    std::fs::write(out.join("patches.txt"), text?)
}
