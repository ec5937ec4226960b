//! Whose order counts without a collector: two different operators whose public keys this gate was given.
//!
//! Knows: keys and the order's own limits. Refuses to know: epochs; the machine compares them. The wall clock is asked for one
//! thing only, whether an order is still good: a clock that is wrong makes one void, or good for longer than meant, and an
//! old order names an incarnation that was seen.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bcp_wire::Id;
use bcp_wire::force::{ForceFault, MAX_SIGNATURES, SignedForce, from_hex};
use ed25519_dalek::{Signature, VerifyingKey};

/// Two people, never one.
const SIGNERS: usize = 2;

/// Why an order is not taken up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderFault {
    #[error(transparent)]
    Order(#[from] ForceFault),
    #[error("it has expired by this host's clock")]
    Expired,
    #[error("{name} is no operator of this gate")]
    Stranger { name: Id },
    #[error("the signature of {name} is not one of this order")]
    Signature { name: Id },
    #[error("{found} of {SIGNERS} operators have signed it")]
    TooFew { found: usize },
}

/// The operators of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Operators(BTreeMap<Id, VerifyingKey>);

fn key(text: &str) -> Option<VerifyingKey> {
    // A weak key would let one signature fit many orders.
    VerifyingKey::from_bytes(&from_hex(text)?).ok().filter(|key| !key.is_weak())
}

/// What is wrong with `gate.operators`, as (key, reason).
pub fn faults(operators: &BTreeMap<Id, String>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut names: BTreeMap<[u8; 32], &Id> = BTreeMap::new();
    for (name, text) in operators {
        let mut say = |reason| found.push((format!("operators.{name}"), reason));
        match key(text) {
            None => say(format!("the key of `{name}` is no Ed25519 public key of 64 hexadecimal digits")),
            Some(key) => {
                if let Some(other) = names.insert(key.to_bytes(), name) {
                    say(format!("`{name}` and `{other}` have one key: two people must have two"));
                }
            }
        }
    }
    found
}

impl Operators {
    /// Keys that cannot be read are left out; the configuration was checked before.
    #[must_use]
    pub fn new(operators: &BTreeMap<Id, String>) -> Operators {
        Operators(operators.iter().filter_map(|(name, text)| Some((name.clone(), key(text)?))).collect())
    }

    /// The two or more who signed.
    ///
    /// # Errors
    /// Anything about it that is not right: one bad signature among good ones spoils it.
    pub fn verify(&self, signed: &SignedForce, now_ms: i64) -> Result<Vec<Id>, OrderFault> {
        signed.order.check()?;
        if signed.signatures.len() > MAX_SIGNATURES {
            return Err(ForceFault::Signatures.into());
        }
        if now_ms >= signed.order.expires_ms {
            return Err(OrderFault::Expired);
        }
        let text = signed.order.signed_text();
        for (name, signature) in &signed.signatures {
            let key = self.0.get(name).ok_or_else(|| OrderFault::Stranger { name: name.clone() })?;
            let signature = from_hex(signature).map(|bytes| Signature::from_bytes(&bytes));
            let is_good = signature.is_some_and(|signature| key.verify_strict(text.as_bytes(), &signature).is_ok());
            if !is_good {
                return Err(OrderFault::Signature { name: name.clone() });
            }
        }
        let found = signed.signatures.len();
        if found < SIGNERS {
            Err(OrderFault::TooFew { found })
        } else {
            Ok(signed.signatures.keys().cloned().collect())
        }
    }
}

/// Milliseconds since 1970 UTC.
pub fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bcp_wire::force::{ForceOrder, to_hex};
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    fn id(text: &str) -> Id {
        text.parse().unwrap()
    }

    fn signer(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn configured() -> BTreeMap<Id, String> {
        [("op-1", 1), ("op-2", 2)]
            .map(|(name, seed)| (id(name), to_hex(signer(seed).verifying_key().as_bytes())))
            .into()
    }

    fn order() -> ForceOrder {
        ForceOrder {
            ticket: id("rx"),
            to: bcp_wire::Site::B,
            epoch: "9.1".parse().unwrap(),
            expires_ms: 1_000,
            reason: "a and w are gone".to_owned(),
        }
    }

    fn signed(order: &ForceOrder, by: &[(&str, u8)]) -> SignedForce {
        let sign = |(name, seed): &(&str, u8)| {
            (id(name), to_hex(&signer(*seed).sign(order.signed_text().as_bytes()).to_bytes()))
        };
        SignedForce { order: order.clone(), signatures: by.iter().map(sign).collect() }
    }

    #[test]
    fn two_different_operators_and_nothing_less() {
        let operators = Operators::new(&configured());
        let verify = |signed: &SignedForce| operators.verify(signed, 999);
        assert_eq!(verify(&signed(&order(), &[("op-1", 1), ("op-2", 2)])), Ok(vec![id("op-1"), id("op-2")]));
        assert_eq!(verify(&signed(&order(), &[("op-1", 1)])), Err(OrderFault::TooFew { found: 1 }));
        let by_one = signed(&order(), &[("op-1", 1), ("op-2", 1)]);
        assert_eq!(verify(&by_one), Err(OrderFault::Signature { name: id("op-2") }));
        let stranger = signed(&order(), &[("op-1", 1), ("op-2", 2), ("op-3", 3)]);
        assert_eq!(verify(&stranger), Err(OrderFault::Stranger { name: id("op-3") }));
    }

    #[test]
    fn what_was_signed_is_what_counts() {
        let operators = Operators::new(&configured());
        let good = signed(&order(), &[("op-1", 1), ("op-2", 2)]);
        let changes: [fn(&mut ForceOrder); 5] = [
            |order| order.ticket = id("other"),
            |order| order.to = bcp_wire::Site::A,
            |order| order.epoch.incarnation += 1,
            |order| order.expires_ms += 1,
            |order| order.reason.push('.'),
        ];
        for change in changes {
            let mut changed = good.clone();
            change(&mut changed.order);
            assert!(matches!(operators.verify(&changed, 999), Err(OrderFault::Signature { .. })), "{changed:?}");
        }
        assert_eq!(operators.verify(&good, 1_000), Err(OrderFault::Expired));
    }

    #[test]
    fn keys_are_checked_where_they_are_configured() {
        assert!(faults(&configured()).is_empty());
        let mut same = configured();
        same.insert(id("op-3"), same[&id("op-1")].clone());
        assert!(faults(&same)[0].1.contains("two people"));
        let bad = BTreeMap::from([(id("op-1"), "00".to_owned()), (id("op-2"), "00".repeat(32))]);
        assert_eq!(faults(&bad).len(), 2);
    }
}
