//! The full-size backbone against what `tests/parity/parity.py` computed with transformers (`make parity`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking and says what it measured or skips"
)]

use std::path::Path;

use ood_segmentation::checkpoint;
use ood_segmentation::config::ClassTable;
use ood_segmentation::model::{Model, ModelConfig};
use tch::{Device, Kind, Tensor};

/// Largest difference over largest magnitude.
const RELATIVE: f64 = 2e-4;

fn relative(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.size(), want.size());
    let largest = |x: Tensor| x.abs().max().double_value(&[]);
    largest(got.to_kind(Kind::Double) - want.to_kind(Kind::Double)) / largest(want.shallow_clone())
}

#[test]
fn the_full_size_backbone_agrees_with_transformers() {
    let Some(folder) = std::env::var_os("PARITY_DIR") else {
        eprintln!("SKIP: PARITY_DIR is not set; `make parity` makes the data and runs this");
        return;
    };
    let _no_grad = tch::no_grad_guard();
    let mut checked = 0;
    for arch in ["vitb14_reg", "vits14"] {
        let folder = Path::new(&folder).join(arch);
        let config = ModelConfig::named(arch, "d", ClassTable::cityscapes()).unwrap();
        let mut model = Model::new(&config, Device::Cpu).unwrap();
        checkpoint::load_backbone(&folder.join("ours.safetensors"), &mut model).unwrap();
        let io = Tensor::read_safetensors(folder.join("io.safetensors")).unwrap();
        let io: std::collections::HashMap<_, _> = io.into_iter().collect();
        let features = model.backbone.forward(&io["x"]);
        let taps = config.backbone.taps.iter().map(|i| format!("tap.{i}")).zip(&features.taps);
        for (name, got) in taps.chain([("tokens".to_owned(), &features.tokens)]) {
            let error = relative(got, &io[&name]);
            println!("{arch:12} {name:8} {error:9.2e} of {RELATIVE:.0e}");
            assert!(error <= RELATIVE, "{arch}: {name}: {error:.3e}");
            checked += 1;
        }
    }
    assert_eq!(checked, 10);
}
