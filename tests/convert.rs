//! Weights in and out: published files to ours, and everything that must be refused.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a test panics and reports"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use ood_segmentation::checkpoint::{self, Converted, Options};
use ood_segmentation::config::ClassTable;
use ood_segmentation::model::{Model, ModelConfig, Precision};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use tch::{Device, Kind, Tensor};
use zip::write::FileOptions;

type Tensors = BTreeMap<String, Tensor>;

/// Only training needs these.
const DROPPED: [&str; 6] =
    ["queue", "queue_ptr", "eye_matrix", "iteration_counter", "mask_token", "num_batches_tracked"];

fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if !path.exists() {
        eprintln!("SKIP: {} is not there", path.display());
    }
    path.exists().then_some(path)
}

fn tiny_checkpoint() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/tiny_ood_gg.ckpt")
}

/// What the tiny checkpoints' shapes do not tell: head width 16, seven classes without names.
fn tiny_options(folder: &Path) -> Options {
    let classes = folder.join("classes.yaml");
    let rows = &ClassTable::cityscapes().0[..7];
    fs::write(&classes, serde_yaml::to_string(rows).unwrap()).unwrap();
    Options {
        heads: Some(3),
        classes: Some(classes),
        taps: Some([0, 1, 2, 3]),
        ..Options::default()
    }
}

fn convert(source: &Path, out: &Path, options: &Options) -> Result<Converted, String> {
    checkpoint::convert(&[source.into()], out, options, &|_, _| {}).map_err(|error| error.chain())
}

fn load(path: &Path) -> Result<Model, String> {
    checkpoint::load(path, Device::Cpu, Precision::F32).map_err(|error| error.chain())
}

fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; 4 * tensor.numel()];
    tensor.contiguous().copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

fn safetensors(tensors: &[(String, Dtype, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

fn listed(tensors: &Tensors) -> Vec<(String, Dtype, Vec<usize>, Vec<u8>)> {
    let shape = |tensor: &Tensor| tensor.size().iter().map(|&n| n as usize).collect();
    tensors.iter().map(|(k, t)| (k.clone(), Dtype::F32, shape(t), bytes_of(t))).collect()
}

/// A zip file as `torch.save` lays it out.
fn torch_zip(pickle: &[u8], storages: &[Vec<u8>]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = FileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut add = |name: String, bytes: &[u8]| {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    };
    add("archive/data.pkl".into(), pickle);
    add("archive/byteorder".into(), b"little");
    for (key, bytes) in storages.iter().enumerate() {
        add(format!("archive/data/{key}"), bytes);
    }
    zip.finish().unwrap().into_inner()
}

fn text(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap().to_le_bytes();
    [b"X".as_slice(), &length, text.as_bytes()].concat()
}

fn int(value: i64) -> Vec<u8> {
    [b"J".as_slice(), &i32::try_from(value).unwrap().to_le_bytes()].concat()
}

fn tuple(items: &[i64]) -> Vec<u8> {
    [b"(".to_vec(), items.iter().flat_map(|&n| int(n)).collect(), b"t".to_vec()].concat()
}

/// The pickle of one tensor on storage `key`.
fn tensor(key: usize, length: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let mut out = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    out.extend([text("storage"), b"ctorch\nFloatStorage\n".to_vec()].concat());
    out.extend([text(&key.to_string()), text("cpu"), int(length), b"tQ".to_vec()].concat());
    out.extend([int(offset), tuple(shape), tuple(strides)].concat());
    out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    out
}

/// A state dict as `torch.save` writes it; every matrix is stored transposed, as a strided view.
fn state_dict(tensors: &Tensors, dict: &[u8]) -> Vec<u8> {
    let mut pickle = [b"\x80\x02".as_slice(), dict, b"("].concat();
    let mut storages = Vec::new();
    for (name, value) in tensors {
        let (size, numel) = (value.size(), i64::try_from(value.numel()).unwrap());
        pickle.extend(text(name));
        if let [rows, columns] = size[..] {
            pickle.extend(tensor(storages.len(), numel, 0, &size, &[1, rows]));
            assert!(columns > 1 || rows > 1);
            storages.push(bytes_of(&value.tr()));
        } else {
            pickle.extend(tensor(storages.len(), numel, 0, &size, &value.contiguous().stride()));
            storages.push(bytes_of(value));
        }
    }
    pickle.extend(b"u.");
    torch_zip(&pickle, &storages)
}

/// Meta's names: the backbone's without prefix, and the token that is left out.
fn meta(arch: &str) -> (Tensors, Tensors) {
    let ours = checkpoint::init(arch, "d", 5).unwrap().variables();
    let prefix = "segmentor.backbone.dinov2.";
    let backbone: Tensors = ours.into_iter().filter(|(name, _)| name.starts_with(prefix)).collect();
    let mut theirs: Tensors =
        backbone.iter().map(|(k, t)| (k[prefix.len()..].into(), t.shallow_clone())).collect();
    theirs.insert("mask_token".into(), Tensor::zeros([1, 96], (Kind::Float, Device::Cpu)));
    (backbone, theirs)
}

fn assert_same(path: &Path, expected: &Tensors) {
    let bytes = fs::read(path).unwrap();
    let written = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = written.names();
    names.sort();
    assert_eq!(names, expected.keys().collect::<Vec<_>>());
    for (name, tensor) in expected {
        assert!(written.tensor(name).unwrap().data() == bytes_of(tensor), "{name} differs");
    }
}

#[test]
fn the_tiny_checkpoints_convert_to_exactly_the_tensors_of_their_twins() {
    for (stem, prefix, variant) in [("tiny_ood_gg", "", "g-g"), ("tiny_seg_gmm", "segmentor.", "g")]
    {
        let Some(source) = shared(&format!("golden/model/{stem}.ckpt")) else { return };
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a.safetensors");
        let done = convert(&source, &out, &tiny_options(folder.path())).unwrap();
        assert_eq!(done.variant, variant);
        let twin =
            Tensor::read_safetensors(source.with_file_name(format!("{stem}_tensors.safetensors")));
        let twin: Tensors = twin
            .unwrap()
            .into_iter()
            .filter(|(name, _)| !DROPPED.contains(&name.rsplit('.').next().unwrap()))
            .map(|(name, tensor)| (format!("{prefix}{name}"), tensor))
            .collect();
        assert_same(&out, &twin);
        assert_eq!(done.written, twin.len());

        let model = load(&out).unwrap();
        assert_eq!(model.config().window, [56, 70], "the hyper-parameters' window");
        let _no_grad = tch::no_grad_guard();
        let x = Tensor::randn([1, 3, 56, 84], (Kind::Float, Device::Cpu));
        let got = model.forward(&x);
        let mut reference = Model::new(model.config(), Device::Cpu).unwrap();
        for (name, mut variable) in reference.variables() {
            variable.copy_(&twin[&name]);
        }
        reference.weights_changed();
        let expected = reference.forward(&x);
        assert!(got.logits.equal(&expected.logits) && got.logits.std(true).double_value(&[]) > 0.1);
        assert_eq!(got.uem.is_some(), variant == "g-g");
        assert!(got.uem.zip(expected.uem).is_none_or(|(got, expected)| got.equal(&expected)));
    }
}

#[test]
fn of_two_files_the_uem_gives_every_tensor_and_the_segmentor_the_taps() {
    let Some(segmentor) = shared("golden/model/tiny_seg_gmm.ckpt") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let options = tiny_options(folder.path());
    convert(&tiny_checkpoint(), &path("one.safetensors"), &options).unwrap();
    let options = Options { taps: None, ..options };
    let alone = convert(&tiny_checkpoint(), &path("none.safetensors"), &options).unwrap_err();
    assert!(alone.contains("--taps") && !path("none.safetensors").exists(), "{alone}");
    let both = [segmentor, tiny_checkpoint()];
    let done = checkpoint::convert(&both, &path("two.safetensors"), &options, &|_, _| {}).unwrap();
    assert!(done.taps_from.contains("tiny_seg_gmm.ckpt"), "{}", done.taps_from);
    let read = |name: &str| fs::read(path(name)).unwrap();
    assert!(read("one.safetensors") == read("two.safetensors"));
    let config = load(&path("two.safetensors")).unwrap().config().clone();
    assert_eq!(config.source.from.len(), 2);
    assert_eq!((config.backbone.taps, config.uem.unwrap().hidden), ([0, 1, 2, 3], 40));
    let twice = [tiny_checkpoint(), tiny_checkpoint()];
    let twice = checkpoint::convert(&twice, &path("x.safetensors"), &options, &|_, _| {});
    assert!(twice.unwrap_err().chain().contains("Uem and Uem"));
}

#[test]
fn metas_and_hugging_faces_files_become_the_same_backbone_and_fill_a_network() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (ours, theirs) = meta("tiny");
    fs::write(path("ordered.pth"), state_dict(&theirs, b"ccollections\nOrderedDict\n)R")).unwrap();
    fs::write(path("plain.pth"), state_dict(&theirs, b"}")).unwrap();
    let mut hf = Tensors::new();
    for (name, tensor) in &theirs {
        let table = [
            ("blocks.", "encoder.layer."),
            ("attn.proj", "attention.output.dense"),
            ("ls1.gamma", "layer_scale1.lambda1"),
            ("ls2.gamma", "layer_scale2.lambda1"),
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("pos_embed", "embeddings.position_embeddings"),
            ("cls_token", "embeddings.cls_token"),
            ("register_tokens", "embeddings.register_tokens"),
            ("mask_token", "embeddings.mask_token"),
        ];
        let mut key = name.replace("norm.", "layernorm.");
        for (from, to) in table {
            key = key.replace(from, to);
        }
        let parts = ["query", "key", "value"].iter().enumerate();
        for (at, part) in parts.filter(|_| key.contains("qkv")) {
            let part = key.replace("attn.qkv", &format!("attention.attention.{part}"));
            hf.insert(format!("dinov2_with_registers.{part}"), tensor.chunk(3, 0)[at].copy());
        }
        if !key.contains("qkv") {
            hf.insert(format!("dinov2_with_registers.{key}"), tensor.shallow_clone());
        }
    }
    fs::write(path("hf.safetensors"), safetensors(&listed(&hf))).unwrap();
    let options = Options { heads: Some(3), ..Options::default() };
    let itself = convert(&path("hf.safetensors"), &path("hf.safetensors"), &options);
    assert!(itself.unwrap_err().contains("overwritten"));
    let config = ModelConfig::named("vits14", "d", ClassTable::cityscapes()).unwrap();
    let mut other = Model::new(&config, Device::Cpu).unwrap();
    for source in ["ordered.pth", "plain.pth", "hf.safetensors"] {
        let out = path("out.safetensors");
        let done = convert(&path(source), &out, &options).unwrap();
        assert_eq!((done.architecture.as_str(), done.variant.as_str()), ("tiny", "backbone"));
        assert_eq!((done.taps, done.dropped), ([0, 1, 2, 3], 1));
        assert_same(&out, &ours);
        assert!(load(&out).unwrap_err().contains("backbone alone"));
        let mut model = checkpoint::init("tiny", "g", 9).unwrap();
        let from = checkpoint::load_backbone(&out, &mut model).unwrap();
        assert_eq!(from.name, "out.safetensors");
        assert!(
            model.variables()["segmentor.backbone.dinov2.cls_token"]
                .equal(&ours["segmentor.backbone.dinov2.cls_token"])
        );
        let error = checkpoint::load_backbone(&out, &mut other).unwrap_err().chain();
        assert!(error.contains("tiny") && error.contains("vits14"), "{error}");
    }
}

#[test]
fn a_pickle_that_names_anything_else_is_refused_by_that_name_and_runs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (source, canary) = (folder.path().join("evil.ckpt"), folder.path().join("canary"));
    let command = text(&format!("touch {}", canary.display()));
    for (module, name) in [("os", "system"), ("builtins", "eval"), ("torch", "HalfStorage")] {
        let call = format!("\u{0}c{module}\n{name}\n");
        let pickle = [b"\x80\x02".as_slice(), &call.as_bytes()[1..], &command, b"\x85R."].concat();
        fs::write(&source, torch_zip(&pickle, &[])).unwrap();
        let error = convert(&source, &folder.path().join("o.safetensors"), &Options::default());
        let error = error.unwrap_err();
        assert!(
            error.contains(&format!("{module}.{name}")) && error.contains("evil.ckpt"),
            "{error}"
        );
    }
    assert!(!canary.exists() && fs::read_dir(folder.path()).unwrap().count() == 1);
}

#[test]
fn tensors_that_lie_about_their_storage_are_refused_before_memory_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("a.pth");
    let huge = i64::from(i32::MAX);
    let lies = [
        (tensor(0, 4, 0, &[5], &[1]), "storage of 4 elements"),
        (tensor(0, 4, 3, &[2], &[1]), "storage of 4 elements"),
        (tensor(0, 4, 0, &[huge, huge, huge], &[0, 0, 0]), "storage of 4 elements"),
        (tensor(0, 4, 0, &[2, 2], &[1]), "storage of 4 elements"),
        (tensor(0, 4, -1, &[2], &[1]), "out of range"),
        (tensor(0, 4, 0, &[-2], &[1]), "-2"),
        (tensor(0, huge, 0, &[1, 1, huge], &[1, 1, 1]), "bytes, it has"),
    ];
    for (lie, complaint) in lies {
        let pickle = [b"\x80\x02}".as_slice(), &text("cls_token"), &lie, b"s."].concat();
        fs::write(&source, torch_zip(&pickle, &[vec![0; 16]])).unwrap();
        let error = convert(&source, &folder.path().join("o.safetensors"), &Options::default());
        let error = error.unwrap_err();
        assert!(error.contains(complaint), "{error}, expected {complaint}");
    }
}

#[test]
fn hostile_and_damaged_pickles_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("a.ckpt"), folder.path().join("o.safetensors"));
    let mut pickles: Vec<Vec<u8>> = [
        b"".as_slice(),
        b".",
        b"t.",
        b"u.",
        b"s.",
        b"R.",
        b"b.",
        b"Q.",
        b"h\x07.",
        b"(e.",
        b"\x87.",
        b"X\xff\xff\xff\xff.",
        b"cos",
        b"(((((",
        b"]2.",
        b"\x80\x05.",
        b"}q\x00h\x00h\x00s.",
        b"K\x01.",
        b"}(K\x01u.",
        b"\x8a\xff.",
        b"))R.",
        b"X\x01\x00\x00\x00\xff.",
        b"](K\x01.",
        b"}K\x01K\x02s.",
    ]
    .map(<[u8]>::to_vec)
    .into();
    pickles.push([vec![b'('; 1 << 21], b".".to_vec()].concat());
    pickles.push([vec![b']'; 1 << 21], b".".to_vec()].concat());
    for pickle in pickles {
        fs::write(&source, torch_zip(&pickle, &[])).unwrap();
        let error = convert(&source, &out, &Options::default()).unwrap_err();
        assert!(error.contains("a.ckpt"), "{error}");
    }
    // A real file cut, or changed by a bit, at many places: an error or the same tensors.
    let whole = fs::read(tiny_checkpoint()).unwrap();
    let options = tiny_options(folder.path());
    for at in (0..whole.len()).step_by(whole.len() / 31) {
        fs::write(&source, &whole[..at]).unwrap();
        assert!(convert(&source, &out, &options).unwrap_err().contains("a.ckpt"));
    }
    let good = fs::read({
        convert(&tiny_checkpoint(), &out, &options).unwrap();
        &out
    })
    .unwrap();
    for at in (100..whole.len()).step_by(whole.len() / 31) {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        fs::write(&source, flipped).unwrap();
        if convert(&source, &out, &options).is_ok() {
            assert!(fs::read(&out).unwrap() == good, "a flip at {at} changed the tensors unseen");
        }
    }
    fs::write(&source, b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.").unwrap();
    assert!(convert(&source, &out, &options).unwrap_err().contains("legacy"));
}

#[test]
fn a_source_with_a_missing_left_over_or_wrong_tensor_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("a.pth"), folder.path().join("o.safetensors"));
    let options = Options { heads: Some(3), ..Options::default() };
    let refused = |change: &dyn Fn(&mut Tensors)| {
        let (_, mut theirs) = meta("tiny");
        change(&mut theirs);
        fs::write(&source, state_dict(&theirs, b"}")).unwrap();
        let error = convert(&source, &out, &options).unwrap_err();
        assert!(!out.exists() && error.contains("a.pth"), "{error}");
        error
    };
    let norm = "blocks.1.norm2.weight";
    let one = || Tensor::ones([1], (Kind::Float, Device::Cpu));
    let error = refused(&|theirs| drop(theirs.remove(norm)));
    assert!(error.contains(norm) && error.contains("missing"), "{error}");
    let error = refused(&|theirs| drop(theirs.insert("head.weight".into(), one())));
    assert!(error.contains("head.weight") && error.contains("no such tensor"), "{error}");
    let error = refused(&|theirs| drop(theirs.insert(norm.into(), one())));
    assert!(error.contains("F32 [1], expected F32 [96]"), "{error}");
    let error =
        refused(&|theirs| drop(theirs.insert(norm.into(), one().expand([96], false) * f64::NAN)));
    assert!(error.contains("NaN"), "{error}");
    let error =
        refused(&|theirs| drop(theirs.insert(norm.into(), Tensor::zeros_like(&theirs[norm]))));
    assert!(error.contains("0 everywhere"), "{error}");
}

#[test]
fn loading_refuses_what_is_not_exactly_the_network_of_the_sidecar() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let sidecar = path.with_extension("yaml");
    let model = checkpoint::init("tiny", "g-d", 3).unwrap();
    checkpoint::save(&model, &path).unwrap();
    let (whole, described) = (fs::read(&path).unwrap(), fs::read_to_string(&sidecar).unwrap());
    let config: ModelConfig = serde_yaml::from_str(&described).unwrap();
    // Writes other bytes and, as an attacker would, a sidecar with their digest.
    let refused = |bytes: &[u8]| {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(bytes);
        let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let config = ModelConfig { sha256, ..config.clone() };
        fs::write(&path, bytes).unwrap();
        fs::write(&sidecar, serde_yaml::to_string(&config).unwrap()).unwrap();
        load(&path).unwrap_err()
    };
    for at in (0..whole.len()).step_by(whole.len() / 25) {
        assert!(refused(&whole[..at]).contains("a.safetensors"), "cut at {at}");
    }
    let tensors = || listed(&model.variables());
    for at in (0..tensors().len()).step_by(7) {
        let mut changed = tensors();
        let (name, _, shape, bytes) = &mut changed[at];
        (*shape, *bytes) = (vec![1], bytes[..4].to_vec());
        let (name, error) = (name.clone(), refused(&safetensors(&changed)));
        assert!(
            error.contains(&name) && error.contains("F32 [1], expected") || error.contains("room"),
            "{error}"
        );
    }
    let name = "ood_head._head.bias";
    let at = tensors().iter().position(|tensor| tensor.0 == name).unwrap();
    let mut half = tensors();
    (half[at].1, half[at].3) = (Dtype::F16, vec![0; 4]);
    assert!(refused(&safetensors(&half)).contains("F16 [2], expected F32 [2]"));
    let mut fewer = tensors();
    fewer.remove(at);
    assert!(refused(&safetensors(&fewer)).contains("`ood_head._head.bias` is missing"));
    let mut more = tensors();
    more.push(("ood_head.queue".into(), Dtype::F32, vec![1], vec![0; 4]));
    assert!(refused(&safetensors(&more)).contains("ood_head.queue"));
    assert!(refused(&fs::read(tiny_checkpoint()).unwrap()).contains("pickle or zip"));

    fs::write(&sidecar, &described).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 25) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        fs::write(&path, flipped).unwrap();
        let error = load(&path).unwrap_err();
        assert!(error.contains(&config.sha256), "{error}");
    }
    fs::write(&path, &whole).unwrap();
    assert!(load(&path).is_ok());
    fs::write(&sidecar, format!("{described}colour: red\n")).unwrap();
    assert!(load(&path).unwrap_err().contains("colour"));
    fs::write(&sidecar, described.replace("embed_dim: 96", "embed_dim: 7680")).unwrap();
    assert!(load(&path).unwrap_err().contains("room for"), "no memory for what cannot be there");
    fs::rename(&path, path.with_extension("ckpt")).unwrap();
    assert!(load(&path.with_extension("ckpt")).unwrap_err().contains(".safetensors"));
}

#[test]
fn the_variables_of_the_five_published_networks_are_the_names_and_shapes_of_their_checkpoints() {
    let Some(path) = shared("spec/state_dict_keys.json") else { return };
    let lists: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let networks =
        [("seg_gmm", "g"), ("seg_linear", "d"), ("d_d", "d-d"), ("g_d", "g-d"), ("g_g", "g-g")];
    for (list, variant) in networks {
        let config = ModelConfig::named("vitb14_reg", variant, ClassTable::cityscapes()).unwrap();
        let model = Model::new(&config, Device::Cpu).unwrap();
        let ours = model.variables().into_iter().map(|(name, tensor)| (name, tensor.size()));
        let prefix = if variant.len() == 1 { "segmentor." } else { "" };
        let theirs = lists[list].as_object().unwrap().iter();
        let theirs = theirs
            .filter(|(name, _)| !DROPPED.contains(&name.rsplit('.').next().unwrap()))
            .map(|(name, info)| {
                (format!("{prefix}{name}"), serde_json::from_value(info["shape"].clone()).unwrap())
            });
        assert_eq!(ours.collect::<BTreeMap<_, _>>(), theirs.collect(), "{list}");
        let values: usize = model.variables().values().map(Tensor::numel).sum();
        let share = config.num_weights() as f64 / values as f64;
        assert!((0.95..=1.0).contains(&share), "{list}: the lower bound is {share} of the count");
    }
}
