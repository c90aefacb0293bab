//! To come: overlay.
