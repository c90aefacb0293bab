//! To come: checkpoint.
