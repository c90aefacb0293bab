//! Addresses and routes that come and go under a running node.
//!
//! A DDS participant speaks of the addresses that there were when it joined. What appears later calls for
//! new inputs; when none of the old addresses is left, nobody can reach the outputs any more.

use std::collections::BTreeSet;
use std::fs;

/// What DDS depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Network {
    /// Without those of the loopback.
    addresses: BTreeSet<String>,
    /// Device, destination and mask.
    routes: BTreeSet<String>,
}

/// The network when DDS was joined, and as it was last seen.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    joined: Network,
    last: Network,
}

/// What became of the network since it was last seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing that matters, or something went.
    None,
    /// A route or an address is new.
    New,
    /// These are the addresses now, and they all are new.
    Moved(String),
}

impl Interfaces {
    pub(super) fn new(now: Network) -> Self {
        Self { joined: now.clone(), last: now }
    }

    pub(super) fn change(&mut self, now: Network) -> Change {
        let more = !now.addresses.is_subset(&self.last.addresses)
            || !now.routes.is_subset(&self.last.routes);
        let moved = !now.addresses.is_empty() && now.addresses.is_disjoint(&self.joined.addresses);
        self.last = now;
        if moved {
            let addresses = self.last.addresses.iter().map(String::as_str);
            Change::Moved(addresses.collect::<Vec<_>>().join(", "))
        } else if more {
            Change::New
        } else {
            Change::None
        }
    }
}

/// The network of this process; empty where the system does not tell.
pub(super) fn network() -> Network {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    Network {
        addresses: addresses(&read("/proc/net/fib_trie")),
        routes: routes(&read("/proc/net/route")),
    }
}

/// Addresses of this computer in `/proc/net/fib_trie`: a line of each, before one that says what it is.
fn addresses(trie: &str) -> BTreeSet<String> {
    let lines: Vec<_> = trie.lines().map(str::trim).collect();
    let own = lines.windows(2).filter(|pair| pair[1] == "/32 host LOCAL");
    let own = own.filter_map(|pair| pair[0].strip_prefix("|-- "));
    own.filter(|address| !address.starts_with("127.")).map(str::to_owned).collect()
}

/// Device, destination and mask of every line of `/proc/net/route`.
fn routes(table: &str) -> BTreeSet<String> {
    let columns = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let full = columns.filter(|columns| columns.len() > 7);
    full.map(|columns| [columns[0], columns[1], columns[7]].join(" ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(addresses: &[&str], routes: &[&str]) -> Network {
        let set = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Network { addresses: set(addresses), routes: set(routes) }
    }

    #[test]
    fn what_is_new_calls_for_new_inputs_and_other_addresses_for_a_new_process() {
        let mut interfaces = Interfaces::new(seen(&["10.0.0.1"], &["a"]));
        let mut change =
            |addresses: &[&str], routes: &[&str]| interfaces.change(seen(addresses, routes));
        assert_eq!(change(&["10.0.0.1"], &["a"]), Change::None);
        assert_eq!(change(&["10.0.0.1"], &[]), Change::None, "the link is down");
        assert_eq!(change(&["10.0.0.1"], &["a"]), Change::New, "and up");
        assert_eq!(change(&["10.0.0.1", "10.1.0.1"], &["a", "b"]), Change::New);
        assert_eq!(change(&[], &[]), Change::None);
        assert_eq!(change(&["10.1.0.1"], &["b"]), Change::Moved("10.1.0.1".into()));
        let mut offline = Interfaces::default();
        assert_eq!(offline.change(seen(&[], &[])), Change::None);
        assert_eq!(offline.change(seen(&["10.0.0.7"], &["a"])), Change::Moved("10.0.0.7".into()));
    }

    #[test]
    fn the_kernels_tables_are_read() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.9.0.1\n        /32 host LOCAL\n     \
            |-- 10.9.0.255\n        /32 link BROADCAST\n  |-- 127.0.0.1\n   /32 host LOCAL\n";
        assert_eq!(addresses(trie), seen(&["10.9.0.1"], &[]).addresses);
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth0\t0009000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(routes(table), seen(&[], &["eth0 0009000A 00FFFFFF"]).routes);
    }
}
