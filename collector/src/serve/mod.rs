//! The serve process: takes readings in, judges them, shows what is known.

pub mod feed;
pub mod view;
