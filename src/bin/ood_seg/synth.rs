//! `ood_seg synth`: data sets of the drawn road world in the published layouts, and a camera's bag.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageResult};
use ood_segmentation::data::synth::{
    IGNORE, OOD, Pool, ROAD, Rendered, Scene, SceneConfig, Unknowns, paste_on_road, paste_picture,
    scene_seed,
};
use ood_segmentation::{Error, Result, file};

use crate::segment::progress;
use crate::synth_bag::Recording;

/// How much to draw, and where it goes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// New folder for `cityscapes/`, `coco/`, `dataset_AnomalyTrack/` and `dataset_ObstacleTrack/`,
    /// or, with --bag, the new bag
    #[arg(short, long)]
    out: PathBuf,
    #[command(flatten)]
    bag: Recording,
    /// The same seed gives the same bytes
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Training pictures, Cityscapes layout
    #[arg(long, default_value_t = 500)]
    train: u32,
    /// Validation pictures, Cityscapes layout
    #[arg(long, default_value_t = 50)]
    val: u32,
    /// Pictures with paste objects and their masks, COCO layout
    #[arg(long, default_value_t = 300)]
    paste: u32,
    /// Pictures with big held-back obstacles, AnomalyTrack layout
    #[arg(long, default_value_t = 50)]
    anomaly: u32,
    /// Pictures with held-back obstacles 10 to 30 px high, ObstacleTrack layout
    #[arg(long, default_value_t = 50)]
    obstacle: u32,
    /// Pairs of pictures with cut-outs of families that `coco/` has not, standing on the road, big ones in
    /// AnomalyTrack's layout and small ones in ObstacleTrack's, in `pasted/`: to choose and calibrate on
    /// without a look at the held-back obstacles
    #[arg(long, default_value_t = 0)]
    pasted: u32,
    /// Columns x rows
    #[arg(long, default_value = "640x360")]
    size: Size,
}

/// Columns and rows.
#[derive(Clone, Copy)]
struct Size {
    width: u32,
    height: u32,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sides =
            text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
        let (width, height) = sides.ok_or("expected columns x rows, such as 640x360")?;
        Ok(Self { width, height })
    }
}

/// The sets, each with a stream of seeds of its own.
#[derive(Clone, Copy)]
enum Set {
    Train,
    Val,
    Paste,
    Anomaly,
    Obstacle,
    Pasted,
    PastedSmall,
}

/// Writes what was asked for.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.bag.wanted() {
        return args.bag.record(&args.out, args.seed, [args.size.width, args.size.height]);
    }
    if fs::read_dir(&args.out).is_ok_and(|mut entries| entries.next().is_some()) {
        let problem = "the folder is not empty; name a new one, so that old pictures do not mix in";
        return Err(Error::bad_file(&args.out, problem));
    }
    let sets = [
        (Set::Train, args.train),
        (Set::Val, args.val),
        (Set::Paste, args.paste),
        (Set::Anomaly, args.anomaly),
        (Set::Obstacle, args.obstacle),
        (Set::Pasted, args.pasted),
        (Set::PastedSmall, args.pasted),
    ];
    let total: u64 = sets.iter().map(|(_, count)| u64::from(*count)).sum();
    let bar = progress(usize::try_from(total).unwrap_or(usize::MAX));
    for (set, count) in sets {
        for index in 0..count {
            match set {
                Set::Train => cityscapes(args, "train", index)?,
                Set::Val => cityscapes(args, "val", index)?,
                Set::Paste => coco(args, index)?,
                Set::Anomaly => anomaly(args, index)?,
                Set::Obstacle => obstacle(args, index)?,
                Set::Pasted => pasted(args, index)?,
                Set::PastedSmall => pasted_small(args, index)?,
            }
            bar.inc(1);
        }
    }
    bar.finish();
    println!("{total} pictures in {}", args.out.display());
    Ok(())
}

/// The first frame of a scene of a set; with unknown obstacles, of the first scene that shows enough
/// of them between the traffic.
fn draw(args: &Args, set: Set, index: u32, unknowns: Unknowns) -> Result<Rendered> {
    let Size { width, height } = args.size;
    let config = SceneConfig { width, height, unknowns, ..SceneConfig::default() };
    let wanted = match unknowns {
        Unknowns::Big => big(args.size),
        Unknowns::Small => 40,
        Unknowns::None | Unknowns::Along => 0,
    };
    first(args, set, index, wanted, |seed| Ok(Scene::new(seed, &config)?.render(0)))
}

/// Pixels of big obstacles that a picture shows at least.
fn big(size: Size) -> usize {
    size.width as usize * size.height as usize / 500
}

/// The first picture of a set's seeds for `index` that shows so many pixels of obstacles.
fn first(
    args: &Args,
    set: Set,
    index: u32,
    wanted: usize,
    picture: impl Fn(u64) -> Result<Rendered>,
) -> Result<Rendered> {
    for attempt in 0..100 {
        let seed = scene_seed(args.seed, set as u64, u64::from(index) | attempt << 32);
        let frame = picture(seed)?;
        if frame.labels.iter().filter(|&&label| label == OOD).count() >= wanted {
            return Ok(frame);
        }
    }
    let Size { width, height } = args.size;
    let allowed = "large enough for obstacles of 10 px and more to stand on its road";
    Err(Error::setting("--size", &format!("{width}x{height}"), allowed))
}

/// One picture with its train ids.
fn cityscapes(args: &Args, split: &str, index: u32) -> Result<()> {
    let set = if split == "train" { Set::Train } else { Set::Val };
    let frame = draw(args, set, index, Unknowns::None)?;
    let root = args.out.join("cityscapes");
    let name = |kind: &str, end: &str| {
        root.join(kind).join(split).join(format!("drawn/drawn_{index:06}_000000_{end}.png"))
    };
    let size = [frame.height, frame.width];
    write(&name("leftImg8bit", "leftImg8bit"), size, &frame.rgb)?;
    write(&name("gtFine", "gtFine_labelTrainIds"), size, &frame.labels)
}

/// One paste object with its mask: 254 on the object, 0 elsewhere.
fn coco(args: &Args, index: u32) -> Result<()> {
    let Size { width, height } = args.size;
    let seed = scene_seed(args.seed, Set::Paste as u64, u64::from(index));
    let picture = paste_picture(Pool::Training, seed, width, height);
    let (root, id) = (args.out.join("coco"), index + 1);
    let mask = format!("annotations/ood_seg_train2017/{id:012}.png");
    write(&root.join(format!("train2017/{id:012}.jpg")), [height, width], &picture.rgb)?;
    write(&root.join(mask), [height, width], &picture.labels)
}

/// One picture with big obstacles.
fn anomaly(args: &Args, index: u32) -> Result<()> {
    let frame = draw(args, Set::Anomaly, index, Unknowns::Big)?;
    let root = args.out.join("dataset_AnomalyTrack");
    smiyc(&root, &format!("validation{index:04}.jpg"), &frame, &anomaly_labels(&frame))
}

/// One picture with big cut-outs of families that training never shows on its road, labelled as those of
/// [`anomaly`].
fn pasted(args: &Args, index: u32) -> Result<()> {
    let frame = stand(args, Set::Pasted, index)?;
    let root = args.out.join("pasted/dataset_AnomalyTrack");
    smiyc(&root, &format!("validation{index:04}.jpg"), &frame, &anomaly_labels(&frame))
}

/// As [`pasted`] with small ones, labelled as those of [`obstacle`].
fn pasted_small(args: &Args, index: u32) -> Result<()> {
    let frame = stand(args, Set::PastedSmall, index)?;
    let name = format!("validation_{}.webp", obstacle_number(index));
    smiyc(&args.out.join("pasted/dataset_ObstacleTrack"), &name, &frame, &obstacle_labels(&frame))
}

/// The first street of a set whose road has room for cut-outs.
fn stand(args: &Args, set: Set, index: u32) -> Result<Rendered> {
    let Size { width, height } = args.size;
    let config = SceneConfig { width, height, ..SceneConfig::default() };
    let small = matches!(set, Set::PastedSmall);
    first(args, set, index, if small { 40 } else { big(args.size) }, |seed| {
        Ok(paste_on_road(Pool::Validation, &Scene::new(seed, &config)?, seed, small))
    })
}

/// 1 on obstacles, 255 on the own bonnet, 0 elsewhere.
fn anomaly_labels(frame: &Rendered) -> Vec<u8> {
    let label = |&label: &u8| match label {
        OOD => 1,
        IGNORE => IGNORE,
        _ => 0,
    };
    frame.labels.iter().map(label).collect()
}

/// One picture with small obstacles: 1 on them, 0 on the road, 255 elsewhere.
fn obstacle(args: &Args, index: u32) -> Result<()> {
    let frame = draw(args, Set::Obstacle, index, Unknowns::Small)?;
    let name = format!("validation_{}.webp", obstacle_number(index));
    smiyc(&args.out.join("dataset_ObstacleTrack"), &name, &frame, &obstacle_labels(&frame))
}

/// 1 on obstacles, 0 on the road, 255 elsewhere.
fn obstacle_labels(frame: &Rendered) -> Vec<u8> {
    let label = |&label: &u8| match label {
        OOD => 1,
        ROAD => 0,
        _ => IGNORE,
    };
    frame.labels.iter().map(label).collect()
}

/// The `index`-th number that the benchmark's validation split keeps: it leaves out every name that
/// begins with `validation_19` or with `validation_21` to `validation_29`.
fn obstacle_number(index: u32) -> u32 {
    let kept = |number: &u32| {
        let digits = number.to_string();
        !digits.starts_with("19") && !("21".."30").contains(&digits.get(..2).unwrap_or(""))
    };
    (0..).filter(kept).nth(index as usize).unwrap_or(u32::MAX)
}

/// A picture and its labels in the layout of SegmentMeIfYouCan.
fn smiyc(root: &Path, image: &str, frame: &Rendered, labels: &[u8]) -> Result<()> {
    let size = [frame.height, frame.width];
    let name = image.split('.').next().unwrap_or(image);
    write(&root.join("images").join(image), size, &frame.rgb)?;
    write(&root.join("labels_masks").join(format!("{name}_labels_semantic.png")), size, labels)
}

/// Writes `(h, w)` grey or `(h, w, 3)` colour pixels in the format of the file's name: png and webp
/// without loss, jpg at quality 95.
fn write(path: &Path, [height, width]: [u32; 2], pixels: &[u8]) -> Result<()> {
    let colour = if pixels.len() == width as usize * height as usize {
        ExtendedColorType::L8
    } else {
        ExtendedColorType::Rgb8
    };
    file::write(path, |out| {
        let encoded: ImageResult<()> = match path.extension().and_then(|end| end.to_str()) {
            Some("jpg") => JpegEncoder::new_with_quality(&mut *out, 95)
                .write_image(pixels, width, height, colour),
            Some("webp") => {
                WebPEncoder::new_lossless(&mut *out).write_image(pixels, width, height, colour)
            }
            _ => PngEncoder::new(&mut *out).write_image(pixels, width, height, colour),
        };
        encoded.map_err(std::io::Error::other)?;
        out.flush()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn args(out: &Path) -> Args {
        let size = Size { width: 112, height: 64 };
        let out = out.to_path_buf();
        let bag = Recording::none();
        let (train, val, paste, anomaly, obstacle, pasted) = (2, 1, 1, 1, 2, 1);
        Args { out, bag, seed: 3, train, val, paste, anomaly, obstacle, pasted, size }
    }

    /// Every file under `root`, with its bytes.
    fn files(root: &Path) -> Vec<(String, Vec<u8>)> {
        let (mut found, mut folders) = (Vec::new(), vec![root.to_path_buf()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                    found.push((name, fs::read(&path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn the_sets_have_the_published_names_and_label_values_and_come_out_the_same_twice() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        run(&args(&one)).unwrap();
        run(&args(&two)).unwrap();
        let written = files(&one);
        assert!(written == files(&two));
        let names: Vec<&str> = written.iter().map(|(name, _)| name.as_str()).collect();
        let expected = [
            "cityscapes/gtFine/train/drawn/drawn_000000_000000_gtFine_labelTrainIds.png",
            "cityscapes/gtFine/train/drawn/drawn_000001_000000_gtFine_labelTrainIds.png",
            "cityscapes/gtFine/val/drawn/drawn_000000_000000_gtFine_labelTrainIds.png",
            "cityscapes/leftImg8bit/train/drawn/drawn_000000_000000_leftImg8bit.png",
            "cityscapes/leftImg8bit/train/drawn/drawn_000001_000000_leftImg8bit.png",
            "cityscapes/leftImg8bit/val/drawn/drawn_000000_000000_leftImg8bit.png",
            "coco/annotations/ood_seg_train2017/000000000001.png",
            "coco/train2017/000000000001.jpg",
            "dataset_AnomalyTrack/images/validation0000.jpg",
            "dataset_AnomalyTrack/labels_masks/validation0000_labels_semantic.png",
            "dataset_ObstacleTrack/images/validation_0.webp",
            "dataset_ObstacleTrack/images/validation_1.webp",
            "dataset_ObstacleTrack/labels_masks/validation_0_labels_semantic.png",
            "dataset_ObstacleTrack/labels_masks/validation_1_labels_semantic.png",
            "pasted/dataset_AnomalyTrack/images/validation0000.jpg",
            "pasted/dataset_AnomalyTrack/labels_masks/validation0000_labels_semantic.png",
            "pasted/dataset_ObstacleTrack/images/validation_0.webp",
            "pasted/dataset_ObstacleTrack/labels_masks/validation_0_labels_semantic.png",
        ];
        assert_eq!(names, expected);
        for (name, bytes) in &written {
            let picture = image::load_from_memory(bytes).unwrap();
            assert_eq!((picture.width(), picture.height()), (112, 64), "{name}");
            let labels: BTreeSet<u8> = picture.to_luma8().into_raw().into_iter().collect();
            match name.split('/').next() {
                _ if name.contains("dataset_AnomalyTrack") && name.ends_with("png") => {
                    assert!(labels.contains(&1) && labels.iter().all(|l| [0, 1, 255].contains(l)));
                }
                _ if name.contains("dataset_ObstacleTrack") && name.ends_with("png") => {
                    assert_eq!(labels, BTreeSet::from([0, 1, 255]));
                }
                Some("coco") if name.ends_with("png") => {
                    assert_eq!(labels, BTreeSet::from([0, 254]))
                }
                Some("cityscapes") if name.contains("gtFine") => {
                    assert!(labels.iter().all(|l| *l < 19 || *l == 255), "{labels:?}");
                }
                _ => assert_eq!(picture.color().channel_count(), 3, "{name}"),
            }
        }
        let error = run(&args(&one)).unwrap_err().to_string();
        assert!(error.contains("one: the folder is not empty"), "{error}");
    }

    #[test]
    fn obstacle_numbers_skip_what_the_benchmark_leaves_out() {
        let numbers: Vec<u32> = (0..24).map(obstacle_number).collect();
        assert_eq!(numbers[17..], [17, 18, 20, 30, 31, 32, 33]);
        assert!((0..200).map(obstacle_number).all(|n| !(190..200).contains(&n)));
    }
}
