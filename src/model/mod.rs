//! The network: frozen DINOv2 backbone, FPN decoder, classifier, Unknown Estimation Module, scores.

pub mod config;

pub use config::ModelConfig;
