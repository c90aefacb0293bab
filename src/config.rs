//! YAML files as structs: load and validate, nothing else.

use serde::{Deserialize, Serialize};

/// The class table: one row per inlier class, in the order of the logits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClassTable(pub Vec<Class>);

/// One inlier class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Train id: the value in the semantic mask, 0 to 254.
    pub id: u8,
    /// Name, such as `road`.
    pub name: String,
    /// Red, green, blue for overlays and viewers.
    pub colour: [u8; 3],
    /// Cityscapes' group, such as `flat`, `human`, `vehicle`.
    pub group: String,
    /// Part of the drivable area (road and pavement).
    #[serde(default)]
    pub drivable: bool,
}
