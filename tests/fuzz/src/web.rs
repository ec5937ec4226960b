//! HTTP: published manifests, requests to the read-only API, answers of the long-term database.

pub const REQUEST_WORDS: &str = "/api/v1/points /api/v1/history /api/v1/devices /api/v1/alarms /api/v1/services /api/v1/tickets \
    /api/v1/ledger /api/v1/events /api/v1/sites /api/v1/cluster /api/v1/ingest /explain ?device= &point= &from= &to= &after= &limit= &step= \
    &site= &kind= &state= &max= -1h -9000000000000000s now %00 %2F 9223372036854775807 -9223372036854775808 2026-11-22T08:00:00Z /metrics /healthz /readyz";

/// First byte: whether the rest is signed first, or the whole file.
pub mod manifest {
    use std::collections::BTreeMap;
    use std::sync::LazyLock;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use bcp_collector::web::public::manifest::{MAX_FILE_BYTES, Manifest};
    use bcp_collector::web::public::{sample, tree};
    use bcp_wire::Site;
    use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
    use serde_json::value::RawValue;

    const SIGN: u8 = 1;
    /// What every signature of a manifest begins with.
    const PURPOSE: &[u8] = b"bcp-fleet public manifest 1\n";

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[1; 32])
    }

    static KNOWN: LazyLock<BTreeMap<Site, VerifyingKey>> =
        LazyLock::new(|| BTreeMap::from([(Site::A, key().verifying_key())]));

    fn signed(inner: &[u8]) -> Option<Vec<u8>> {
        let raw = RawValue::from_string(String::from_utf8(inner.to_vec()).ok()?).ok()?;
        let signature = STANDARD.encode(key().sign(&[PURPOSE, raw.get().as_bytes()].concat()).to_bytes());
        Some(format!(r#"{{"manifest":{},"signature":"{signature}"}}"#, raw.get()).into_bytes())
    }

    pub fn run(bytes: &[u8]) {
        let Some((flags, rest)) = bytes.split_first() else { return };
        let whole = if flags & SIGN == 0 { Some(rest.to_vec()) } else { signed(rest) };
        let Some(manifest) = whole.and_then(|whole| Manifest::verify(&whole, &KNOWN).ok()) else { return };
        for (path, entry) in &manifest.files {
            assert!(entry.bytes <= MAX_FILE_BYTES, "a file that no mirror would hold");
            assert!(
                !path.contains("..") || path.split('/').all(|part| !part.starts_with('.')),
                "a path out of the tree: {path}"
            );
            assert!(!path.starts_with('/') && !path.contains("//"), "a path out of the tree: {path}");
        }
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        let model = sample::sample(1);
        let mut made =
            Manifest::of(&model, &tree::render(&model).expect("the sample is rendered"), Site::A, model.as_of);
        let few: Vec<String> = made.files.keys().take(3).cloned().collect();
        made.files.retain(|path, _| few.contains(path));
        let inner = serde_json::to_vec(&made).expect("a manifest can be written");
        let whole = made.sign(&key()).expect("a manifest can be signed");
        vec![[&[0][..], &whole].concat(), [&[SIGN][..], &inner].concat()]
    }
}

/// Path and query of a request to the API.
pub mod api_request {
    use std::sync::{Arc, LazyLock, Mutex};
    use std::time::Duration;

    use axum::Router;
    use axum::body::Body;
    use axum::http::Request;
    use bcp_collector::serve::view::{self, View};
    use bcp_collector::store::Store;
    use bcp_collector::store::ledger::Ledger;
    use bcp_collector::web::api::{Api, router};
    use bcp_core::time::Wall;
    use bcp_wire::Site;
    use tokio::runtime::Runtime;
    use tower::ServiceExt;

    use crate::scratch_name;

    static APP: LazyLock<(Runtime, Router)> = LazyLock::new(|| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let dir = scratch_name("api");
        let store = Arc::new(Store::open(&dir, Duration::from_secs(86_400)).expect("a new store"));
        let ledger = Arc::new(Mutex::new(Ledger::open(&dir.join("ledger.db")).expect("a new ledger")));
        let (writer, shared) = view::shared(View::empty(Site::A, Wall(1_790_000_000_000)));
        // Readers wait for as long as somebody writes.
        std::mem::forget(writer);
        let app = router(Api::new(Site::A, shared, store, ledger));
        (runtime, app)
    });

    pub fn run(bytes: &[u8]) {
        // A stream has no end; it is opened by no other words than these.
        if bytes.windows(6).any(|part| part == b"stream") {
            return;
        }
        let Ok(request) = Request::get(bytes).body(Body::empty()) else { return };
        let (runtime, app) = &*APP;
        let answer = runtime.block_on(app.clone().oneshot(request)).expect("the router always answers");
        let status = answer.status().as_u16();
        assert!(status < 500 || status == 503, "{status}");
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        let paths = [
            "/api/v1/devices?site=a&kind=ups&limit=5",
            "/api/v1/points?device=ups-a1&point=battery.charge",
            "/api/v1/history?device=ups-a1&point=battery.charge&from=1790000000000&to=1790003600000&max=10",
            "/api/v1/history?device=ups-a1&point=battery.charge&from=2026-11-22T08:00:00Z&to=-1h",
            "/api/v1/events?device=ups-a1&limit=5",
            "/api/v1/ledger?after=0&limit=5",
            "/api/v1/tickets/rx/explain",
            "/metrics",
        ];
        paths.map(|path| path.as_bytes().to_vec()).to_vec()
    }
}

/// First two bytes: the status. Then a line for `Retry-After`. The rest: the text.
pub mod influx_answer {
    use bcp_collector::export::answer::{Answer, MAX_RETRY_AFTER, read};
    use time::OffsetDateTime;

    pub fn run(bytes: &[u8]) {
        let Some((status, rest)) = bytes.split_first_chunk::<2>() else { return };
        let rest = String::from_utf8_lossy(rest);
        let (header, text) = rest.split_once('\n').unwrap_or((&rest, ""));
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        for header in [Some(header), None] {
            if let Answer::Later { after: Some(after), .. } = read(u16::from_be_bytes(*status), header, text, now) {
                assert!(after <= MAX_RETRY_AFTER);
            }
        }
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        let answer = |status: u16, rest: &str| [&status.to_be_bytes()[..], rest.as_bytes()].concat();
        vec![
            answer(204, "\n"),
            answer(429, "30\n"),
            answer(503, "Sun, 06 Nov 1994 08:49:37 GMT\nlater"),
            answer(400, "\nunable to parse 'x'"),
            answer(413, "\n"),
        ]
    }
}
