//! Rules: CEL text, checked against the contract, evaluated in three values.
