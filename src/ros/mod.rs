//! To come: ros.
