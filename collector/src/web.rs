//! What people look at: public page, console and its API.
//!
//! Knows how state is put into words, shapes and files. Refuses to know where state comes from: everything is handed in as
//! a value. No request for the public page is answered here; that is the mirror's work.

pub mod api;
pub mod console;
pub mod public;
