//! To come: bag.
