//! Both training stages on the model that the node runs.
