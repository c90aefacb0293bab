//! Datagrams that found a socket of this process full.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// Counts them by socket, those that are closed by now included.
#[derive(Debug, Default)]
pub(super) struct Drops(BTreeMap<u64, u64>);

impl Drops {
    /// All so far, as far as they were looked at before their socket was closed.
    pub(super) fn count(&mut self) -> u64 {
        let own = own_sockets();
        let table = fs::read_to_string("/proc/self/net/udp").unwrap_or_default();
        let own = table.lines().filter_map(row).filter(|(inode, _)| own.contains(inode));
        self.0.extend(own);
        self.0.values().sum()
    }
}

/// Inodes of the sockets of this process.
fn own_sockets() -> BTreeSet<u64> {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let names = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    names
        .filter_map(|name| name.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

/// Inode and drops of a line of `/proc/net/udp`; none of its heading.
fn row(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_whitespace();
    Some((words.nth(9)?.parse().ok()?, words.last()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn what_finds_a_full_socket_of_ours_is_counted_also_after_it_is_closed() {
        let mut drops = Drops::default();
        let before = drops.count();
        let (full, sender) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        for _ in 0..2000 {
            sender.send_to(&[0; 9000], full.local_addr().unwrap()).unwrap();
        }
        let after = drops.count();
        assert!(after >= before + 100, "{before}, {after}");
        drop(full);
        assert!(drops.count() >= after);
    }

    #[test]
    fn a_line_is_read_and_the_heading_is_not() {
        let heading = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops";
        let line = "  614: 0100007F:1CE8 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 84134 2 0000000000000000 31";
        assert_eq!((row(heading), row(line)), (None, Some((84134, 31))));
    }
}
