//! A bag folder's `metadata.yaml`, versions 1 to 9, and the QoS text in it.
//!
//! Layout as rosbag2's `metadata_io` writes it; keys that a version lacks read as empty.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use super::{Qos, Topic};
use crate::{Error, Result};

/// Versions known here; a newer one may mean other things by the same keys.
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=9;

#[derive(Serialize, Deserialize)]
struct Document {
    rosbag2_bagfile_information: Metadata,
}

/// What a recorder says about its bag.
#[derive(Serialize, Deserialize)]
pub(super) struct Metadata {
    pub(super) version: u32,
    pub(super) storage_identifier: String,
    pub(super) duration: Duration,
    pub(super) starting_time: Time,
    pub(super) message_count: u64,
    pub(super) topics_with_message_count: Vec<TopicCount>,
    #[serde(default)]
    pub(super) compression_format: String,
    #[serde(default)]
    pub(super) compression_mode: String,
    pub(super) relative_file_paths: Vec<String>,
    #[serde(default)]
    pub(super) files: Vec<FileInfo>,
    #[serde(default)]
    pub(super) custom_data: Value,
    #[serde(default)]
    pub(super) ros_distro: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Duration {
    pub(super) nanoseconds: i64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Time {
    pub(super) nanoseconds_since_epoch: i64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct TopicCount {
    pub(super) topic_metadata: TopicMetadata,
    pub(super) message_count: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct TopicMetadata {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) type_name: String,
    pub(super) serialization_format: String,
    /// YAML in a string up to version 8, a sequence from 9 on.
    #[serde(default)]
    pub(super) offered_qos_profiles: Value,
    #[serde(default)]
    pub(super) type_description_hash: String,
}

#[derive(Serialize, Deserialize)]
pub(super) struct FileInfo {
    pub(super) path: String,
    pub(super) starting_time: Time,
    pub(super) duration: Duration,
    pub(super) message_count: u64,
}

impl Metadata {
    /// Reads and checks the file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let document: Document = serde_yaml::from_str(&text)
            .map_err(|source| Error::Yaml { path: path.to_path_buf(), source })?;
        let metadata = document.rosbag2_bagfile_information;
        metadata.check(path)?;
        Ok(metadata)
    }

    fn check(&self, path: &Path) -> Result<()> {
        let bad = |problem| Err(Error::bad_file(path, problem));
        if !VERSIONS.contains(&self.version) {
            let (first, last) = (VERSIONS.start(), VERSIONS.end());
            return bad(format!("version {}, readable are {first} to {last}", self.version));
        }
        if !["mcap", "sqlite3"].contains(&self.storage_identifier.as_str()) {
            let id = &self.storage_identifier;
            return bad(format!("storage_identifier `{id}`, readable are mcap and sqlite3"));
        }
        if !["", "none", "zstd"].contains(&self.compression_format.to_lowercase().as_str()) {
            let format = &self.compression_format;
            return bad(format!("compression_format `{format}`, readable is zstd"));
        }
        if self.relative_file_paths.is_empty() {
            return bad("relative_file_paths is empty, expected at least one file".into());
        }
        Ok(())
    }

    /// The bag's files. They always lie beside the metadata; up to version 3 their paths also name
    /// the folder as it was called when recorded.
    pub(super) fn files(&self, folder: &Path) -> Vec<PathBuf> {
        let names = self.relative_file_paths.iter().map(Path::new);
        names.map(|name| folder.join(name.file_name().unwrap_or_default())).collect()
    }

    /// Holds what the files contain against what the recorder counted.
    pub(super) fn check_topics(&self, path: &Path, topics: &mut [Topic]) -> Result<()> {
        for said in &self.topics_with_message_count {
            let name = &said.topic_metadata.name;
            let found = topics.iter_mut().find(|topic| topic.name == *name);
            let count = found.as_ref().map_or(0, |topic| topic.message_count as u64);
            if count != said.message_count {
                let said = said.message_count;
                let problem = format!("says {said} messages on {name}, the files hold {count}");
                return Err(Error::bad_file(path, problem));
            }
            let Some(topic) = found else { continue };
            if topic.type_name != said.topic_metadata.type_name {
                let (said, is) = (&said.topic_metadata.type_name, &topic.type_name);
                let problem = format!("says {name} is {said}, the files say {is}");
                return Err(Error::bad_file(path, problem));
            }
            if topic.qos.is_none() {
                topic.qos = qos_of(&said.topic_metadata.offered_qos_profiles);
            }
        }
        let counts = topics.iter().map(|topic| topic.message_count as u64);
        let total = counts.fold(0, u64::saturating_add); // a lying file must not overflow it
        if total != self.message_count {
            let said = self.message_count;
            let problem = format!("says {said} messages in all, the files hold {total}");
            return Err(Error::bad_file(path, problem));
        }
        Ok(())
    }

    /// The file's text.
    pub(super) fn into_yaml(self) -> Result<String, serde_yaml::Error> {
        serde_yaml::to_string(&Document { rosbag2_bagfile_information: self })
    }
}

/// The strongest of several offers, so that whoever matched one of the recorded publishers matches
/// a writer with it; `None` when nothing is said. Reads names (version 9) and rmw's numbers.
fn qos_of(profiles: &Value) -> Option<Qos> {
    if let Some(text) = profiles.as_str() {
        return Qos::parse(text);
    }
    let profiles = profiles.as_sequence().filter(|profiles| !profiles.is_empty())?;
    let any = |key: &str, name: &str, number: u64| {
        profiles.iter().filter_map(|profile| profile.get(key)).any(|value| {
            value.as_u64() == Some(number)
                || value.as_str().is_some_and(|text| text.eq_ignore_ascii_case(name))
        })
    };
    Some(Qos {
        reliable: any("reliability", "reliable", 1),
        transient_local: any("durability", "transient_local", 1),
    })
}

impl Qos {
    /// The strongest of the offers in rosbag2's `offered_qos_profiles`; `None` when there is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let value = serde_yaml::from_str::<Value>(text).ok()?;
        // A string within the string would recurse; it says nothing that we read.
        if value.is_string() { None } else { qos_of(&value) }
    }

    /// One profile as rosbag2 writes it from version 9 on; the unset durations are rmw's infinity.
    pub(super) fn profile(self) -> String {
        let infinite = |key| format!("  {key}:\n    sec: 9223372036\n    nsec: 854775807\n");
        let [deadline, lifespan, lease] =
            ["deadline", "lifespan", "liveliness_lease_duration"].map(infinite);
        let reliability = if self.reliable { "reliable" } else { "best_effort" };
        let durability = if self.transient_local { "transient_local" } else { "volatile" };
        format!(
            "- history: keep_last\n  depth: 10\n  reliability: {reliability}\n  \
             durability: {durability}\n{deadline}{lifespan}  liveliness: automatic\n{lease}  \
             avoid_ros_namespace_conventions: false\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_recorded_offer_wins_in_numbers_and_in_names() {
        let qos = |text| Qos::parse(text).map(|qos| (qos.reliable, qos.transient_local));
        assert_eq!(qos("- reliability: 2\n  durability: 2"), Some((false, false)));
        let two = "- reliability: 2\n  durability: 2\n- reliability: 1\n  durability: 1\n";
        assert_eq!(qos(two), Some((true, true)));
        let named = "- reliability: best_effort\n  durability: transient_local";
        assert_eq!(qos(named), Some((false, true)));
        for nothing in ["", "[]", "~", "'- reliability: 1'", "- [", "7"] {
            assert_eq!(qos(nothing), None, "{nothing}");
        }
        for (reliable, transient_local) in [(true, false), (false, true)] {
            let qos = Qos { reliable, transient_local };
            assert_eq!(Qos::parse(&qos.profile()), Some(qos));
        }
    }

    #[test]
    fn unknown_versions_storages_and_compressions_are_refused_by_name() {
        let text = |version, storage, compression| {
            format!(
                "rosbag2_bagfile_information: {{version: {version}, storage_identifier: {storage}, \
                 duration: {{nanoseconds: 0}}, starting_time: {{nanoseconds_since_epoch: 0}}, \
                 message_count: 0, topics_with_message_count: [], relative_file_paths: [a.db3], \
                 compression_format: {compression}}}"
            )
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metadata.yaml");
        let read = |text: String| {
            std::fs::write(&path, text).unwrap();
            Metadata::read(&path).map(|_| ()).map_err(|error| error.chain())
        };
        read(text(1, "sqlite3", "''")).unwrap();
        read(text(9, "mcap", "zstd")).unwrap();
        assert!(read(text(10, "mcap", "''")).unwrap_err().contains("version 10"));
        assert!(read(text(9, "rosbag_v2", "''")).unwrap_err().contains("`rosbag_v2`"));
        assert!(read(text(9, "mcap", "lz4")).unwrap_err().contains("`lz4`"));
        assert!(read("a: [".into()).unwrap_err().contains("metadata.yaml"));
    }
}
