//! `ood_seg synth`: data sets of the drawn road world in the published layouts.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageResult};
use indicatif::{ProgressBar, ProgressStyle};
use ood_segmentation::data::synth::{
    IGNORE, OOD, ROAD, Rendered, Scene, SceneConfig, Unknowns, paste_picture, scene_seed,
};
use ood_segmentation::{Error, Result, file};

/// How much to draw, and where it goes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// New folder for `cityscapes/`, `coco/`, `dataset_AnomalyTrack/` and `dataset_ObstacleTrack/`
    #[arg(short, long)]
    out: PathBuf,
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
}

/// Writes the sets that were asked for.
pub(crate) fn run(args: &Args) -> Result<()> {
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
    ];
    let total = sets.iter().map(|(_, count)| u64::from(*count)).sum();
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {per_sec}  {eta} left");
    let bar = ProgressBar::new(total).with_style(style.unwrap_or(ProgressStyle::default_bar()));
    for (set, count) in sets {
        for index in 0..count {
            match set {
                Set::Train => cityscapes(args, "train", index)?,
                Set::Val => cityscapes(args, "val", index)?,
                Set::Paste => coco(args, index)?,
                Set::Anomaly => anomaly(args, index)?,
                Set::Obstacle => obstacle(args, index)?,
            }
            bar.inc(1);
        }
    }
    bar.finish();
    println!("{total} pictures in {}", args.out.display());
    Ok(())
}

/// The first frame of scene `index` of a set.
fn draw(args: &Args, set: Set, index: u32, unknowns: Unknowns) -> Result<Rendered> {
    let Size { width, height } = args.size;
    let config = SceneConfig { width, height, unknowns, ..SceneConfig::default() };
    Ok(Scene::new(scene_seed(args.seed, set as u64, u64::from(index)), &config)?.render(0))
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
    let picture = paste_picture(seed, width, height);
    let (root, id) = (args.out.join("coco"), index + 1);
    let mask = format!("annotations/ood_seg_train2017/{id:012}.png");
    write(&root.join(format!("train2017/{id:012}.jpg")), [height, width], &picture.rgb)?;
    write(&root.join(mask), [height, width], &picture.labels)
}

/// One picture with big obstacles: 1 on them, 255 on the own bonnet, 0 elsewhere.
fn anomaly(args: &Args, index: u32) -> Result<()> {
    let frame = draw(args, Set::Anomaly, index, Unknowns::Big)?;
    let labels = frame.labels.iter().map(|&label| match label {
        OOD => 1,
        IGNORE => IGNORE,
        _ => 0,
    });
    smiyc(args, "AnomalyTrack", &format!("validation{index:04}.jpg"), &frame, labels.collect())
}

/// One picture with small obstacles: 1 on them, 0 on the road, 255 elsewhere.
fn obstacle(args: &Args, index: u32) -> Result<()> {
    let frame = draw(args, Set::Obstacle, index, Unknowns::Small)?;
    let labels = frame.labels.iter().map(|&label| match label {
        OOD => 1,
        ROAD => 0,
        _ => IGNORE,
    });
    let name = format!("validation_{}.webp", obstacle_number(index));
    smiyc(args, "ObstacleTrack", &name, &frame, labels.collect())
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
fn smiyc(args: &Args, track: &str, image: &str, frame: &Rendered, labels: Vec<u8>) -> Result<()> {
    let root = args.out.join(format!("dataset_{track}"));
    let size = [frame.height, frame.width];
    let name = image.split('.').next().unwrap_or(image);
    write(&root.join("images").join(image), size, &frame.rgb)?;
    write(&root.join("labels_masks").join(format!("{name}_labels_semantic.png")), size, &labels)
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
