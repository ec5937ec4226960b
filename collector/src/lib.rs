//! Skeleton.

pub mod serve;
