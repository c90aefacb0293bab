//! To come: preprocess.
