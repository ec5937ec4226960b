//! What the gate and the service tell each other about the data: facts one way, the state of the standby the other.
//!
//! Knows: when the agreed state of the standby is news for the service. Refuses to know: how a service stores anything.
//!
//! Invariant: "not in sync" is told only when it answers a request whose own facts carried the wish to go on alone. An
//! older request may still be on its way and say "in sync"; only a later one overtakes it (`GateSync::seq`), so a copy
//! that heard any other "not in sync" could acknowledge writes alone while the log still comes to say "in sync".

use bcp_wire::control::{ServiceFacts, TicketAnswer};
use bcp_wire::{Epoch, Site};
use serde::Serialize;

/// What is posted to a service's `sync_url`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Word {
    pub peer_in_sync: bool,
    pub epoch: Epoch,
    /// The wish that this grants; 0 where it grants none.
    pub wish: u64,
}

/// The wish of these facts, if they carry one.
#[must_use]
pub fn wish(facts: &ServiceFacts) -> Option<u64> {
    (facts.wants_alone && facts.wish != 0).then_some(facts.wish)
}

/// Facts that are not kept for the next renewal: a copy that becomes active, a wish that begins, a standby that is in sync or
/// not any more.
#[must_use]
pub fn is_urgent(before: Option<&ServiceFacts>, facts: &ServiceFacts) -> bool {
    before.is_none_or(|before| {
        (before.role, before.peer_in_sync, wish(before)) != (facts.role, facts.peer_in_sync, wish(facts))
    })
}

/// What to tell the service after `answer`, to a request whose facts carried `wish`. `told` is what it took last.
#[must_use]
pub fn word(own: Site, answer: &TicketAnswer, wish: Option<u64>, told: Option<Word>) -> Option<Word> {
    if answer.holder != Some(own) {
        return None;
    }
    let word = match (answer.peer_in_sync?, wish) {
        (true, _) => Word { peer_in_sync: true, epoch: answer.epoch, wish: 0 },
        (false, Some(wish)) => Word { peer_in_sync: false, epoch: answer.epoch, wish },
        (false, None) => return None,
    };
    (told != Some(word)).then_some(word)
}

#[cfg(test)]
mod tests {
    use bcp_wire::control::Phase;

    use super::*;

    fn answer(peer_in_sync: Option<bool>) -> TicketAnswer {
        TicketAnswer {
            ticket: "prescriptions".parse().unwrap(),
            holder: Some(Site::A),
            epoch: Epoch { incarnation: 1, counter: 3 },
            revision: 7,
            phase: Phase::Held,
            renewed: true,
            ttl_holder_ms: 10_000,
            order: None,
            silent_ms: None,
            peer_in_sync,
        }
    }

    #[test]
    fn not_in_sync_is_told_only_in_answer_to_the_wish() {
        assert_eq!(word(Site::A, &answer(Some(false)), None, None), None, "a request from before the wish");
        let told = word(Site::A, &answer(Some(false)), Some(9), None).unwrap();
        assert_eq!((told.peer_in_sync, told.wish), (false, 9));
        assert_eq!(word(Site::A, &answer(Some(false)), Some(9), Some(told)), None, "it has taken it");
        assert!(word(Site::A, &answer(Some(false)), Some(10), Some(told)).is_some(), "the next wish is another one");
    }

    #[test]
    fn unknown_and_other_sites_are_not_told() {
        assert_eq!(word(Site::A, &answer(None), Some(9), None), None);
        assert_eq!(word(Site::B, &answer(Some(true)), Some(9), None), None);
        let in_sync = word(Site::A, &answer(Some(true)), Some(9), None).unwrap();
        assert_eq!((in_sync.peer_in_sync, in_sync.wish), (true, 0), "in sync grants no wish");
        assert_eq!(word(Site::A, &answer(Some(true)), None, Some(in_sync)), None);
    }

    #[test]
    fn a_wish_has_a_number() {
        let facts = |wants_alone, wish| ServiceFacts {
            lineage: "l".to_owned(),
            position: 1,
            role: bcp_wire::control::CopyRole::Active,
            peer_in_sync: false,
            wants_alone,
            wish,
        };
        assert_eq!(wish(&facts(true, 4)), Some(4));
        assert_eq!(wish(&facts(true, 0)), None);
        assert_eq!(wish(&facts(false, 4)), None);
        assert!(is_urgent(Some(&facts(false, 0)), &facts(true, 4)) && is_urgent(None, &facts(false, 0)));
        let further = ServiceFacts { position: 2, ..facts(true, 4) };
        assert!(!is_urgent(Some(&facts(true, 4)), &further), "how far it is can wait");
    }
}
