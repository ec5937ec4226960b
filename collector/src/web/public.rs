//! The public status page as a tree of files.
//!
//! [`model::PublicModel`] (made from the agreed state at its publication point) -> [`tree::render`] (HTML in four
//! languages, JSON, Atom; each twice: for the time before and after `valid_until`) -> [`manifest`] (hashes, signature) ->
//! [`export`] (one directory per sequence, switched by a rename). The mirror takes it from there.
//!
//! Knows nothing that is not public: the model has no field for a host, an address, a sensor or an explanation.

pub mod bars;
pub mod calendar;
pub mod convert;
pub mod export;
pub mod feed;
pub mod json;
pub mod lang;
pub mod manifest;
pub mod model;
pub mod page;
#[doc(hidden)]
pub mod sample;
pub mod tree;
pub mod when;

pub use export::{PublishError, Publisher};
pub use model::PublicModel;
