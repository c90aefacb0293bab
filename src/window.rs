//! To come: window.
