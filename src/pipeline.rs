//! To come: pipeline.
