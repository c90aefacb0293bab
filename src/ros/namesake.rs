//! A second node of the same name: the one that comes later ends, unless it was told not to.

use std::time::{Duration, Instant};

use super::graph::Graph;
use crate::{Error, Result};

/// Looks for another node of this name while this one is young.
pub(crate) struct Namesake {
    allowed: bool,
    node: String,
    graph: Graph,
    started: Instant,
    looked: Option<Instant>,
}

/// A node that is older stays. Discovery has found every other one by then.
const YOUNG: Duration = Duration::from_secs(5);
/// How often discovery is asked.
const LOOK: Duration = Duration::from_millis(100);

impl Namesake {
    /// Of a node by its absolute name, which has just offered its services.
    pub(crate) fn new(node: String, graph: Graph, allowed: bool) -> Self {
        Self { allowed, node, graph, started: Instant::now(), looked: None }
    }

    /// To be asked again and again: of two young nodes the one with the larger GUID ends. The other one may
    /// have an old namesake, which stays: it ends where it is not alone when it is no longer young.
    ///
    /// # Errors
    /// [`Error::Setting`] when it is this node that has to end.
    pub(crate) fn check(&mut self) -> Result<()> {
        let last = self.looked.map_or(Duration::ZERO, |looked| looked - self.started);
        if self.allowed
            || last >= YOUNG
            || self.looked.is_some_and(|looked| looked.elapsed() < LOOK)
        {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        let grown = self.started.elapsed() >= YOUNG;
        if self.graph.namesake(&self.node).is_some_and(|is_smaller| is_smaller || grown) {
            let remedy = "a name that no running node has (duplicate_node): -r __node:=NAME, or \
                          allow_duplicate: true";
            return Err(Error::setting("__node", &self.node, remedy));
        }
        Ok(())
    }
}
