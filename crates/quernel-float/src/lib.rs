//! The float oracle: runs a model through tract and observes it.
