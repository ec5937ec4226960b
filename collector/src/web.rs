//! What people look at: public page, console and its API.
