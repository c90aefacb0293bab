//! What `INPUT...` names: image files, folders of images, rosbags; frame after frame.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ood_segmentation::bag::{BagReader, Message, Topic};
use ood_segmentation::image::{Image, Limits};
use ood_segmentation::msg::{self, CAMERA_INFO, CameraInfo};
use ood_segmentation::{Error, Result};

/// File name endings read as images.
const IMAGES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// One picture and where it came from.
pub(crate) struct Frame {
    /// The file, or the bag with topic and time: what an error about it names.
    pub(crate) source: String,
    /// Relative path of its results, without an ending.
    pub(crate) name: PathBuf,
    /// The picture.
    pub(crate) image: Image,
    /// Camera and log time in nanoseconds, for a frame from a bag.
    pub(crate) recorded: Option<(String, u64)>,
    /// The newest calibration that the bag has of the camera by then, or else its first.
    pub(crate) calibration: Option<CameraInfo>,
}

/// One entry of the work list.
enum Input {
    /// An image file and the name of its results.
    File { path: PathBuf, name: PathBuf },
    /// A bag, its image topics, and how many images they hold.
    Bag { path: PathBuf, topics: Vec<String>, count: usize },
}

/// The work list of a command line, looked through before anything is done.
pub(crate) struct Inputs(Vec<Input>);

impl Inputs {
    /// Finds out what every argument is.
    ///
    /// # Errors
    /// An argument that does not exist, a folder without images, a bag without image topics, or two
    /// images whose results would have the same name.
    pub(crate) fn find(arguments: &[PathBuf], topics: &[String]) -> Result<Self> {
        let mut inputs = Vec::new();
        for path in arguments {
            let kind = std::fs::metadata(path).map_err(Error::io(path))?;
            if is_bag(path) {
                inputs.push(open_bag(path, topics)?);
            } else if kind.is_dir() {
                add_folder(&mut inputs, path)?;
            } else {
                let name = PathBuf::from(path.file_stem().unwrap_or_default());
                inputs.push(Input::File { path: path.clone(), name });
            }
        }
        distinct(&inputs)?;
        Ok(Self(inputs))
    }

    /// Number of pictures.
    pub(crate) fn count(&self) -> usize {
        let frames = |input: &Input| match input {
            Input::File { .. } => 1,
            Input::Bag { count, .. } => *count,
        };
        self.0.iter().map(frames).sum()
    }

    /// Hands every picture, or why it cannot be read, to `each`, in the order of the arguments.
    ///
    /// # Errors
    /// A bag that ends early, or what `each` returns.
    pub(crate) fn for_each(
        &self,
        limits: &Limits,
        mut each: impl FnMut(Result<Frame>) -> Result<()>,
    ) -> Result<()> {
        for input in &self.0 {
            match input {
                Input::File { path, name } => {
                    let (source, name) = (path.display().to_string(), name.clone());
                    let image = Image::read_file(path, limits);
                    let frame =
                        |image| Frame { source, name, image, recorded: None, calibration: None };
                    each(image.map(frame))?;
                }
                Input::Bag { path, topics, .. } => {
                    let bag = BagReader::open(path)?;
                    let mut calibrations = Calibrations::of(&bag, topics)?;
                    for message in bag.messages(&[&topics[..], &calibrations.topics].concat())? {
                        let message = message?;
                        if calibrations.take(&message) {
                            continue;
                        }
                        let place = place(&message.topic, topics);
                        let frame = frame(path, &message, place, limits).map(|frame| {
                            let calibration = calibrations.newest(camera(&message.topic));
                            Frame { calibration, ..frame }
                        });
                        each(frame)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A file that is a bag by its ending, or a folder that holds one.
pub(crate) fn is_bag(path: &Path) -> bool {
    let ends = |path: &Path| {
        let name = path.to_string_lossy();
        [".mcap", ".db3", ".db3.zstd", ".mcap.zstd"].iter().any(|end| name.ends_with(end))
    };
    let holds = || {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .any(|file| ends(&file) || file.file_name().is_some_and(|name| name == "metadata.yaml"))
    };
    if path.is_dir() { holds() } else { ends(path) }
}

/// The image topics of a bag, all or those asked for.
fn open_bag(path: &Path, wanted: &[String]) -> Result<Input> {
    let bag = BagReader::open(path)?;
    let images = bag.topics().iter().filter(|topic| topic.is_image());
    let chosen: Vec<_> =
        images.filter(|topic| wanted.is_empty() || wanted.contains(&topic.name)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = bag.topics().iter().map(|topic| topic.name.as_str()).collect();
        let problem = format!(
            "no image topic to read; it holds {}, readable are sensor_msgs/msg/Image and CompressedImage",
            names.join(", ")
        );
        return Err(Error::bad_file(path, problem));
    }
    let count = chosen.iter().map(|topic| topic.message_count).sum();
    let topics = chosen.iter().map(|topic| topic.name.clone()).collect();
    Ok(Input::Bag { path: path.to_path_buf(), topics, count })
}

/// The images directly in a folder, by name.
fn add_folder(inputs: &mut Vec<Input>, folder: &Path) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(folder))?.path();
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        if IMAGES.iter().any(|image| ending == *image) {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Error::bad_file(
            folder,
            "a folder without jpg, png or webp files, and not a bag",
        ));
    }
    files.sort();
    for path in files {
        let name = PathBuf::from(path.file_stem().unwrap_or_default());
        inputs.push(Input::File { path, name });
    }
    Ok(())
}

/// Two images of one stem would overwrite each other's results.
fn distinct(inputs: &[Input]) -> Result<()> {
    let mut seen = std::collections::BTreeMap::new();
    for input in inputs {
        if let Input::File { path, name } = input
            && let Some(first) = seen.insert(name, path)
        {
            let problem = format!(
                "has the same stem as {}: their results would overwrite each other; run them apart",
                first.display()
            );
            return Err(Error::bad_file(path, problem));
        }
    }
    Ok(())
}

/// Where the results of a topic go: its camera's place, or its own where the bag has two topics of
/// that camera, raw and compressed, whose frames have the same stamps.
fn place<'a>(topic: &'a str, topics: &[String]) -> &'a str {
    let twins = topics.iter().filter(|other| camera(other) == camera(topic)).count() > 1;
    if twins { topic } else { camera(topic) }
}

/// The picture of a bag's message, named by place and stamp.
fn frame(bag: &Path, message: &Message, place: &str, limits: &Limits) -> Result<Frame> {
    let source = format!("{}: {} at {} ns", bag.display(), message.topic, message.log_time_ns);
    let image =
        message.image(limits).map_err(|reject| Error::bad_file(&source, reject.to_string()))?;
    let stamp = image.header.stamp;
    let name = format!("{}/{}.{:09}", place.trim_matches('/'), stamp.sec, stamp.nanosec);
    let recorded = Some((camera(&message.topic).to_string(), message.log_time_ns));
    Ok(Frame { source, name: name.into(), image, recorded, calibration: None })
}

/// What the `camera_info` topics beside a bag's image topics said last.
struct Calibrations {
    topics: Vec<String>,
    /// By camera.
    newest: HashMap<String, CameraInfo>,
}

impl Calibrations {
    /// Begins with the first of every camera: a driver may send it after the picture it belongs to.
    fn of(bag: &BagReader, images: &[String]) -> Result<Self> {
        let beside = |name: &str| images.iter().any(|image| camera(image) == camera(name));
        let is_info = |topic: &&Topic| {
            topic.type_name == CAMERA_INFO.type_name
                && topic.name.ends_with("/camera_info")
                && beside(&topic.name)
        };
        let topics = bag.topics().iter().filter(is_info).map(|topic| topic.name.clone()).collect();
        let mut found = Self { topics, newest: HashMap::new() };
        for topic in found.topics.clone() {
            if let Some(first) = bag.messages(&[topic])?.next() {
                found.take(&first?);
            }
        }
        Ok(found)
    }

    /// Whether the message was a calibration; one that cannot be read is none.
    fn take(&mut self, message: &Message) -> bool {
        if message.type_name != CAMERA_INFO.type_name {
            return false;
        }
        match msg::decode(&message.data) {
            Ok(info) => drop(self.newest.insert(camera(&message.topic).to_owned(), info)),
            Err(error) => log::warn!("{}: {error}", message.topic),
        }
        true
    }

    fn newest(&self, camera: &str) -> Option<CameraInfo> {
        self.newest.get(camera).cloned()
    }
}

/// The camera's namespace: `/camera/front` of `/camera/front/image_raw/compressed`.
pub(crate) fn camera(topic: &str) -> &str {
    let base = topic.strip_suffix("/compressed").unwrap_or(topic);
    base.rsplit_once('/').map_or(base, |(camera, _)| camera)
}
