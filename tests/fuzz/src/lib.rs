//! Every parser of bytes from outside as one function over bytes, with valid bytes made by our own encoders.
//!
//! Knows: how to hand any bytes to a parser, also behind checksums and signatures that no chance gets right, and what must
//! hold of whatever it accepts. Refuses to know: how bytes are chosen; that is `tests/hostile_bytes.rs` (valid bytes,
//! changed a little: in every test run) and libFuzzer (`tests/run fuzz`).
//!
//! | module | bytes of |
//! |---|---|
//! | [`device`] | Modbus and SNMP devices, trap senders, name servers |
//! | [`files`] | configurations, profiles, rules; damaged spool, journal and chunks |
//! | [`message`] | MQTT payloads, gates, operators, peers |
//! | [`web`] | published manifests, requests to the API, answers of the long-term database |
//!
//! A target panics where an invariant of the parser is broken, and nowhere else.

pub mod device;
pub mod files;
pub mod found;
pub mod message;
pub mod web;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// One parser.
#[derive(Debug)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Bytes that are accepted; at least one.
    valid: fn() -> Vec<Vec<u8>>,
    /// Parts of its grammar that chance would hardly find, with spaces between.
    pub words: &'static str,
}

impl Target {
    /// Where changes begin: valid bytes, and what did harm once.
    #[must_use]
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        let found = found::FOUND.iter().filter(|found| found.target == self.name);
        (self.valid)().into_iter().chain(found.map(|found| found.bytes.to_vec())).collect()
    }
}

macro_rules! targets {
    ($($module:ident::$name:ident, $words:expr;)+) => {
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($name),
            run: $module::$name::run,
            valid: $module::$name::valid,
            words: $words,
        }),+];
    };
}

targets! {
    device::modbus_tcp, "";
    device::modbus_rtu, "";
    device::snmp_answer, "";
    device::snmp_v3, "";
    device::trap, "";
    device::dns_answer, "";
    files::profile, files::PROFILE_WORDS;
    files::agent_config, files::CONFIG_WORDS;
    files::spool, "";
    files::collector_config, files::CONFIG_WORDS;
    files::rule, files::RULE_WORDS;
    files::timeline, files::RULE_WORDS;
    files::journal, "";
    files::chunk, "";
    message::to_agent, message::WORDS;
    message::intake, message::WORDS;
    message::control, message::WORDS;
    message::decide, message::WORDS;
    web::manifest, message::WORDS;
    web::api_request, web::REQUEST_WORDS;
    web::influx_answer, "";
}

/// A directory of this process' own for targets that read files: below `TMPDIR`, else in memory where there is such a place.
#[must_use]
pub fn scratch() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let in_memory = std::env::var_os("TMPDIR").is_none() && memory.is_dir();
        let base = if in_memory { memory.to_owned() } else { std::env::temp_dir() };
        let dir = base.join(format!("bcp-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for temporary files can be made");
        dir
    })
}

/// A new name in [`scratch`].
#[must_use]
pub fn scratch_name(prefix: &str) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    scratch().join(format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}
