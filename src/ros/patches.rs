//! Holds the rustdds that is linked to the patches in `patches/`, which the build applies (`patches/rustc`).
//! An old build of it in the target folder fails here: `cargo clean -p rustdds` for each profile in use.

use ros2_client::dds::rustdds;

/// Unknown to rustdds: it was built without patches.
const IN_RUSTDDS: &str = rustdds::OOD_PATCHES; // error? run: cargo clean -p rustdds (and --release)

const IN_REPOSITORY: &str = include_str!(concat!(env!("OUT_DIR"), "/patches.txt"));

const _: () = assert!(
    same(IN_RUSTDDS.as_bytes(), IN_REPOSITORY.as_bytes()),
    "the target folder holds a rustdds with other patches: cargo clean -p rustdds (and --release)"
);

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn texts_are_compared_to_their_ends() {
        assert!(same(b"", b"") && same(b"ab", b"ab"));
        assert!(!same(b"ab", b"a") && !same(b"a", b"ab") && !same(b"ab", b"ac"));
    }
}
