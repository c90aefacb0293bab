//! Metrics against the benchmark's own code, scikit-learn and torchmetrics: every quantity with its
//! largest error beside the tolerance. `GOLDEN_EVAL_DIR` names another folder of the same files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::f16;
use ood_segmentation::eval::metrics::{
    Bin, Confusion, CurvePoint, Element, Sweep, exact_bins, pixel_metrics, reference_sigmoid,
    smiyc_frame, smiyc_set, totals,
};
use ood_segmentation::eval::segments::{
    SegmentTotals, SizeLimits, frame_segments, siou_thresholds,
};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

const TOLERANCE: f64 = 1e-9;

/// Largest error per quantity.
#[derive(Default)]
struct Report(BTreeMap<String, (f64, f64)>);

impl Report {
    /// Compares, NaN and infinity equal to themselves.
    fn add(&mut self, quantity: &str, tolerance: f64, got: f64, expected: f64) {
        let same = got == expected || got.is_nan() && expected.is_nan();
        let error = if same { 0.0 } else { (got - expected).abs() };
        let worst = self.0.entry(quantity.into()).or_insert((0.0, tolerance));
        worst.0 = if error.is_nan() { f64::INFINITY } else { worst.0.max(error) };
    }

    fn check(&self) {
        assert!(!self.0.is_empty(), "nothing was compared");
        for (quantity, (error, tolerance)) in &self.0 {
            println!("{quantity:<44} max error {error:.1e}  tolerance {tolerance:.0e}");
        }
        let bad: Vec<_> = self.0.iter().filter(|(_, (error, t))| error > t).collect();
        assert!(bad.is_empty(), "{bad:?}");
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

fn eval_dir() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden_eval");
    std::env::var_os("GOLDEN_EVAL_DIR").map_or(own, PathBuf::from)
}

/// A tensor's elements, converted by `from` from little-endian bytes.
fn values<T, const N: usize>(t: &SafeTensors<'_>, key: &str, from: fn([u8; N]) -> T) -> Vec<T> {
    let view = t.tensor(key).unwrap();
    view.data().chunks_exact(N).map(|bytes| from(bytes.try_into().unwrap())).collect()
}

struct Frame<T> {
    scores: Vec<T>,
    labels: Vec<u8>,
    width: usize,
}

fn frames<T, const N: usize>(
    t: &SafeTensors<'_>,
    set: &str,
    count: u64,
    from: fn([u8; N]) -> T,
) -> Vec<Frame<T>> {
    let frame = |i| Frame {
        scores: values(t, &format!("{set}.{i}.score"), from),
        labels: t.tensor(&format!("{set}.{i}.label")).unwrap().data().to_vec(),
        width: t.tensor(&format!("{set}.{i}.label")).unwrap().shape()[1],
    };
    (0..count).map(frame).collect()
}

#[test]
fn metrics_agree_with_the_benchmark_and_scikit_learn() {
    let bytes = std::fs::read(eval_dir().join("golden_eval.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let text = std::fs::read_to_string(eval_dir().join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let mut report = Report::default();
    for (set, of_set) in expected.as_object().unwrap() {
        let Some(count) = of_set.get("n_frames") else { continue };
        let count = count.as_u64().unwrap();
        match tensors.tensor(&format!("{set}.0.score")).unwrap().dtype() {
            Dtype::F16 => {
                let frames = frames(&tensors, set, count, f16::from_le_bytes);
                check_set(&frames, of_set, &mut report);
            }
            _ => check_set(&frames(&tensors, set, count, f32::from_le_bytes), of_set, &mut report),
        }
    }
    check_curve(&tensors, &mut report);
    check_unit(&tensors, "unit_float16", f16::from_le_bytes, &mut report);
    check_unit(&tensors, "unit_float32", f32::from_le_bytes, &mut report);
    check_unit(&tensors, "unit_float64", f64::from_le_bytes, &mut report);
    for (t, expected) in siou_thresholds().into_iter().zip(numbers(&expected["sIoU_thresholds"])) {
        report.add("sIoU thresholds", 0.0, t, expected);
    }
    report.check();
}

fn check_set<T: Element>(frames: &[Frame<T>], expected: &Value, report: &mut Report) {
    let pixel = &expected["PixBinaryClass"];
    let bins: Vec<Vec<Bin>> =
        frames.iter().map(|f| smiyc_frame(&f.scores, &f.labels).unwrap()).collect();
    for (bins, of_frame) in bins.iter().zip(pixel["frames"].as_array().unwrap()) {
        let (pos, neg) = totals(bins);
        let got = [("n_bins", bins.len() as u64), ("num_pos", pos), ("num_neg", neg)];
        for (key, got) in got {
            report.add(&format!("smiyc {key}"), 0.0, got as f64, number(&of_frame[key]));
        }
    }
    let set = smiyc_set(bins.iter().map(Vec::as_slice));
    let metrics = pixel_metrics(&set);
    let points = official_curve(&set);
    let recall_50 = points.iter().find(|point| point.recall >= 0.5);
    for (key, got) in [
        ("area_PRC", metrics.ap),
        ("area_ROC", metrics.auroc),
        ("tpr95_fpr", metrics.fpr95),
        ("tpr95_threshold", metrics.tpr95_threshold),
        ("recall50_threshold", recall_50.map_or(f64::NAN, |point| point.threshold)),
        ("best_f1", metrics.best_f1),
        ("best_f1_threshold", metrics.best_f1_threshold),
        ("n_curve_points", points.len() as f64),
    ] {
        report.add(&format!("smiyc {key}"), TOLERANCE, got, number(&pixel[key]));
    }
    for (track, limits) in [("Anomaly", SizeLimits::ANOMALY), ("Obstacle", SizeLimits::OBSTACLE)] {
        for (kind, threshold) in [("best_f1", metrics.best_f1_threshold), ("fixed", 0.5)] {
            let expected = &expected[&format!("SegEval-{track}Track.{kind}")];
            check_segments(frames, threshold, limits, expected, report);
        }
    }
    check_exact(frames, &expected["exact"], report);
}

fn check_segments<T: Element>(
    frames: &[Frame<T>],
    threshold: f64,
    limits: SizeLimits,
    expected: &Value,
    report: &mut Report,
) {
    let mut set = SegmentTotals::default();
    for (frame, of_frame) in frames.iter().zip(expected["frames"].as_array().unwrap()) {
        let got = frame_segments(&frame.scores, &frame.labels, frame.width, threshold, limits);
        let sizes = |sizes: &[u64]| sizes.iter().map(|s| *s as f64).collect::<Vec<_>>();
        for (key, got) in [
            ("sIoU_gt", got.siou_gt.clone()),
            ("sIoU_pred", got.siou_pred.clone()),
            ("prec_pred", got.ppv.clone()),
            ("size_gt", sizes(&got.size_gt)),
            ("size_pred", sizes(&got.size_pred)),
        ] {
            let expected = numbers(&of_frame[key]);
            let name = format!("segments {key} per component");
            report.add("segments components", 0.0, got.len() as f64, expected.len() as f64);
            for (got, expected) in got.into_iter().zip(expected) {
                report.add(&name, TOLERANCE, got, expected);
            }
        }
        set.add(got);
    }
    let (metrics, aggregate) = (set.metrics(), &expected["aggregate"]);
    if aggregate.get("raises").is_some() {
        report.add("segments NaN where the official code raises", 0.0, metrics.mean_f1, f64::NAN);
        return;
    }
    let (tp, fn_, fp) = set.counts(0.5);
    for (key, got) in [
        ("sIoU_gt", metrics.siou_gt),
        ("sIoU_pred", metrics.siou_pred),
        ("prec_pred", metrics.ppv),
        ("f1_mean", metrics.mean_f1),
        ("f1_25", set.f1(0.25)),
        ("f1_75", set.f1(0.75)),
        ("tp_50", tp as f64),
        ("fn_50", fn_ as f64),
        ("fp_50", fp as f64),
    ] {
        report.add(&format!("segments {key}"), TOLERANCE, got, number(&aggregate[key]));
    }
}

fn check_exact<T: Element>(frames: &[Frame<T>], expected: &Value, report: &mut Report) {
    let mut scores: Vec<f32> = Vec::new();
    let (mut sigmoid, mut labels) = (Vec::new(), Vec::new());
    for frame in frames {
        let mut of_frame: Vec<f32> =
            frame.scores.iter().map(|score| (*score).into() as f32).collect();
        scores.extend(&of_frame);
        reference_sigmoid(&mut of_frame, &frame.labels);
        sigmoid.extend(of_frame);
        labels.extend(&frame.labels);
    }
    let exact = pixel_metrics(&exact_bins(&scores, &labels));
    let sigmoid = pixel_metrics(&exact_bins(&sigmoid, &labels));
    let fishyscapes = &expected["fishyscapes"];
    for (name, got, expected) in [
        ("AP, scikit-learn", exact.ap, &expected["ap_sklearn"]),
        ("AUROC, scikit-learn", exact.auroc, &expected["auroc_sklearn"]),
        ("FPR95", exact.fpr95, &expected["fpr95_first_tpr_ge_095"]),
        ("FPR95 threshold", exact.tpr95_threshold, &expected["fpr95_threshold"]),
        ("AP, Fishyscapes", exact.ap, &fishyscapes["AP"]),
        ("AUROC, Fishyscapes", exact.auroc, &fishyscapes["auroc"]),
        ("FPR95, Fishyscapes", exact.fpr95, &fishyscapes["FPR@95%TPR"]),
        ("AP after sigmoid", sigmoid.ap, &expected["ap_after_torchmetrics_sigmoid"]),
        ("FPR95 after sigmoid", sigmoid.fpr95, &expected["fpr95_after_torchmetrics_sigmoid"]),
    ] {
        report.add(&format!("exact {name}"), TOLERANCE, got, number(expected));
    }
}

/// The curve as the official code lists it: from (0, 0), and its first point once more.
fn official_curve(set: &[Bin]) -> Vec<CurvePoint> {
    let (p, n) = totals(set);
    let mut sweep = Sweep::new(p, n);
    let mut points: Vec<CurvePoint> = set.iter().map(|bin| sweep.push(*bin)).collect();
    let first = points[0];
    if points.get(1).is_none_or(|second| second.threshold != first.threshold) {
        points.insert(0, first);
    }
    if set[0].pos + set[0].neg > 0 {
        let threshold = first.threshold + 1.0;
        points.insert(0, CurvePoint { threshold, recall: 0.0, precision: 1.0, fpr: 0.0 });
    }
    points
}

fn check_curve(tensors: &SafeTensors<'_>, report: &mut Report) {
    let frames = frames(tensors, "at_sigmoid_f16", 4, f16::from_le_bytes);
    let bins: Vec<_> = frames.iter().map(|f| smiyc_frame(&f.scores, &f.labels).unwrap()).collect();
    let set = smiyc_set(bins.iter().map(Vec::as_slice));
    let points = official_curve(&set);
    let columns: [(&str, fn(&CurvePoint) -> f64); 4] = [
        ("curve_recall", |point| point.recall),
        ("curve_precision", |point| point.precision),
        ("curve_fpr", |point| point.fpr),
        ("thresholds", |point| point.threshold),
    ];
    for (key, column) in columns {
        let expected = values(tensors, &format!("at_sigmoid_f16.{key}"), f64::from_le_bytes);
        assert_eq!(points.len(), expected.len(), "{key}");
        for (point, expected) in points.iter().zip(expected) {
            report.add(&format!("smiyc whole curve, {key}"), TOLERANCE, column(point), expected);
        }
    }
}

fn check_unit<T: Element, const N: usize>(
    tensors: &SafeTensors<'_>,
    case: &str,
    from: fn([u8; N]) -> T,
    report: &mut Report,
) {
    let scores = values(tensors, &format!("{case}.prob"), from);
    let labels = tensors.tensor(&format!("{case}.gt")).unwrap().data();
    let bins = smiyc_frame(&scores, labels).unwrap();
    let edges = values(tensors, &format!("{case}.bin_edges_desc"), f64::from_le_bytes);
    let tp = values(tensors, &format!("{case}.tp_rel"), i64::from_le_bytes);
    let fp = values(tensors, &format!("{case}.fp_rel"), i64::from_le_bytes);
    assert_eq!((bins.len(), bins.len() + 1), (tp.len(), edges.len()));
    for (i, bin) in bins.iter().enumerate() {
        report.add(&format!("{case} edges"), 0.0, bin.threshold, edges[i + 1]);
        report.add(&format!("{case} counts"), 0.0, bin.pos as f64, tp[i] as f64);
        report.add(&format!("{case} counts"), 0.0, bin.neg as f64, fp[i] as f64);
    }
}

#[test]
fn metrics_agree_with_torchmetrics_and_its_hidden_sigmoid() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden/model");
    let dir = std::env::var_os("GOLDEN_DIR").map_or(shared, PathBuf::from);
    let path = dir.join("metrics.safetensors");
    let Ok(bytes) = std::fs::read(&path) else {
        eprintln!("SKIP torchmetrics: no {}", path.display());
        return;
    };
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let config: Value =
        serde_json::from_str(&metadata.metadata().as_ref().unwrap()["config"]).unwrap();
    let mut report = Report::default();
    for case in ["mild", "saturating", "tied", "inside01"] {
        let scores = values(&tensors, &format!("{case}.score"), f32::from_le_bytes);
        let labels = labels(&tensors, &format!("{case}.label"));
        let mut sigmoid = scores.clone();
        for (scores, labels) in sigmoid.chunks_mut(60 * 80).zip(labels.chunks(60 * 80)) {
            reference_sigmoid(scores, labels);
        }
        for (family, scores, tolerance) in
            [("exact_no_sigmoid_f64", scores, TOLERANCE), ("reference", sigmoid, 1e-6)]
        {
            let got = pixel_metrics(&exact_bins(&scores, &labels));
            let expected = &config[case][family];
            for (key, got) in [("AUROC", got.auroc), ("AUPR", got.ap), ("FPR95", got.fpr95)] {
                report.add(&format!("{family} {key}"), tolerance, got, number(&expected[key]));
            }
        }
    }
    let mut confusion = Confusion::new(7);
    for i in 0..2 {
        let logits = values(&tensors, &format!("miou.logits.{i}"), f32::from_le_bytes);
        let best =
            |at: usize| (0..7).max_by(|a, b| logits[a * 600 + at].total_cmp(&logits[b * 600 + at]));
        let predicted: Vec<u8> = (0..600).map(|at| best(at).unwrap() as u8).collect();
        confusion.add(&predicted, &labels(&tensors, &format!("miou.label.{i}"))).unwrap();
    }
    let matrix: Vec<f64> =
        config["miou_confmat"].as_array().unwrap().iter().flat_map(numbers).collect();
    for (got, expected) in confusion.counts.iter().zip(matrix) {
        report.add("mIoU confusion matrix", 0.0, *got as f64, expected);
    }
    report.add("mIoU (float32 there)", 1e-7, confusion.miou(), number(&config["miou"]));
    report.check();
}

fn labels(tensors: &SafeTensors<'_>, key: &str) -> Vec<u8> {
    values(tensors, key, i64::from_le_bytes).into_iter().map(|l| u8::try_from(l).unwrap()).collect()
}
