//! SQLite bags: the tables `topics` and `messages` of rosbag2's sqlite3 storage.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, Row};

use super::storage::{Selection, Stream, Summary};
use super::{Message, Qos, Topic};
use crate::{Error, Result};

/// An open database.
pub(super) struct SqliteFile {
    path: PathBuf,
    database: Connection,
    /// Row ids of the topics, in the summary's order.
    ids: Vec<i64>,
    pub(super) summary: Summary,
}

impl SqliteFile {
    /// Opens the database at `at` read-only; errors call it `path`.
    pub(super) fn open(path: &Path, at: &Path) -> Result<Self> {
        let bad = |error: rusqlite::Error| Error::bad_file(path, format!("sqlite3: {error}"));
        check_size(path, at)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let database = Connection::open_with_flags(uri(at), flags).map_err(bad)?;
        let (ids, mut topics) = read_topics(&database).map_err(bad)?;
        let counts = read_counts(&database).map_err(bad)?;
        for (id, topic) in ids.iter().zip(&mut topics) {
            topic.message_count = counts.get(id).copied().unwrap_or_default();
        }
        if let Some(id) = counts.keys().find(|id| !ids.contains(id)) {
            let problem = format!("{} messages of topic {id}, which is not in it", counts[id]);
            return Err(Error::bad_file(path, problem));
        }
        let span = read_span(&database).map_err(bad)?;
        Ok(Self { path: path.to_path_buf(), database, ids, summary: Summary { topics, span } })
    }

    /// The chosen messages in log-time order, at equal times in order of their row id.
    pub(super) fn messages(self, chosen: &Selection) -> Result<Stream> {
        let Self { path, database, ids, summary } = self;
        let topics: HashMap<i64, Topic> = ids.into_iter().zip(summary.topics).collect();
        let bad = |error: rusqlite::Error| Error::bad_file(&path, format!("sqlite3: {error}"));
        let order = read_order(&database, |time, topic| {
            time >= chosen.start_ns
                && topics.get(&topic).is_some_and(|topic| chosen.topics.contains(&topic.name))
        });
        let order = order.map_err(bad)?.into_iter();
        Ok(Box::new(Rows { path, database, topics, order }))
    }
}

/// The messages of a database: their order is known, each is fetched when its turn comes.
struct Rows {
    path: PathBuf,
    database: Connection,
    topics: HashMap<i64, Topic>,
    /// Log time, row id, topic id.
    order: std::vec::IntoIter<(u64, i64, i64)>,
}

impl Iterator for Rows {
    type Item = Result<Message>;

    fn next(&mut self) -> Option<Self::Item> {
        let (log_time_ns, id, topic) = self.order.next()?;
        let topic = self.topics.get(&topic)?;
        let fetched = self
            .database
            .prepare_cached("SELECT data FROM messages WHERE id = ?")
            .and_then(|mut query| query.query_row([id], |row| row.get::<_, Vec<u8>>(0)));
        Some(match fetched {
            Ok(data) => Ok(Message {
                topic: topic.name.clone(),
                type_name: topic.type_name.clone(),
                log_time_ns,
                data,
            }),
            Err(error) => {
                self.order = Vec::new().into_iter();
                Err(Error::bad_file(&self.path, format!("sqlite3: message {id}: {error}")))
            }
        })
    }
}

/// A database that nobody writes needs no lock files, so a read-only folder is no obstacle. Left-over
/// journals hold messages, and then SQLite has to look at them.
fn uri(path: &Path) -> String {
    let beside = |end: &str| {
        let mut name = path.as_os_str().to_os_string();
        name.push(end);
        Path::new(&name).exists()
    };
    let immutable = !beside("-wal") && !beside("-journal");
    let text = path.to_string_lossy();
    let text = text.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    format!("file:{text}{}", if immutable { "?immutable=1" } else { "" })
}

/// Holds the file's length against the page count in its header (sqlite.org/fileformat2.html 1.3).
fn check_size(path: &Path, at: &Path) -> Result<()> {
    let mut header = [0; 100];
    let mut file = File::open(at).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    if file.read_exact(&mut header).is_err() {
        let problem = format!("{length} bytes, an sqlite3 header alone takes 100");
        return Err(Error::bad_file(path, problem));
    }
    let page = match u64::from(u16::from_be_bytes([header[16], header[17]])) {
        1 => 65_536,
        size => size,
    };
    let word = |at| u64::from(u32::from_be_bytes([0, 1, 2, 3].map(|i: usize| header[at + i])));
    let needs = page * word(28);
    // The page count holds only when the last writer was one that keeps it.
    if word(24) == word(92) && length < needs {
        let problem = format!("{length} bytes, its header says {needs}: the file was cut short");
        return Err(Error::bad_file(path, problem));
    }
    Ok(())
}

/// Row ids and topics, without counts. Old bags have fewer columns.
fn read_topics(database: &Connection) -> rusqlite::Result<(Vec<i64>, Vec<Topic>)> {
    let mut query = database.prepare("SELECT * FROM topics ORDER BY id")?;
    let topic = |row: &Row<'_>| {
        let qos = row.get::<_, String>("offered_qos_profiles").unwrap_or_default();
        let topic = Topic {
            name: row.get("name")?,
            type_name: row.get("type")?,
            message_count: 0,
            serialization_format: row.get("serialization_format")?,
            qos: Qos::parse(&qos),
        };
        Ok((row.get::<_, i64>("id")?, topic))
    };
    query.query_map([], topic)?.collect()
}

/// Messages per topic id.
fn read_counts(database: &Connection) -> rusqlite::Result<HashMap<i64, usize>> {
    let mut query =
        database.prepare("SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id")?;
    let count = |row: &Row<'_>| {
        Ok((row.get(0)?, usize::try_from(row.get::<_, i64>(1)?).unwrap_or_default()))
    };
    query.query_map([], count)?.collect()
}

/// First and last log time.
fn read_span(database: &Connection) -> rusqlite::Result<Option<(u64, u64)>> {
    let query = "SELECT MIN(timestamp), MAX(timestamp) FROM messages";
    database.query_row(query, [], |row| {
        let (first, last): (Option<i64>, Option<i64>) = (row.get(0)?, row.get(1)?);
        first.zip(last).map(|(first, last)| Ok((time(first)?, time(last)?))).transpose()
    })
}

/// A log time as it is stored, nanoseconds since the epoch.
fn time(stored: i64) -> rusqlite::Result<u64> {
    u64::try_from(stored).or(Err(rusqlite::Error::IntegralValueOutOfRange(0, stored)))
}

/// Log time, row id and topic id of the messages to read, 24 bytes each.
fn read_order(
    database: &Connection,
    wanted: impl Fn(u64, i64) -> bool,
) -> rusqlite::Result<Vec<(u64, i64, i64)>> {
    let query = "SELECT timestamp, id, topic_id FROM messages ORDER BY timestamp, id";
    let mut query = database.prepare(query)?;
    let mut rows = query.query([])?;
    let mut order = Vec::new();
    while let Some(row) = rows.next()? {
        let (time, id, topic) = (time(row.get(0)?)?, row.get(1)?, row.get(2)?);
        if wanted(time, topic) {
            order.push((time, id, topic));
        }
    }
    Ok(order)
}
