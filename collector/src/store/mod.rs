//! The store of the serve process: ledger copy, history chunks, outbox.
