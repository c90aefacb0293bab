//! What ROS puts on the command line and into the environment: `--ros-args`, names, the DDS domain.
//!
//! ros2-client reads neither. Rules as in the ROS 2 design documents "ROS 2 command line arguments",
//! "Remapping names" and "Topic and service name mapping to DDS".

use log::LevelFilter;

use crate::config::Override;
use crate::{Error, Result};

/// The command line, understood but not yet applied to anything.
#[derive(Clone, Debug, Default)]
pub struct RosArgs {
    /// `--help`: print the usage and end.
    pub help: bool,
    /// `--version`: print the version and end.
    pub version: bool,
    /// `--check`: try the network and end.
    pub check: bool,
    /// Whether log lines go to `/rosout`.
    pub rosout: bool,
    /// `--log-level` of the node, the last one given.
    pub log_level: Option<LevelFilter>,
    /// `--log-level NAME:=LEVEL` of other loggers.
    pub log_levels: Vec<(String, LevelFilter)>,
    remaps: Vec<Remap>,
    overrides: Vec<(Option<String>, Override)>,
}

/// `[node:]from:=to`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Remap {
    node: Option<String>,
    from: String,
    to: String,
}

/// The node's name with every remap rule that concerns it; turns relative names into absolute ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    namespace: String,
    node: String,
    remaps: Vec<(String, String)>,
}

impl RosArgs {
    /// Understands the arguments after the program's name.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the argument that is unknown, incomplete or not offered by this node.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut parsed = Self { rosout: true, ..Self::default() };
        let mut args = args.into_iter();
        let mut ros = false;
        while let Some(flag) = args.next() {
            match flag.as_str() {
                "--ros-args" => ros = true,
                "--" if ros => ros = false,
                _ if ros => parsed.ros_flag(&flag, &mut args)?,
                "--help" | "-h" => parsed.help = true,
                "--version" | "-V" => parsed.version = true,
                "--check" => parsed.check = true,
                _ => {
                    let allowed = "--help, --version, --check, or --ros-args before it";
                    return Err(Error::setting(flag, "not an argument of this program", allowed));
                }
            }
        }
        Ok(parsed)
    }

    fn ros_flag(&mut self, flag: &str, args: &mut impl Iterator<Item = String>) -> Result<()> {
        let mut value = |form: &str| {
            args.next()
                .ok_or_else(|| Error::setting(flag, "without a value", format!("{flag} {form}")))
        };
        match flag {
            "-r" | "--remap" => self.remaps.push(Remap::parse(&value("from:=to")?)?),
            "-p" | "--param" => self.overrides.push(parameter(&value("name:=value")?)?),
            "--params-file" => self.overrides.push((None, Override::File(value("file")?.into()))),
            "--log-level" => self.set_log_level(&value("level, or logger:=level")?)?,
            "-e" | "--enclave" => {
                let enclave = value("name")?;
                log::debug!("enclave {enclave}: of no effect without DDS security");
            }
            "--disable-stdout-logs" => self.log_level = Some(LevelFilter::Off),
            "--enable-rosout-logs" => self.rosout = true,
            "--disable-rosout-logs" => self.rosout = false,
            "--enable-stdout-logs" | "--disable-external-lib-logs" => {}
            "--enable-external-lib-logs" | "--log-config-file" | "--log-file-name" => {
                let allowed = "nothing in its place: this node logs to stderr and /rosout";
                return Err(Error::setting(flag, "not offered", allowed));
            }
            _ => {
                let allowed = "-r, -p, --params-file, --log-level, -e, --disable-stdout-logs, \
                    --enable-rosout-logs, --disable-rosout-logs, --disable-external-lib-logs";
                return Err(Error::setting(flag, "not a ROS argument", allowed));
            }
        }
        Ok(())
    }

    fn set_log_level(&mut self, text: &str) -> Result<()> {
        let (logger, level) = text.split_once(":=").unwrap_or(("", text));
        let level = match level.to_ascii_lowercase().as_str() {
            "debug" => LevelFilter::Debug,
            "info" => LevelFilter::Info,
            "warn" => LevelFilter::Warn,
            "error" | "fatal" => LevelFilter::Error,
            _ => {
                let allowed = "debug, info, warn, error, fatal, or LOGGER:=LEVEL";
                return Err(Error::setting("--log-level", text, allowed));
            }
        };
        match logger {
            "" => self.log_level = Some(level),
            _ => self.log_levels.push((logger.to_owned(), level)),
        }
        Ok(())
    }

    /// The node's name after `__node` and `__ns`, with the rules that concern it.
    ///
    /// # Errors
    /// [`Error::Setting`] for a name with characters that ROS does not allow.
    pub fn names(&self, node: &str) -> Result<Names> {
        let concerning = |rule: &&Remap| rule.node.as_deref().is_none_or(|name| name == node);
        let rules = || self.remaps.iter().filter(concerning);
        let first = |keys: &[&str]| {
            rules().find(|rule| keys.contains(&rule.from.as_str())).map(|rule| rule.to.as_str())
        };
        let mut names = Names {
            namespace: first(&["__ns"]).unwrap_or("/").to_owned(),
            node: first(&["__node", "__name"]).unwrap_or(node).to_owned(),
            remaps: Vec::new(),
        };
        if names.namespace != "/" {
            check(&names.namespace, "__ns")?;
        }
        check(&format!("/{}", names.node), "__node")?;
        for rule in rules().filter(|rule| !rule.from.starts_with("__")) {
            names.remaps.push((names.expand(&rule.from)?, names.expand(&rule.to)?));
        }
        Ok(names)
    }

    /// Parameter files and values that concern the node, in the order given.
    pub fn overrides(&self, names: &Names) -> Vec<Override> {
        let concerning = self.overrides.iter().filter(|(node, _)| {
            node.as_deref().is_none_or(|node| node == names.node || node == names.node_name())
        });
        concerning.map(|(_, value)| value.clone()).collect()
    }
}

impl Remap {
    fn parse(text: &str) -> Result<Self> {
        let wrong = || Error::setting("--remap", text, "from:=to or node:from:=to, no part empty");
        let (left, to) = text.split_once(":=").ok_or_else(wrong)?;
        let left = left.strip_prefix("rostopic://").unwrap_or(left);
        let (node, from) = match left.split_once(':') {
            Some((node, from)) => (Some(node.to_owned()), from),
            None => (None, left),
        };
        if from.is_empty() || to.is_empty() || node.as_deref() == Some("") {
            return Err(wrong());
        }
        Ok(Self { node, from: from.to_owned(), to: to.to_owned() })
    }
}

/// `[node:]name:=yaml`.
fn parameter(text: &str) -> Result<(Option<String>, Override)> {
    let wrong = || Error::setting("--param", text, "name:=value or node:name:=value");
    let (left, yaml) = text.split_once(":=").ok_or_else(wrong)?;
    let (node, key) = match left.split_once(':') {
        Some((node, key)) => (Some(node.to_owned()), key),
        None => (None, left),
    };
    let value = Override::Value { key: key.to_owned(), yaml: yaml.to_owned() };
    if key.is_empty() { Err(wrong()) } else { Ok((node, value)) }
}

impl Names {
    /// `/namespace/node`.
    pub fn node_name(&self) -> String {
        format!("{}/{}", self.namespace.trim_end_matches('/'), self.node)
    }

    /// Namespace, `/` at the least.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The node's name without namespace.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The absolute name of a topic, remapped.
    ///
    /// # Errors
    /// [`Error::Setting`] for characters that ROS does not allow.
    pub fn topic(&self, name: &str) -> Result<String> {
        let full = self.expand(name)?;
        Ok(self.remapped(&full).unwrap_or(full))
    }

    /// The absolute name of `name/suffix`: its own remap rule, else it follows the one of `name`.
    ///
    /// # Errors
    /// As [`Names::topic`].
    pub fn twin(&self, name: &str, suffix: &str) -> Result<String> {
        let own = self.remapped(&self.expand(&format!("{name}/{suffix}"))?);
        own.map_or_else(|| Ok(format!("{}/{suffix}", self.topic(name)?)), Ok)
    }

    /// The absolute name of `suffix` beside `name`: its own remap rule, else it follows the one of
    /// `name`, as image_transport looks for `camera_info`.
    ///
    /// # Errors
    /// As [`Names::topic`].
    pub fn sibling(&self, name: &str, suffix: &str) -> Result<String> {
        let beside = |name: &str| match name.rsplit_once('/') {
            Some((parent, _)) => format!("{parent}/{suffix}"),
            None => suffix.to_owned(),
        };
        let own = self.remapped(&self.expand(&beside(name))?);
        own.map_or_else(|| Ok(beside(&self.topic(name)?)), Ok)
    }

    /// What the first rule that fits makes of an absolute name.
    fn remapped(&self, full: &str) -> Option<String> {
        self.remaps.iter().find(|(from, _)| from == full).map(|(_, to)| to.clone())
    }

    /// `/absolute`, `~/private` and `relative` names made absolute.
    fn expand(&self, name: &str) -> Result<String> {
        let full = match name.strip_prefix('~') {
            _ if name.starts_with('/') => name.to_owned(),
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                format!("{}{rest}", self.node_name())
            }
            _ => format!("{}/{name}", self.namespace.trim_end_matches('/')),
        };
        check(&full, name)?;
        Ok(full)
    }
}

/// Checks an absolute name against the rules of ROS names, for the message under the name `given`.
fn check(full: &str, given: &str) -> Result<()> {
    let good = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let parts = full.strip_prefix('/');
    if parts.is_some_and(|parts| parts.split('/').all(good)) && full.len() <= MAX_NAME {
        return Ok(());
    }
    let allowed = "parts of a-z, A-Z, 0-9 and _ that do not start with a digit, separated by one /, \
        at most 246 characters; a namespace starts with /";
    Err(Error::setting(given, full, allowed))
}

/// Longest absolute name: DDS has 255 characters, less the `rt/` and suffix that ROS puts around it.
const MAX_NAME: usize = 246;

/// Where on the network the node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// `ROS_DOMAIN_ID`, 0 by default.
    pub domain_id: u16,
    /// Peers on this machine only.
    pub localhost_only: bool,
}

impl Network {
    /// Reads `ROS_DOMAIN_ID`, `ROS_LOCALHOST_ONLY` and `ROS_AUTOMATIC_DISCOVERY_RANGE`; warns by name
    /// of variables that other nodes obey and this one cannot.
    ///
    /// # Errors
    /// [`Error::Setting`] with the rule, also where obeying is a matter of safety (`ROS_SECURITY_ENABLE`).
    pub fn from_env(var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let domain = var("ROS_DOMAIN_ID").unwrap_or_else(|| "0".into());
        let domain_id = domain.parse().ok().filter(|&id| id <= MAX_DOMAIN_ID).ok_or_else(|| {
            Error::setting(
                "ROS_DOMAIN_ID",
                &domain,
                format!("a whole number from 0 to {MAX_DOMAIN_ID}"),
            )
        })?;
        let local = match var("ROS_LOCALHOST_ONLY").as_deref() {
            None | Some("0") => false,
            Some("1") => true,
            Some(other) => return Err(Error::setting("ROS_LOCALHOST_ONLY", other, "0 or 1")),
        };
        let range = var("ROS_AUTOMATIC_DISCOVERY_RANGE").map(|range| range.to_ascii_uppercase());
        let localhost_only = match range.as_deref() {
            None | Some("SUBNET" | "SYSTEM_DEFAULT") => local,
            Some("LOCALHOST") => true,
            Some(other) => {
                let allowed =
                    "SUBNET, LOCALHOST or SYSTEM_DEFAULT; this DDS cannot turn discovery off";
                return Err(Error::setting("ROS_AUTOMATIC_DISCOVERY_RANGE", other, allowed));
            }
        };
        if var("ROS_SECURITY_ENABLE").is_some_and(|on| on.eq_ignore_ascii_case("true")) {
            let allowed =
                "false: this node has no DDS security and does not run without it in silence";
            return Err(Error::setting("ROS_SECURITY_ENABLE", "true", allowed));
        }
        for (name, why) in NO_EFFECT {
            if let Some(value) = var(name) {
                log::warn!("{name}={value} has no effect: {why}");
            }
        }
        if let Some(other) = var("RMW_IMPLEMENTATION").filter(|rmw| !DDS.contains(&rmw.as_str())) {
            log::warn!(
                "RMW_IMPLEMENTATION={other}: this node speaks DDS, as {} do",
                DDS.join(", ")
            );
        }
        Ok(Self { domain_id, localhost_only })
    }
}

/// Variables that other nodes obey and this one cannot, and why.
const NO_EFFECT: [(&str, &str); 9] = [
    ("ROS_STATIC_PEERS", "this DDS finds its peers by multicast only"),
    ("ROS_DISCOVERY_SERVER", "this DDS finds its peers by multicast only"),
    ("CYCLONEDDS_URI", "this DDS is RustDDS"),
    ("FASTRTPS_DEFAULT_PROFILES_FILE", "this DDS is RustDDS"),
    ("FASTDDS_DEFAULT_PROFILES_FILE", "this DDS is RustDDS"),
    ("ROS_LOG_DIR", "this node writes no log files, it logs to the console and /rosout"),
    ("RCL_LOGGING_IMPLEMENTATION", "this node logs to the console and /rosout"),
    ("RCUTILS_COLORIZED_OUTPUT", "lines are never coloured"),
    ("RCUTILS_LOGGING_BUFFERED_STREAM", "every line is written at once"),
];

/// Implementations of rmw whose nodes see this one.
const DDS: [&str; 4] =
    ["rmw_fastrtps_cpp", "rmw_fastrtps_dynamic_cpp", "rmw_cyclonedds_cpp", "rmw_connextdds"];

/// Above it, a domain's UDP ports would not fit below 65536 (7400 + 250 * domain).
const MAX_DOMAIN_ID: u16 = 232;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<RosArgs> {
        RosArgs::parse(line.split_whitespace().map(str::to_owned))
    }

    fn names(line: &str) -> Result<Names> {
        parse(&format!("--ros-args {line}"))?.names("ood_segmentation")
    }

    #[test]
    fn relative_absolute_and_private_names_are_remapped() {
        let front = names(
            "-r __ns:=/front -r __node:=seg -r image_raw:=/cam/rgb -r ~/out:=mask \
             -r /front/c:=~/d -r camera/image_raw:=left -r ood_segmentation:x:=y -r other:z:=w",
        )
        .unwrap();
        assert_eq!(front.node_name(), "/front/seg");
        let cases = [
            ("image_raw", "/cam/rgb"),
            ("/image_raw", "/image_raw"),
            ("~/out", "/front/mask"),
            ("c", "/front/seg/d"),
            ("x", "/front/y"),
            ("z", "/front/z"),
            ("camera/status", "/front/camera/status"),
        ];
        for (name, expected) in cases {
            assert_eq!(front.topic(name).unwrap(), expected, "{name}");
        }
        assert_eq!(front.twin("camera/image_raw", "compressed").unwrap(), "/front/left/compressed");
        let own = names("-r camera/image_raw/compressed:=/jpeg -r camera/image_raw:=left").unwrap();
        assert_eq!(own.twin("camera/image_raw", "compressed").unwrap(), "/jpeg");
        let info = |names: &Names| names.sibling("camera/image_raw", "camera_info").unwrap();
        assert_eq!(
            (info(&front), info(&own)),
            ("/front/camera_info".into(), "/camera_info".into())
        );
        let own = names("-r camera/camera_info:=/info -r camera/image_raw:=left").unwrap();
        assert_eq!(info(&own), "/info");
        assert_eq!(names("").unwrap().topic("~/a").unwrap(), "/ood_segmentation/a");
    }

    #[test]
    fn what_ros2_launch_writes_is_understood() {
        let args = parse(
            "--ros-args -r __node:=seg --log-level debug --log-level rustdds:=WARN --params-file a.yaml \
             -p seg:batch:=2 -p other:batch:=9 -p plan:=paper -e / --disable-rosout-logs -- --version",
        )
        .unwrap();
        assert_eq!(args.log_level, Some(LevelFilter::Debug));
        assert_eq!(args.log_levels, [("rustdds".to_owned(), LevelFilter::Warn)]);
        assert!(args.version && !args.help && !args.rosout);
        let names = args.names("ood_segmentation").unwrap();
        let value = |key: &str, yaml: &str| Override::Value { key: key.into(), yaml: yaml.into() };
        let expected =
            [Override::File("a.yaml".into()), value("batch", "2"), value("plan", "paper")];
        assert_eq!(args.overrides(&names), expected);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let cases = [
            ("--ros-args -r a=b", "a=b"),
            ("--ros-args -r", "-r from:=to"),
            ("--ros-args -r __node:=no-dash", "no-dash"),
            ("--ros-args -r __ns:=front", "starts with /"),
            ("--ros-args -r a:=b//c", "b//c"),
            ("--ros-args -r a:=2b", "2b"),
            ("--ros-args -r ä:=b", "ä"),
            ("--ros-args -p batch", "name:=value"),
            ("--ros-args --log-level loud", "loud"),
            ("--ros-args --log-file-name x", "--log-file-name"),
            ("--ros-args --unknown", "--unknown"),
            ("--weights x", "--ros-args before it"),
        ];
        for (line, expected) in cases {
            let error = parse(line).and_then(|args| args.names("n")).unwrap_err().to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn the_environment_is_obeyed_or_refused() {
        let from = |set: &[(&str, &str)]| {
            let set: std::collections::BTreeMap<_, _> = set.iter().copied().collect();
            Network::from_env(|name| set.get(name).map(|&value| value.to_owned()))
        };
        assert_eq!(from(&[]).unwrap(), Network { domain_id: 0, localhost_only: false });
        let local =
            from(&[("ROS_DOMAIN_ID", "232"), ("ROS_AUTOMATIC_DISCOVERY_RANGE", "localhost")]);
        assert_eq!(local.unwrap(), Network { domain_id: 232, localhost_only: true });
        assert!(from(&[("ROS_LOCALHOST_ONLY", "1")]).unwrap().localhost_only);
        let refused = [
            ("ROS_DOMAIN_ID", "233"),
            ("ROS_DOMAIN_ID", "-1"),
            ("ROS_DOMAIN_ID", "one"),
            ("ROS_LOCALHOST_ONLY", "yes"),
            ("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF"),
            ("ROS_SECURITY_ENABLE", "true"),
        ];
        for (name, value) in refused {
            let error = from(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
