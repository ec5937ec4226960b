//! Transition table, votes, causes, chattering, flood.
