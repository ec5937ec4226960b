//! The user-based security model of SNMPv3: keys, signatures, encryption (RFC 3414, 3826, 7860).
//!
//! Knows: algorithms and which key belongs to which engine. Refuses to know: messages, sockets, time.
//!
//! Keys longer than a digest are made as draft-blumenthal-aes-usm-04 says (`aes192`, `aes256`), or as
//! draft-reeder-snmpv3-usm-3desede-00 says (`aes192c`, `aes256c`, which Cisco and others use).
//! Secrets are never printed.

use std::fmt;
use std::sync::OnceLock;

use aes::cipher::generic_array::GenericArray;
use aes::cipher::{AsyncStreamCipher, BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use hmac::{Hmac, Mac};
use sha2::Digest;

/// RFC 3414, section 11.2: shorter passwords must not be accepted.
pub const MIN_PASSWORD_BYTES: usize = 8;
/// RFC 3414, A.2: a password is repeated up to this length before it is hashed.
const PASSWORD_STRETCH_BYTES: usize = 1 << 20;
const DES_BLOCK_BYTES: usize = 8;
const SALT_BYTES: usize = 8;

/// How messages are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthProtocol {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// How messages are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrivProtocol {
    Des,
    Aes128,
    Aes192,
    Aes256,
    /// Key extension of Reeder.
    Aes192c,
    Aes256c,
}

/// A password or key that is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Secret {
        Secret(bytes.into())
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Who asks, and with what.
#[derive(Debug)]
pub struct User {
    pub name: String,
    pub context: String,
    pub auth: Option<(AuthProtocol, Secret)>,
    /// Only together with `auth`.
    pub privacy: Option<(PrivProtocol, Secret)>,
    /// The passwords' keys before an engine is known: they cost a mebibyte of hashing each.
    stretched: OnceLock<(Secret, Secret)>,
}

impl PartialEq for User {
    fn eq(&self, other: &User) -> bool {
        (&self.name, &self.context, &self.auth, &self.privacy)
            == (&other.name, &other.context, &other.auth, &other.privacy)
    }
}

impl Eq for User {}

/// A user's keys at one engine.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    auth: Option<(AuthProtocol, Secret)>,
    privacy: Option<(PrivProtocol, Secret)>,
}

/// Why something cannot be decrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what came cannot be decrypted with our key")]
pub struct Undecryptable;

impl AuthProtocol {
    /// Bytes of a signature in a message.
    #[must_use]
    pub const fn signature_bytes(self) -> usize {
        match self {
            AuthProtocol::Md5 | AuthProtocol::Sha1 => 12,
            AuthProtocol::Sha224 => 16,
            AuthProtocol::Sha256 => 24,
            AuthProtocol::Sha384 => 32,
            AuthProtocol::Sha512 => 48,
        }
    }

    fn hash<'p>(self, parts: impl Iterator<Item = &'p [u8]>) -> Vec<u8> {
        fn run<'p, D: Digest>(parts: impl Iterator<Item = &'p [u8]>) -> Vec<u8> {
            let mut digest = D::new();
            for part in parts {
                digest.update(part);
            }
            digest.finalize().to_vec()
        }
        match self {
            AuthProtocol::Md5 => run::<md5::Md5>(parts),
            AuthProtocol::Sha1 => run::<sha1::Sha1>(parts),
            AuthProtocol::Sha224 => run::<sha2::Sha224>(parts),
            AuthProtocol::Sha256 => run::<sha2::Sha256>(parts),
            AuthProtocol::Sha384 => run::<sha2::Sha384>(parts),
            AuthProtocol::Sha512 => run::<sha2::Sha512>(parts),
        }
    }

    fn hmac(self, key: &[u8], parts: [&[u8]; 3]) -> Vec<u8> {
        macro_rules! run {
            ($hash:ty) => {{
                // HMAC takes keys of any length.
                let Ok(mut mac) = <Hmac<$hash> as Mac>::new_from_slice(key) else { return Vec::new() };
                for part in parts {
                    mac.update(part);
                }
                mac.finalize().into_bytes().to_vec()
            }};
        }
        match self {
            AuthProtocol::Md5 => run!(md5::Md5),
            AuthProtocol::Sha1 => run!(sha1::Sha1),
            AuthProtocol::Sha224 => run!(sha2::Sha224),
            AuthProtocol::Sha256 => run!(sha2::Sha256),
            AuthProtocol::Sha384 => run!(sha2::Sha384),
            AuthProtocol::Sha512 => run!(sha2::Sha512),
        }
    }

    /// RFC 3414, A.2: a password to a key, without an engine yet.
    fn stretch(self, password: &[u8]) -> Vec<u8> {
        if password.is_empty() {
            return Vec::new();
        }
        // Whole passwords at a time, so that hashing is fast; the last one is cut.
        let many = password.repeat(4_096 / password.len() + 1);
        let mut left = PASSWORD_STRETCH_BYTES;
        let parts = std::iter::from_fn(|| {
            let part = many.get(..left.min(many.len()))?;
            left -= part.len();
            (!part.is_empty()).then_some(part)
        });
        self.hash(parts)
    }

    fn localise(self, key: &[u8], engine: &[u8]) -> Vec<u8> {
        self.hash([key, engine, key].into_iter())
    }
}

impl PrivProtocol {
    const fn key_bytes(self) -> usize {
        match self {
            PrivProtocol::Des | PrivProtocol::Aes128 => 16,
            PrivProtocol::Aes192 | PrivProtocol::Aes192c => 24,
            PrivProtocol::Aes256 | PrivProtocol::Aes256c => 32,
        }
    }

    /// A localised key as long as this cipher needs it.
    fn extend(self, mut key: Vec<u8>, auth: AuthProtocol, engine: &[u8]) -> Vec<u8> {
        let mut last = key.clone();
        while key.len() < self.key_bytes() {
            last = match self {
                PrivProtocol::Aes192c | PrivProtocol::Aes256c => auth.localise(&auth.stretch(&last), engine),
                _ => auth.hash(std::iter::once(key.as_slice())),
            };
            if last.is_empty() {
                break;
            }
            key.extend_from_slice(&last);
        }
        key.truncate(self.key_bytes());
        key
    }

    fn initial_vector(self, key: &[u8], boots: u32, time: u32, salt: [u8; SALT_BYTES]) -> Vec<u8> {
        if self == PrivProtocol::Des {
            let pre = key.get(DES_BLOCK_BYTES..).unwrap_or_default();
            return pre.iter().zip(salt).map(|(a, b)| a ^ b).collect();
        }
        [&boots.to_be_bytes()[..], &time.to_be_bytes(), &salt].concat()
    }
}

impl User {
    #[must_use]
    pub fn new(
        name: String,
        context: String,
        auth: Option<(AuthProtocol, Secret)>,
        privacy: Option<(PrivProtocol, Secret)>,
    ) -> User {
        User { name, context, auth, privacy, stretched: OnceLock::new() }
    }

    /// Keys at an engine.
    #[must_use]
    pub fn keys(&self, engine: &[u8]) -> Keys {
        let Some((auth, password)) = &self.auth else { return Keys::default() };
        let (auth_key, priv_key) = self.stretched.get_or_init(|| {
            let privacy = self.privacy.as_ref().map(|(_, password)| auth.stretch(&password.0));
            (Secret(auth.stretch(&password.0)), Secret(privacy.unwrap_or_default()))
        });
        let privacy = self.privacy.as_ref().map(|(cipher, _)| {
            let key = auth.localise(&priv_key.0, engine);
            (*cipher, Secret(cipher.extend(key, *auth, engine)))
        });
        Keys { auth: Some((*auth, Secret(auth.localise(&auth_key.0, engine)))), privacy }
    }
}

impl Keys {
    #[must_use]
    pub const fn signs(&self) -> bool {
        self.auth.is_some()
    }

    #[must_use]
    pub const fn encrypts(&self) -> bool {
        self.privacy.is_some()
    }

    /// Bytes a signature takes, 0 without one.
    #[must_use]
    pub fn signature_bytes(&self) -> usize {
        self.auth.as_ref().map_or(0, |(auth, _)| auth.signature_bytes())
    }

    /// Signature of a message, whose own place in it is `at` and counts as zeros.
    #[must_use]
    pub fn sign(&self, message: &[u8], at: usize) -> Vec<u8> {
        let Some((auth, key)) = &self.auth else { return Vec::new() };
        let length = auth.signature_bytes();
        let zeros = vec![0; length];
        let (before, after) = (message.get(..at), message.get(at.saturating_add(length)..));
        let (Some(before), Some(after)) = (before, after) else { return Vec::new() };
        let mut signature = auth.hmac(&key.0, [before, &zeros, after]);
        signature.truncate(length);
        signature
    }

    /// True where the signature at `at` is the one of this user.
    #[must_use]
    pub fn verifies(&self, message: &[u8], at: usize, signature: &[u8]) -> bool {
        let expected = self.sign(message, at);
        // No early end: how much was right is nobody's business.
        let wrong = expected.iter().zip(signature).fold(0, |wrong, (a, b)| wrong | (a ^ b));
        !expected.is_empty() && expected.len() == signature.len() && wrong == 0
    }

    /// Encrypts a scoped PDU. The salt must be another one each time.
    #[must_use]
    pub fn encrypt(&self, plain: &[u8], boots: u32, time: u32, salt: u64) -> Option<(Vec<u8>, [u8; SALT_BYTES])> {
        let (cipher, Secret(key)) = self.privacy.as_ref()?;
        let mut salt = salt.to_be_bytes();
        if *cipher == PrivProtocol::Des {
            // RFC 3414, 8.1.1.1: boots, then a number of our own.
            salt[..4].copy_from_slice(&boots.to_be_bytes());
        }
        let iv = cipher.initial_vector(key, boots, time, salt);
        let mut data = plain.to_vec();
        match cipher {
            PrivProtocol::Des => {
                data.resize(plain.len().next_multiple_of(DES_BLOCK_BYTES), 0);
                let mut cbc = cbc::Encryptor::<des::Des>::new_from_slices(key.get(..8)?, &iv).ok()?;
                for block in data.chunks_exact_mut(DES_BLOCK_BYTES) {
                    cbc.encrypt_block_mut(GenericArray::from_mut_slice(block));
                }
            }
            PrivProtocol::Aes128 => {
                cfb_mode::Encryptor::<aes::Aes128>::new_from_slices(key, &iv).ok()?.encrypt(&mut data)
            }
            PrivProtocol::Aes192 | PrivProtocol::Aes192c => {
                cfb_mode::Encryptor::<aes::Aes192>::new_from_slices(key, &iv).ok()?.encrypt(&mut data);
            }
            PrivProtocol::Aes256 | PrivProtocol::Aes256c => {
                cfb_mode::Encryptor::<aes::Aes256>::new_from_slices(key, &iv).ok()?.encrypt(&mut data);
            }
        }
        Some((data, salt))
    }

    /// Decrypts a scoped PDU; what is behind its end is padding.
    ///
    /// # Errors
    /// No key, or lengths that cannot be right. A wrong key gives nonsense, which the signature excludes.
    pub fn decrypt(&self, secret: &[u8], boots: u32, time: u32, salt: &[u8]) -> Result<Vec<u8>, Undecryptable> {
        let (cipher, Secret(key)) = self.privacy.as_ref().ok_or(Undecryptable)?;
        let salt: [u8; SALT_BYTES] = salt.try_into().map_err(|_| Undecryptable)?;
        let iv = cipher.initial_vector(key, boots, time, salt);
        let mut data = secret.to_vec();
        match cipher {
            PrivProtocol::Des => {
                if !data.len().is_multiple_of(DES_BLOCK_BYTES) {
                    return Err(Undecryptable);
                }
                let key = key.get(..8).ok_or(Undecryptable)?;
                let mut cbc = cbc::Decryptor::<des::Des>::new_from_slices(key, &iv).map_err(|_| Undecryptable)?;
                for block in data.chunks_exact_mut(DES_BLOCK_BYTES) {
                    cbc.decrypt_block_mut(GenericArray::from_mut_slice(block));
                }
            }
            PrivProtocol::Aes128 => {
                let cfb = cfb_mode::Decryptor::<aes::Aes128>::new_from_slices(key, &iv);
                cfb.map_err(|_| Undecryptable)?.decrypt(&mut data);
            }
            PrivProtocol::Aes192 | PrivProtocol::Aes192c => {
                let cfb = cfb_mode::Decryptor::<aes::Aes192>::new_from_slices(key, &iv);
                cfb.map_err(|_| Undecryptable)?.decrypt(&mut data);
            }
            PrivProtocol::Aes256 | PrivProtocol::Aes256c => {
                let cfb = cfb_mode::Decryptor::<aes::Aes256>::new_from_slices(key, &iv);
                cfb.map_err(|_| Undecryptable)?.decrypt(&mut data);
            }
        }
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        use std::fmt::Write as _;
        bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    const ENGINE: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

    #[test]
    fn keys_of_the_standard() {
        // RFC 3414, A.3.1 and A.3.2.
        for (auth, stretched, localised) in [
            (AuthProtocol::Md5, "9faf3283884e92834ebc9847d8edd963", "526f5eed9fcce26f8964c2930787d82b"),
            (
                AuthProtocol::Sha1,
                "9fb5cc0381497b3793528939ff788d5d79145211",
                "6695febc9288e36282235fc7151f128497b38f3f",
            ),
        ] {
            let key = auth.stretch(b"maplesyrup");
            assert_eq!(hex(&key), stretched);
            assert_eq!(hex(&auth.localise(&key, &ENGINE)), localised);
        }
    }

    #[test]
    fn what_is_encrypted_can_be_decrypted_with_that_key_only() {
        use PrivProtocol as P;
        for auth in [AuthProtocol::Md5, AuthProtocol::Sha224, AuthProtocol::Sha512] {
            for cipher in [P::Des, P::Aes128, P::Aes192, P::Aes256, P::Aes192c, P::Aes256c] {
                let user = |password: &str| {
                    let secret = || Secret::new(password);
                    User::new("u".to_owned(), String::new(), Some((auth, secret())), Some((cipher, secret())))
                };
                let keys = user("maplesyrup").keys(&ENGINE);
                let plain: Vec<u8> = (0..57).collect();
                let (secret, salt) = keys.encrypt(&plain, 7, 1_000, 42).unwrap();
                assert_ne!(secret[..57], plain);
                assert_eq!(keys.decrypt(&secret, 7, 1_000, &salt).unwrap()[..57], plain);
                let other = user("maplesyrop").keys(&ENGINE);
                assert_ne!(other.decrypt(&secret, 7, 1_000, &salt).unwrap()[..57], plain);
                assert_eq!(keys.decrypt(&secret, 7, 1_000, &salt[1..]), Err(Undecryptable));
                let signature = keys.sign(&plain, 3);
                assert!(keys.verifies(&plain, 3, &signature));
                assert!(!keys.verifies(&plain, 4, &signature) && !other.verifies(&plain, 3, &signature));
                assert!(!keys.verifies(&plain, 3, &signature[1..]) && !keys.verifies(&plain, 3, b""));
            }
        }
    }

    #[test]
    fn passwords_are_not_printed() {
        let secret = || Secret::new("maplesyrup");
        let auth = (AuthProtocol::Md5, secret());
        let user = User::new("u".to_owned(), String::new(), Some(auth), Some((PrivProtocol::Des, secret())));
        let _ = user.keys(&ENGINE);
        assert!(!format!("{user:?}{:?}", user.keys(&ENGINE)).contains("maple"));
    }
}
