//! The shared policy file.
