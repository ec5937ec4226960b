//! One look at PostgreSQL: one question, so that what it says belongs together.

use super::super::sql::Session;
use super::super::{Postgres, PostgresError};

/// Whom commits wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor {
    Peer,
    Nobody,
    /// Somebody set something else.
    Other,
    /// `synchronous_commit` or `fsync` lets them not wait at all; only people can change that.
    NothingEver,
}

/// How the other copy stands in `pg_stat_replication`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// `streaming`: it has caught up once.
    pub streams: bool,
    /// `sync`: commits count it.
    pub is_sync: bool,
    pub flushed: u64,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub active: bool,
    pub system: String,
    pub timeline: u32,
    pub position: u64,
    pub waits_for: WaitsFor,
    pub peer: Option<Peer>,
    /// Of a standby: it receives.
    pub receives: bool,
}

const QUESTION: &str = "
SELECT s.system_identifier, r.r,
  CASE WHEN r.r THEN greatest(c.timeline_id, m.min_recovery_end_timeline,
      coalesce(w.received_tli, (SELECT max(('x' || substr(name, 1, 8))::bit(32)::int)
                                FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$')))
    ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
  CASE WHEN r.r THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
    ELSE pg_current_wal_flush_lsn() END - '0/0'::pg_lsn,
  current_setting('synchronous_standby_names'),
  current_setting('synchronous_commit') IN ('on', 'remote_apply') AND current_setting('fsync') = 'on',
  w.status, p.state, p.sync_state, p.flush_lsn - '0/0'::pg_lsn
FROM pg_control_system() s, pg_control_checkpoint() c, pg_control_recovery() m, (SELECT pg_is_in_recovery() r) r
  LEFT JOIN pg_stat_wal_receiver w ON true
  LEFT JOIN (SELECT * FROM pg_stat_replication WHERE application_name = '";

impl Seen {
    /// # Errors
    /// PostgreSQL does not answer, or something else than it should.
    pub async fn of(session: &Session, config: &Postgres) -> Result<Seen, PostgresError> {
        // The newest, where an old sender has not yet noticed that its standby is gone.
        let newest = "' ORDER BY backend_start DESC LIMIT 1) p ON true";
        let row = session.row(&format!("{QUESTION}{}{newest}", config.peer_name)).await?;
        Seen::read(&row, &config.peer_name).ok_or(PostgresError::Late { what: "say how it is" })
    }

    fn read(row: &[Option<String>], peer_name: &str) -> Option<Seen> {
        let text = |at: usize| row.get(at).and_then(Option::as_deref);
        let waits_for = match (text(4)?, text(5)? == "t") {
            (name, true) if name == peer_name => WaitsFor::Peer,
            ("", _) => WaitsFor::Nobody,
            (_, true) => WaitsFor::Other,
            (_, false) => WaitsFor::NothingEver,
        };
        let peer = text(7).map(|state| Peer {
            streams: state == "streaming",
            is_sync: matches!(text(8), Some("sync" | "quorum")),
            flushed: text(9).and_then(|lsn| lsn.parse().ok()).unwrap_or(0),
        });
        Some(Seen {
            active: text(1)? == "f",
            system: text(0)?.to_owned(),
            timeline: text(2)?.parse().ok()?,
            position: text(3)?.parse().ok()?,
            waits_for,
            peer,
            receives: text(6) == Some("streaming"),
        })
    }

    #[must_use]
    pub fn lineage(&self) -> String {
        format!("{}-{}", self.system, self.timeline)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn row(fields: [Option<&str>; 10]) -> Vec<Option<String>> {
        fields.into_iter().map(|field| field.map(str::to_owned)).collect()
    }

    #[test]
    fn a_primary_and_its_standby_have_one_lineage() {
        let active = row([
            Some("7"),
            Some("f"),
            Some("2"),
            Some("1000"),
            Some("bcp_b"),
            Some("t"),
            None,
            Some("streaming"),
            Some("sync"),
            Some("990"),
        ]);
        let active = Seen::read(&active, "bcp_b").unwrap();
        assert_eq!(active.peer, Some(Peer { streams: true, is_sync: true, flushed: 990 }));
        assert_eq!(active.waits_for, WaitsFor::Peer);
        let standby = row([
            Some("7"),
            Some("t"),
            Some("2"),
            Some("990"),
            Some("bcp_a"),
            Some("t"),
            Some("streaming"),
            None,
            None,
            None,
        ]);
        let standby = Seen::read(&standby, "bcp_a").unwrap();
        assert_eq!(standby.lineage(), active.lineage());
        assert!(standby.receives && !standby.active && standby.peer.is_none());
    }

    #[test]
    fn commits_that_do_not_wait_are_no_synchronous_mode() {
        let seen = |name: &str, commit: &str| {
            let fields = [Some("7"), Some("f"), Some("1"), Some("5"), Some(name), Some(commit), None, None, None, None];
            Seen::read(&row(fields), "bcp_b").unwrap().waits_for
        };
        assert_eq!(seen("bcp_b", "f"), WaitsFor::NothingEver);
        assert_eq!(seen("bcp_c", "t"), WaitsFor::Other);
        assert_eq!(seen("", "t"), WaitsFor::Nobody);
        assert_eq!(Seen::read(&row([None; 10]), "bcp_b"), None);
    }
}
