//! Rules: CEL text, checked against the contract, evaluated in three values.
//!
//! Knows: what a rule asks, of which assets, and what each asset's readings answer. Refuses to know: MQTT, files, clocks,
//! and what becomes of a vote (`alarms` agrees it).
//!
//! Invariants:
//! * unknown never raises and never clears by itself;
//! * a rule is checked when it is loaded: a name, unit or word that cannot be is a [`Fault`], never a silent unknown;
//! * only rule instances whose inputs changed, or whose time has come, are evaluated;
//! * every evaluation can be explained sub-expression by sub-expression.

pub mod ast;
pub mod check;
pub mod engine;
pub mod eval;
pub mod explain;
pub mod kleene;
pub mod load;
pub mod point;
pub mod selector;
pub mod timeline;
pub mod window;

pub use check::Fault;
pub use engine::{Engine, Event, VoteChange};
pub use explain::{Explained, Explanation};
pub use kleene::Truth;
pub use load::{RawRule, Rule, RuleSet, load, load_tables};
