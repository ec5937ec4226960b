//! PURE: what `_bcp.NAME TXT` says, and what a gate may do about it.

use std::fmt;

use bcp_wire::{Epoch, Id, Site};
use hickory_proto::rr::Name;

use super::DnsError;
use super::exchange::Published;

/// First word of the record: who wrote it, and how it is read.
const FORMAT: &str = "v=bcp1";

/// Who published last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub ticket: Id,
    pub epoch: Epoch,
    pub site: Site,
}

/// What was found beside the mark that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    None,
    Older,
    /// Written before, by this gate or by another one of its site.
    Own,
    Vetoed(String),
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mark { ticket, epoch, site } = self;
        write!(f, "{FORMAT} ticket={ticket} epoch={epoch} site={site}")
    }
}

impl Mark {
    /// `None` where the text is not a mark.
    #[must_use]
    pub fn read(text: &str) -> Option<Mark> {
        let mut words = text.split(' ');
        let mut value = |key: &str| words.next()?.strip_prefix(key);
        value(FORMAT).filter(|rest| rest.is_empty())?;
        let mark = Mark {
            ticket: value("ticket=")?.parse().ok()?,
            epoch: value("epoch=")?.parse().ok()?,
            site: value("site=")?.parse().ok()?,
        };
        words.next().is_none().then_some(mark)
    }

    /// How this mark, which is to be written, stands beside what is there.
    ///
    /// # Errors
    /// What is there is not this ticket's: nobody knows what it guards.
    pub fn beside(&self, found: &Published, name: &Name) -> Result<Standing, DnsError> {
        let text = match found {
            Published::Nothing => return Ok(Standing::None),
            Published::Text(text) => text,
        };
        let Some(there) = Mark::read(text).filter(|there| there.ticket == self.ticket) else {
            let text = text.chars().take(80).collect();
            return Err(DnsError::Foreign { name: name.clone(), text, ticket: self.ticket.clone() });
        };
        Ok(match there.epoch.cmp(&self.epoch) {
            std::cmp::Ordering::Less => Standing::Older,
            std::cmp::Ordering::Equal if there.site == self.site => Standing::Own,
            std::cmp::Ordering::Equal => {
                Standing::Vetoed(format!("site {} published under epoch {} already", there.site, there.epoch))
            }
            std::cmp::Ordering::Greater => Standing::Vetoed(format!(
                "site {} published under epoch {}, later than {}",
                there.site, there.epoch, self.epoch
            )),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Mark, Published, Standing};

    fn mark(text: &str) -> Option<Mark> {
        Mark::read(text)
    }

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        let own = mark("v=bcp1 ticket=rx epoch=1.5 site=a").unwrap();
        assert_eq!(own.to_string(), "v=bcp1 ticket=rx epoch=1.5 site=a");
        for bad in [
            "",
            "v=bcp1",
            "v=bcp2 ticket=rx epoch=1.5 site=a",
            "v=bcp1 ticket=rx epoch=5 site=a",
            "v=bcp1 epoch=1.5",
            "v=bcp1 ticket=rx epoch=1.5 site=z",
            "v=bcp1 ticket=rx epoch=1.5 site=a x",
            "v=bcp11 ticket=rx epoch=1.5 site=a",
        ] {
            assert_eq!(mark(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_older_epoch_gets_past_a_newer_one() {
        let own = mark("v=bcp1 ticket=rx epoch=2.5 site=a").unwrap();
        let name = super::Name::from_ascii("_bcp.rx.example.org.").unwrap();
        let beside = |text: &str| own.beside(&Published::Text(text.to_owned()), &name);
        assert_eq!(own.beside(&Published::Nothing, &name).unwrap(), Standing::None);
        assert_eq!(beside("v=bcp1 ticket=rx epoch=2.4 site=b").unwrap(), Standing::Older);
        assert_eq!(beside("v=bcp1 ticket=rx epoch=1.900 site=b").unwrap(), Standing::Older);
        assert_eq!(beside("v=bcp1 ticket=rx epoch=2.5 site=a").unwrap(), Standing::Own);
        for veto in ["epoch=2.6 site=b", "epoch=2.6 site=a", "epoch=3.1 site=b", "epoch=2.5 site=b"] {
            assert!(matches!(beside(&format!("v=bcp1 ticket=rx {veto}")), Ok(Standing::Vetoed(_))), "{veto}");
        }
        assert!(beside("v=bcp1 ticket=other epoch=1.1 site=a").is_err());
        assert!(beside("google-site-verification=x").is_err());
    }
}
