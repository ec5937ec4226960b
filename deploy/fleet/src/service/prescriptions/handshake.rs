//! What a copy may acknowledge, and when it may go on alone. No I/O, no clock of its own.

/// What the active copy may acknowledge on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The peer must have it. Also while the log has not yet agreed to anything else.
    Synchronous,
    /// The log has latched that the peer is behind.
    Alone,
}

/// Decides what a copy may say; no I/O, no clock of its own.
#[derive(Debug)]
pub(super) struct Handshake {
    pub(super) mode: Mode,
    /// The standby has all of the journal, and synchronous mode is on.
    pub(super) peer_in_sync: bool,
    /// The number of its wish to go on alone, while it has one. Random, so that no word to an earlier life grants it.
    pub(super) wish: Option<u64>,
}

impl Handshake {
    pub(super) const fn new() -> Handshake {
        Handshake { mode: Mode::Synchronous, peer_in_sync: false, wish: None }
    }

    /// The peer confirmed everything there is: from now on nothing is acknowledged without it.
    pub(super) fn peer_caught_up(&mut self) {
        *self = Handshake { mode: Mode::Synchronous, peer_in_sync: true, wish: None };
    }

    /// The peer confirmed something, but has not all of it.
    pub(super) fn peer_behind(&mut self) {
        if self.mode == Mode::Alone {
            self.peer_in_sync = false;
        }
    }

    /// `number` becomes the wish's, if this begins one.
    pub(super) fn peer_away(&mut self, number: u64) {
        self.peer_in_sync = false;
        if self.mode == Mode::Synchronous {
            self.wish.get_or_insert(number);
        }
    }

    /// The gate says that the log has latched "not in sync" in answer to the wish of this number.
    pub(super) fn granted(&mut self, wish: u64) {
        if self.wish == Some(wish) {
            *self = Handshake { mode: Mode::Alone, peer_in_sync: false, wish: None };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_to_an_earlier_wish_is_not_believed() {
        let mut handshake = Handshake::new();
        handshake.peer_away(1);
        handshake.peer_away(2);
        assert_eq!(handshake.wish, Some(1), "one wish until it ends");
        handshake.peer_caught_up();
        handshake.granted(1);
        assert_eq!(handshake.mode, Mode::Synchronous, "the wish is gone");
        handshake.peer_away(3);
        handshake.granted(1);
        assert_eq!(handshake.mode, Mode::Synchronous);
        handshake.granted(3);
        assert_eq!(handshake.mode, Mode::Alone);
    }
}
