//! Pixel metrics against scikit-learn on random data, when a Python that has it is at hand:
//! `.venv/bin/python`, or the one that `PEER_PYTHON` names.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ood_segmentation::eval::metrics::{exact_bins, pixel_metrics};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

const TOLERANCE: f64 = 1e-9;

#[test]
fn exact_metrics_agree_with_scikit_learn_on_random_data() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = here.join(".venv/bin/python");
    let python = std::env::var_os("PEER_PYTHON").map_or(own, PathBuf::from);
    let has = Command::new(&python).args(["-c", "import sklearn"]).stderr(Stdio::null()).status();
    if !has.is_ok_and(|status| status.success()) {
        eprintln!("SKIP scikit-learn: {} does not import sklearn", python.display());
        return;
    }
    let cases = cases();
    let mut peer = Command::new(&python)
        .arg(here.join("tests/peers/sklearn_metrics.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input: Vec<Value> =
        cases.iter().map(|(scores, labels)| json!({"scores": scores, "labels": labels})).collect();
    let mut stdin = peer.stdin.take().unwrap();
    stdin.write_all(json!(input).to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = peer.wait_with_output().unwrap();
    assert!(output.status.success());
    let expected: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let mut worst = [0f64; 4];
    for ((scores, labels), expected) in cases.iter().zip(&expected) {
        let m = pixel_metrics(&exact_bins(scores, labels));
        let got = [("ap", m.ap), ("auroc", m.auroc), ("fpr95", m.fpr95), ("best_f1", m.best_f1)];
        for (worst, (key, got)) in worst.iter_mut().zip(got) {
            *worst = worst.max((got - expected[key].as_f64().unwrap()).abs());
        }
    }
    println!("{} cases, max error of AP, AUROC, FPR95, F1: {worst:?}", cases.len());
    assert_eq!(cases.len(), expected.len());
    assert!(worst.iter().all(|error| *error <= TOLERANCE), "{worst:?}");
}

/// Sizes from a few pixels up, from untied to heavily tied scores, rare and frequent positives.
fn cases() -> Vec<(Vec<f32>, Vec<u8>)> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut cases = Vec::new();
    for (pixels, levels, share) in [
        (12, 4.0, 0.5),
        (500, 7.0, 0.1),
        (5000, 1e6, 0.01),
        (20_000, 300.0, 0.3),
        (40_000, 1e7, 0.002),
    ] {
        for shift in [0.0, 0.2, 1.0] {
            let mut labels: Vec<u8> = (0..pixels)
                .map(|_| if rng.gen_bool(0.1) { 255 } else { u8::from(rng.gen_bool(share)) })
                .collect();
            labels[..2].copy_from_slice(&[0, 1]);
            let mut score = |label: &u8| {
                let value: f32 = rng.gen_range(-1.0..1.0) + f32::from(label % 2) * shift;
                (value * levels).round() / levels * 20.0
            };
            let scores = labels.iter().map(&mut score).collect();
            cases.push((scores, labels));
        }
    }
    cases
}
