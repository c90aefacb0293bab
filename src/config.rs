//! YAML files as structs: load and validate, nothing else.

mod node;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

pub use node::{
    MaskReliability, ModelParameters, NODE_PARAMETERS, NodeConfig, Override, Reliability, Transport,
};

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

impl ClassTable {
    /// The 19 evaluated classes of Cityscapes in train-id order.
    pub fn cityscapes() -> Self {
        let rows = include_str!("../config/classes/cityscapes.yaml");
        serde_yaml::from_str(rows).unwrap_or_else(|error| unreachable!("built-in table: {error}"))
    }

    /// Checks that ids count from 0 and names are distinct.
    ///
    /// # Errors
    /// [`Error::Setting`] with the row.
    pub fn validate(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for (row, class) in self.0.iter().enumerate() {
            if usize::from(class.id) != row {
                let allowed = format!("{row}: ids count from 0 in the order of the logits");
                return Err(Error::setting(format!("classes[{row}].id"), &class.id, allowed));
            }
            if !names.insert(&class.name) {
                let allowed = "a name that no other class has";
                return Err(Error::setting(format!("classes[{row}].name"), &class.name, allowed));
            }
        }
        Ok(())
    }
}
