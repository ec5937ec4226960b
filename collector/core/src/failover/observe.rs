//! What the three collectors see, and when that is a vote.
