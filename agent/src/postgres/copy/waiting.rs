//! PURE: whom commits wait for, and what may be said about the standby. No I/O; `now` is a value.
//!
//! See [`super`] for why its words are true. Every state carries what an operator will read ([`Waiting::says`]).

use std::time::{Duration, Instant};

use super::look::{Seen, WaitsFor};

/// A standby that was not there since the promotion is given this part of the patience: writers wait, and the other site is
/// most likely the one that was lost.
const NEVER_THERE: u32 = 4;

/// What is to be done at the server. Repeated at every look until it is seen to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    WaitForPeer,
    /// After the mark "took writes alone".
    WaitForNobody,
    /// Its end is [`Waiting::switched`] with the same round.
    Checkpoint {
        round: u64,
    },
    /// The standby has everything that was acknowledged alone.
    ForgetAlone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Commits are to wait for the standby; that they do is not certain yet.
    Switching { asked: bool },
    /// Commits wait. What is flushed at the standby up to here includes everything from before.
    Waits { switch: u64, caught_up: bool },
    /// The log has it that the standby is behind.
    Alone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wish {
    number: u64,
    /// The standby has to have this for the wish to end.
    until: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Waiting {
    patience: Duration,
    mode: Mode,
    /// Counts switches; a checkpoint of an earlier one says nothing about this one.
    round: u64,
    wish: Option<Wish>,
    /// The history that this is about: another one begins anew.
    timeline: Option<u32>,
    /// Since when the standby has confirmed nothing although there was something to confirm.
    away_since: Option<Instant>,
    /// It was seen since the promotion; one that never was is not worth waiting for.
    was_there: bool,
    confirmed: u64,
    may_forget: bool,
    /// Nothing was seen yet since this sidecar was started.
    is_first: bool,
}

impl Waiting {
    #[must_use]
    pub fn new(patience: Duration) -> Waiting {
        Waiting {
            patience,
            mode: Mode::Switching { asked: false },
            round: 1,
            wish: None,
            timeline: None,
            away_since: None,
            was_there: false,
            confirmed: 0,
            may_forget: false,
            is_first: true,
        }
    }

    /// As after a start: nothing is known.
    pub fn reset(&mut self) {
        *self = Waiting { round: self.round + 1, is_first: false, ..Waiting::new(self.patience) };
    }

    #[must_use]
    pub fn peer_in_sync(&self) -> bool {
        self.wish.is_none() && matches!(self.mode, Mode::Waits { caught_up: true, .. })
    }

    #[must_use]
    pub fn wish(&self) -> Option<u64> {
        self.wish.map(|wish| wish.number)
    }

    #[must_use]
    pub const fn says(&self) -> &'static str {
        match (self.mode, self.wish) {
            (_, Some(_)) => "is away; writes wait for the log's leave to go on alone",
            (Mode::Switching { .. }, None) => "is not known to have everything yet",
            (Mode::Waits { caught_up: true, .. }, None) => "is in sync",
            (Mode::Waits { caught_up: false, .. }, None) => "catches up, and writes wait for it",
            (Mode::Alone, None) => "is behind; writes go on without it",
        }
    }

    /// The log's word "not in sync" to the wish of this number. False where that wish does not stand.
    pub fn granted(&mut self, number: u64) -> bool {
        let stands = self.wish.is_some_and(|wish| wish.number == number);
        if stands {
            (self.mode, self.wish, self.away_since) = (Mode::Alone, None, None);
        }
        stands
    }

    /// The checkpoint of a round has ended here; 0: it failed.
    pub fn switched(&mut self, (round, position): (u64, u64)) {
        if round == self.round && matches!(self.mode, Mode::Switching { asked: true }) {
            self.mode = match position {
                0 => Mode::Switching { asked: false },
                switch => Mode::Waits { switch, caught_up: false },
            };
        }
    }

    /// One look. `number` becomes the wish's, if this begins one.
    pub fn saw(&mut self, seen: &Seen, now: Instant, number: u64) -> Option<Order> {
        if !seen.active || self.timeline.is_some_and(|timeline| timeline != seen.timeline) {
            self.reset();
        }
        if !seen.active {
            return None;
        }
        self.timeline = Some(seen.timeline);
        if std::mem::take(&mut self.is_first) && seen.waits_for == WaitsFor::Nobody {
            // This sidecar was started anew beside it: it went on alone before, and the log knows.
            self.mode = Mode::Alone;
        }
        match (self.mode, seen.waits_for) {
            (Mode::Alone, WaitsFor::Nobody) => return self.alone(seen),
            (_, WaitsFor::NothingEver) => {
                self.switch_on();
                return None;
            }
            (Mode::Alone, WaitsFor::Peer | WaitsFor::Other) => return Some(Order::WaitForNobody),
            // Not by us: what was acknowledged meanwhile is not known to be anywhere else.
            (Mode::Waits { .. } | Mode::Switching { .. }, WaitsFor::Nobody | WaitsFor::Other) => {
                self.switch_on();
                return Some(Order::WaitForPeer);
            }
            (Mode::Waits { .. } | Mode::Switching { .. }, WaitsFor::Peer) => {}
        }
        self.judge_peer(seen, now, number);
        match self.mode {
            Mode::Switching { asked: false } => {
                self.mode = Mode::Switching { asked: true };
                Some(Order::Checkpoint { round: self.round })
            }
            Mode::Waits { caught_up: true, .. } if self.may_forget => {
                self.may_forget = false;
                Some(Order::ForgetAlone)
            }
            Mode::Switching { asked: true } | Mode::Waits { .. } | Mode::Alone => None,
        }
    }

    fn switch_on(&mut self) {
        self.round += 1;
        self.mode = Mode::Switching { asked: false };
    }

    /// A standby that has caught up once is waited for again.
    fn alone(&mut self, seen: &Seen) -> Option<Order> {
        if !seen.peer.is_some_and(|peer| peer.streams) {
            return None;
        }
        self.switch_on();
        self.away_since = None;
        Some(Order::WaitForPeer)
    }

    fn judge_peer(&mut self, seen: &Seen, now: Instant, number: u64) {
        let peer = seen.peer.filter(|peer| peer.streams);
        let confirms = peer.is_some_and(|peer| peer.flushed > self.confirmed || peer.flushed >= seen.position);
        self.confirmed = peer.map_or(self.confirmed, |peer| peer.flushed);
        self.away_since = if confirms { None } else { self.away_since.or(Some(now)) };
        if let (Some(wish), Some(peer)) = (self.wish, peer)
            && peer.is_sync
            && peer.flushed >= wish.until
        {
            self.wish = None;
        }
        self.was_there |= seen.peer.is_some();
        let patience = if self.was_there { self.patience } else { self.patience / NEVER_THERE };
        let is_away = self.away_since.is_some_and(|since| now.duration_since(since) >= patience);
        if is_away && self.wish.is_none() {
            self.wish = Some(Wish { number, until: seen.position });
        }
        if let (Mode::Waits { switch, caught_up }, Some(peer)) = (&mut self.mode, peer)
            && peer.is_sync
            && peer.flushed >= *switch
            && !*caught_up
        {
            (*caught_up, self.may_forget) = (true, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::look::Peer;
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(1_500);

    struct Scene {
        waiting: Waiting,
        now: Instant,
        seen: Seen,
    }

    impl Scene {
        fn new() -> Scene {
            let seen = Seen {
                active: true,
                system: "7".to_owned(),
                timeline: 2,
                position: 100,
                waits_for: WaitsFor::Peer,
                peer: None,
                receives: false,
            };
            Scene { waiting: Waiting::new(PATIENCE), now: Instant::now(), seen }
        }

        fn look(&mut self, number: u64) -> Option<Order> {
            self.now += Duration::from_millis(200);
            self.waiting.saw(&self.seen, self.now, number)
        }

        fn peer(&mut self, flushed: u64) {
            self.seen.peer = Some(Peer { streams: true, is_sync: true, flushed });
        }

        /// As a busy standby that has everything.
        fn in_sync() -> Scene {
            let mut scene = Scene::new();
            scene.peer(100);
            assert_eq!(scene.look(1), Some(Order::Checkpoint { round: 1 }));
            assert!(!scene.waiting.peer_in_sync(), "whether commits wait is not certain yet");
            scene.waiting.switched((1, 120));
            scene.look(1);
            assert!(!scene.waiting.peer_in_sync(), "it has not passed the switch position");
            scene.seen.position = 130;
            scene.peer(120);
            assert_eq!(scene.look(1), Some(Order::ForgetAlone));
            assert!(scene.waiting.peer_in_sync());
            scene
        }

        fn until_wish(&mut self, number: u64) {
            while self.waiting.wish().is_none() {
                self.look(number);
            }
        }
    }

    #[test]
    fn in_sync_only_once_commits_wait_and_the_standby_is_past_the_switch() {
        let mut scene = Scene::in_sync();
        scene.seen.peer = None;
        scene.look(1);
        assert!(scene.waiting.peer_in_sync(), "commits hang: what was acknowledged is still there");
        scene.until_wish(7);
        assert!(!scene.waiting.peer_in_sync());
        assert_eq!(scene.waiting.wish(), Some(7));
    }

    #[test]
    fn alone_only_on_the_word_to_the_wish_that_stands() {
        let mut scene = Scene::in_sync();
        scene.seen.peer = None;
        scene.until_wish(7);
        assert!(!scene.waiting.granted(6));
        assert_eq!(scene.look(8), None, "it waits");
        // It came back by itself: the word that comes too late is not believed.
        scene.peer(130);
        scene.look(9);
        assert_eq!(scene.waiting.wish(), None);
        assert!(!scene.waiting.granted(7));
        assert!(scene.waiting.peer_in_sync(), "commits never stopped waiting");
        scene.seen.peer = None;
        scene.until_wish(11);
        assert!(scene.waiting.granted(11));
        assert_eq!(scene.look(12), Some(Order::WaitForNobody));
        assert_eq!(scene.look(12), Some(Order::WaitForNobody), "until it is seen to be done");
        scene.seen.waits_for = WaitsFor::Nobody;
        assert_eq!(scene.look(12), None);
        assert!(!scene.waiting.peer_in_sync() && scene.waiting.wish().is_none());
    }

    #[test]
    fn back_from_alone_first_waiting_then_certain_then_in_sync() {
        let mut scene = Scene::in_sync();
        scene.seen.peer = None;
        scene.until_wish(7);
        scene.waiting.granted(7);
        (scene.seen.waits_for, scene.seen.position) = (WaitsFor::Nobody, 500);
        scene.seen.peer = Some(Peer { streams: false, is_sync: false, flushed: 130 });
        assert_eq!(scene.look(8), None, "it still catches up");
        scene.seen.peer = Some(Peer { streams: true, is_sync: false, flushed: 480 });
        assert_eq!(scene.look(8), Some(Order::WaitForPeer));
        scene.seen.waits_for = WaitsFor::Peer;
        scene.peer(490);
        let Some(Order::Checkpoint { round }) = scene.look(8) else { panic!("not certain without it") };
        scene.waiting.switched((round - 1, 10));
        scene.look(8);
        assert!(!scene.waiting.peer_in_sync(), "a checkpoint of another switch");
        scene.waiting.switched((round, 510));
        scene.peer(505);
        scene.look(8);
        assert!(!scene.waiting.peer_in_sync());
        scene.peer(510);
        assert_eq!(scene.look(8), Some(Order::ForgetAlone));
        assert!(scene.waiting.peer_in_sync());
    }

    #[test]
    fn a_setting_that_somebody_changed_is_changed_back_and_not_believed() {
        let mut scene = Scene::in_sync();
        scene.seen.waits_for = WaitsFor::Nobody;
        assert_eq!(scene.look(1), Some(Order::WaitForPeer));
        assert!(!scene.waiting.peer_in_sync());
        scene.seen.waits_for = WaitsFor::Peer;
        assert!(matches!(scene.look(1), Some(Order::Checkpoint { .. })));
    }

    #[test]
    fn a_promotion_and_a_start_begin_with_nothing_known() {
        let mut scene = Scene::in_sync();
        scene.seen.timeline = 3;
        scene.look(1);
        assert!(!scene.waiting.peer_in_sync());
        let mut scene = Scene::new();
        scene.seen.waits_for = WaitsFor::Nobody;
        assert_eq!(scene.look(1), None, "a sidecar that was started anew beside a server that is alone");
        assert_eq!(scene.waiting.says(), "is behind; writes go on without it");
    }

    #[test]
    fn a_slow_standby_that_goes_on_confirming_is_not_away() {
        let mut scene = Scene::in_sync();
        for step in 0..30 {
            scene.seen.position = 1_000_000;
            scene.peer(130 + step);
            scene.look(5);
        }
        assert_eq!(scene.waiting.wish(), None);
        scene.until_wish(5);
    }
}
