//! What an answer of the database asks for. PURE.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// However long a server says to wait, it is tried again after this.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(900);
/// Bytes of an answer's text that are kept for the operator.
pub const MAX_REASON_BYTES: usize = 300;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Written,
    /// The same again, after the server's own time or ours.
    Later {
        kind: &'static str,
        after: Option<Duration>,
        reason: String,
    },
    /// The same lines in smaller requests.
    TooLarge,
    /// One of the lines, at least, is none of this server's.
    BadLines {
        reason: String,
    },
}

/// Reads status, `Retry-After` and text of an answer.
///
/// What an operator has to mend (token, organisation, bucket) waits: no line is at fault. Other refusals are of the lines.
#[must_use]
pub fn read(status: u16, retry_after: Option<&str>, text: &str, now: OffsetDateTime) -> Answer {
    let reason = || format!("HTTP {status}{}", quote(text));
    let later = |kind, after| Answer::Later { kind, after, reason: reason() };
    match status {
        200..=299 => Answer::Written,
        413 => Answer::TooLarge,
        429 => later("too_many_requests", retry_after.and_then(|text| wait(text, now))),
        503 => later("unavailable", retry_after.and_then(|text| wait(text, now))),
        401 | 403 => later("not_allowed", None),
        404 => later("not_found", None),
        408 => later("timeout", None),
        400..=499 => Answer::BadLines { reason: reason() },
        _ => later("server", retry_after.and_then(|text| wait(text, now))),
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
fn wait(text: &str, now: OffsetDateTime) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => Duration::try_from(OffsetDateTime::parse(text, &Rfc2822).ok()? - now).unwrap_or_default(),
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

fn quote(text: &str) -> String {
    let mut end = text.len().min(MAX_REASON_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let shown: String = text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if shown.trim().is_empty() { String::new() } else { format!(": {}", shown.trim()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(784_111_777).unwrap()
    }

    fn after(status: u16, header: &str) -> Option<Duration> {
        match read(status, Some(header), "", now()) {
            Answer::Later { after, .. } => after,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        assert_eq!(after(429, "7"), Some(Duration::from_secs(7)));
        assert_eq!(after(503, " 120 "), Some(Duration::from_secs(120)));
        assert_eq!(after(429, "Sun, 06 Nov 1994 08:49:40 GMT"), Some(Duration::from_secs(3)));
        assert_eq!(after(429, "Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO), "a date that has passed");
        assert_eq!(after(429, "18446744073709551615"), Some(MAX_RETRY_AFTER));
        assert_eq!(after(429, "soon"), None);
        assert_eq!(after(429, "-5"), None);
    }

    #[test]
    fn only_lines_at_fault_are_at_fault() {
        let is_later = |status| matches!(read(status, None, "", now()), Answer::Later { .. });
        assert!([401, 403, 404, 408, 429, 500, 502, 503, 504, 301, 600].into_iter().all(is_later));
        assert_eq!(read(204, None, "", now()), Answer::Written);
        assert_eq!(read(413, None, "", now()), Answer::TooLarge);
        let bad = read(400, None, "unable to parse\n'x'", now());
        assert_eq!(bad, Answer::BadLines { reason: "HTTP 400: unable to parse 'x'".to_owned() });
        assert!(matches!(read(422, None, &"é".repeat(400), now()), Answer::BadLines { reason } if reason.len() < 330));
    }
}
