//! A name that points to the active site, by DNS UPDATE (RFC 2136) signed with TSIG (RFC 8945).
//!
//! Knows: that `_bcp.NAME TXT` carries ticket, epoch and site of whoever published last, and that it changes in the same
//! transaction as the addresses, under the prerequisite of its old value: an atomic compare-and-set outside of this machine.
//! Refuses to know: zones, transfers, resolvers; it talks to the primary server alone, by TCP.
//!
//! Invariants: an older epoch never overwrites a newer one, whatever the clocks say and however late a packet is; an answer
//! counts only with the server's signature.

mod exchange;
mod mark;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use serde::{Deserialize, Serialize};

use super::{ActError, Effect, Step, StepName};
use exchange::{Published, Server, Update};
use mark::{Mark, Standing};

/// A record that clients keep for longer moves nobody in time.
const TTL_MAX_S: u32 = 3_600;
/// Another gate may be quicker this often, in one step. Only a later epoch is: so it is a veto long before that.
const TRIES: u32 = 3;
const ADDRESSES_MAX: usize = 16;

/// As configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// The primary server of the zone.
    pub server: SocketAddr,
    pub zone: String,
    pub name: String,
    /// Of this site.
    pub addresses: Vec<IpAddr>,
    #[serde(default = "default_ttl_s")]
    pub ttl_s: u32,
    /// Name of the TSIG key.
    pub key: String,
    #[serde(default)]
    pub algorithm: Algorithm,
    /// File with the key's secret in base64.
    pub key_file: PathBuf,
}

const fn default_ttl_s() -> u32 {
    30
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Algorithm {
    #[default]
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
}

/// Why the name was not changed.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("{text} is no name of the DNS")]
    Name { text: String },
    #[error("the key file {path} cannot be read", path = path.display())]
    KeyFile { path: PathBuf, source: std::io::Error },
    #[error("{path} does not hold the secret of a TSIG key in base64", path = path.display())]
    KeyText { path: PathBuf },
    #[error("a message cannot be written or signed: {why}")]
    Compose { why: String },
    #[error("no exchange with {server}")]
    Exchange { server: SocketAddr, source: std::io::Error },
    #[error("the answer of {server} is not to be trusted: {why}")]
    Answer { server: SocketAddr, why: String },
    #[error("{server} refuses: {code}{}", hint(*.code))]
    Refused { server: SocketAddr, code: ResponseCode },
    #[error("{name} TXT holds `{text}`, which no gate of ticket {ticket} wrote; remove it by hand if nobody needs it")]
    Foreign { name: Name, text: String, ticket: bcp_wire::Id },
    #[error("another gate was quicker {TRIES} times")]
    Raced,
}

/// What to look at first.
fn hint(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NotAuth => " (is this the primary of the zone, and does it know the key?)",
        ResponseCode::Refused => " (may the key update this name? `update-policy`)",
        ResponseCode::BADKEY => " (it does not know a key of this name and algorithm)",
        ResponseCode::BADSIG => " (the secret is not the one it knows)",
        ResponseCode::BADTIME => " (the wall clocks are more than five minutes apart)",
        ResponseCode::NotZone => " (the name is not in the zone)",
        _ => "",
    }
}

impl Dns {
    #[must_use]
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut say = |key: &str, reason: String| faults.push((key.to_owned(), reason));
        for (key, text) in [("zone", &self.zone), ("name", &self.name), ("key", &self.key)] {
            if let Err(error) = name(text) {
                say(key, error.to_string());
            }
        }
        if let (Ok(zone), Ok(name)) = (name(&self.zone), self.mark_name())
            && !zone.zone_of(&name)
        {
            say("name", format!("{} is not in the zone {}", self.name, self.zone));
        }
        if self.server.port() == 0 {
            say("server", format!("{} has no port", self.server));
        }
        if self.addresses.is_empty() || self.addresses.len() > ADDRESSES_MAX {
            say("addresses", format!("a site is reached by 1 to {ADDRESSES_MAX} addresses"));
        }
        if let Some(address) = self.addresses.iter().find(|address| address.is_unspecified() || address.is_multicast())
        {
            say("addresses", format!("nobody can be reached at {address}"));
        }
        if self.ttl_s == 0 || self.ttl_s > TTL_MAX_S {
            say("ttl_s", format!("{} is not between 1 and {TTL_MAX_S}", self.ttl_s));
        }
        if !self.key_file.is_absolute() {
            say("key_file", format!("{} is not an absolute path", self.key_file.display()));
        }
        faults
    }

    /// Where the epoch is kept.
    fn mark_name(&self) -> Result<Name, DnsError> {
        name(&format!("_bcp.{}", self.name))
    }

    pub(super) async fn carry_out(&self, step: &Step) -> Result<Effect, ActError> {
        match step.name {
            StepName::Publish => self.publish(step).await,
            // The name stays where it is until the next holder takes it: there is no better place for it.
            StepName::Stop
            | StepName::Seal
            | StepName::Demote
            | StepName::VerifyStopped
            | StepName::VerifyDemoted
            | StepName::Promote
            | StepName::Follow
            | StepName::Weigh => Ok(Effect::not_concerned()),
        }
    }

    async fn publish(&self, step: &Step) -> Result<Effect, ActError> {
        let server = Server::new(self)?;
        let (own_name, mark_name) = (name(&self.name)?, self.mark_name()?);
        let own = Mark { ticket: step.ticket.clone(), epoch: step.epoch, site: step.site };
        for _ in 0..TRIES {
            let found = server.mark(&mark_name).await?;
            let before = match own.beside(&found, &mark_name)? {
                Standing::Vetoed(reason) => return Err(ActError::Vetoed { reason }),
                Standing::Own if server.addresses(&own_name).await? == self.addresses.iter().copied().collect() => {
                    return Ok(Effect::Already(format!("{} points here under epoch {}", self.name, step.epoch)));
                }
                // Somebody changed the addresses by hand.
                Standing::Own | Standing::Older => found,
                Standing::None => Published::Nothing,
            };
            let update = Update { name: &own_name, mark_name: &mark_name, before: &before, mark: &own };
            let update = server.update(&update, &self.addresses, self.ttl_s)?;
            step.may_act()?;
            match server.send(update).await? {
                ResponseCode::NoError => {
                    return Ok(Effect::Done(format!("{} points here under epoch {}", self.name, step.epoch)));
                }
                // What was read is not so any more: it is read again.
                ResponseCode::NXRRSet | ResponseCode::YXRRSet | ResponseCode::YXDomain | ResponseCode::NXDomain => {}
                code => return Err(DnsError::Refused { server: self.server, code }.into()),
            }
        }
        Err(DnsError::Raced.into())
    }
}

/// A whole name, with or without the dot at its end.
fn name(text: &str) -> Result<Name, DnsError> {
    let fault = || DnsError::Name { text: format!("`{text}`") };
    let mut name = Name::from_ascii(text).map_err(|_| fault())?;
    if name.is_root() || text.is_empty() {
        return Err(fault());
    }
    name.set_fqdn(true);
    Ok(name.to_lowercase())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Dns;

    #[test]
    fn the_configuration_is_checked() {
        let read = |text: &str| toml::from_str::<Dns>(text).unwrap().faults();
        let good = "server = \"127.0.0.1:53\"\nzone = \"example.org\"\nname = \"rx.example.org\"\n\
            addresses = [\"10.1.0.10\"]\nkey = \"gate\"\nkey_file = \"/etc/bcp/tsig\"\n";
        assert_eq!(read(good), []);
        for (from, to, key) in [
            ("rx.example.org", "rx.example.com", "name"),
            ("\"rx.example.org", "\"rx..org", "name"),
            ("[\"10.1.0.10\"]", "[]", "addresses"),
            ("10.1.0.10", "0.0.0.0", "addresses"),
            (":53", ":0", "server"),
            ("/etc/bcp", "etc/bcp", "key_file"),
            ("key = ", "ttl_s = 86400\nkey = ", "ttl_s"),
        ] {
            let faults = read(&good.replace(from, to));
            assert_eq!(faults.first().map(|(key, _)| key.as_str()), Some(key), "{to}: {faults:?}");
        }
        let wrong = good.replace("key = ", "algorithm = \"hmac-md5\"\nkey = ");
        assert!(toml::from_str::<Dns>(&wrong).unwrap_err().to_string().contains("unknown variant `hmac-md5`"));
    }
}
