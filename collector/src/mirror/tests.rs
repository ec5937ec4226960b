//! Real sockets, real files: what a reader of the public page gets.

use std::path::PathBuf;

use bcp_core::time::Wall;
use ed25519_dalek::SigningKey;

use super::*;
use crate::ShutdownTrigger;
use crate::web::public::export::{Publisher, load_or_make_key};
use crate::web::public::sample;

struct Site1 {
    dir: PathBuf,
    url: String,
    publisher: Publisher,
    keys: Arc<BTreeMap<Site, VerifyingKey>>,
    served: Arc<watch::Sender<Served>>,
    _trigger: ShutdownTrigger,
    shutdown: Shutdown,
}

fn now() -> Wall {
    Wall(snapshot::wall_ms(std::time::SystemTime::now()))
}

async fn start(name: &str) -> Site1 {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = std::env::temp_dir().join(format!("bcp-mirror-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let key: SigningKey = load_or_make_key(&dir.join("publish.key")).unwrap();
    let keys = Arc::new(BTreeMap::from([(Site::A, key.verifying_key())]));
    let publisher = Publisher::open(Site::A, &dir.join("publish.key"), &dir.join("export")).unwrap();
    let (sender, receiver) = watch::channel(None);
    let served = Arc::new(sender);
    let (trigger, shutdown) = Shutdown::manual();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(server::serve(listener, receiver, shutdown.clone()));
    tokio::spawn(source::watch_folder(dir.join("export"), keys.clone(), served.clone(), shutdown.clone()));
    Site1 { dir, url, publisher, keys, served, _trigger: trigger, shutdown }
}

impl Site1 {
    fn publish(&mut self, sequence: u64, as_of: Wall) {
        let mut model = sample::at(as_of, sample::sample(2));
        model.sequence = sequence;
        self.publisher.publish_model(&model, as_of).unwrap();
    }

    async fn reaches(&self, sequence: u64) {
        let mut receiver = self.served.subscribe();
        let there = receiver.wait_for(|served| served.as_ref().is_some_and(|s| s.manifest.sequence == sequence));
        tokio::time::timeout(std::time::Duration::from_secs(30), there).await.unwrap().unwrap();
    }

    async fn get(&self, path: &str) -> (u16, reqwest::header::HeaderMap, String) {
        let client = source::client().unwrap();
        let answer = client.get(format!("{}{path}", self.url)).send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        (status, headers, answer.text().await.unwrap())
    }
}

impl Drop for Site1 {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[tokio::test]
async fn pages_are_served_with_tags_and_headers() {
    let mut site = start("serve").await;
    let (status, _, body) = site.get("/nl/").await;
    assert_eq!(status, 503);
    assert!(body.contains("Onbekend"));
    site.publish(7, now());
    site.reaches(7).await;
    let (status, headers, body) = site.get("/nl/").await;
    assert_eq!(status, 200);
    assert!(body.contains("Storing bij 1 van 2 diensten"));
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("script-src 'sha256-") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(headers["x-content-type-options"], "nosniff");
    let client = source::client().unwrap();
    let again = client.get(format!("{}/nl/", site.url)).header("if-none-match", &headers["etag"]).send().await.unwrap();
    assert_eq!(again.status(), 304);
    let packed = client.get(format!("{}/nl/", site.url)).header("accept-encoding", "br").send().await.unwrap();
    assert_eq!(packed.headers()["content-encoding"], "br");
    let packed = packed.bytes().await.unwrap();
    let mut plain = Vec::new();
    brotli::BrotliDecompress(&mut &packed[..], &mut plain).unwrap();
    assert_eq!(plain, body.as_bytes());
    assert!(packed.len() <= 14 * 1024);
    let head = client.head(format!("{}/nl/", site.url)).send().await.unwrap();
    assert_eq!(head.headers()["content-length"].to_str().unwrap(), body.len().to_string());
}

#[tokio::test]
async fn odd_requests_are_refused() {
    let mut site = start("odd").await;
    site.publish(7, now());
    site.reaches(7).await;
    let client = source::client().unwrap();
    assert_eq!(client.post(format!("{}/nl/", site.url)).body("x").send().await.unwrap().status(), 405);
    assert_eq!(client.get(format!("{}/nl/", site.url)).body("x").send().await.unwrap().status(), 413);
    assert_eq!(site.get("/xx/").await.0, 404);
    assert_eq!(site.get("/../manifest.json/").await.0, 404);
    assert_eq!(site.get(&format!("/{}", "a".repeat(300))).await.0, 414);
    assert_eq!(site.get("/nl").await.1["location"], "/nl/");
    let root = client.get(&site.url).header("accept-language", "fr-BE,nl;q=0.5").send().await.unwrap();
    assert_eq!((root.status().as_u16(), root.headers()["location"].to_str().unwrap()), (302, "/fr/"));
}

#[tokio::test]
async fn after_its_time_a_publication_says_unknown() {
    let mut site = start("expired").await;
    site.publish(7, Wall(now().0 - 61_000));
    site.reaches(7).await;
    let (status, _, page) = site.get("/en/").await;
    assert_eq!(status, 200);
    assert!(page.contains("State unknown since") && page.contains("02 123"));
    assert!(site.get("/api/v2/status.json").await.2.contains("\"unknown\""));
    assert!(site.get("/healthz").await.2.contains("expired"));
    site.publish(8, now());
    site.reaches(8).await;
    assert!(!site.get("/en/").await.2.contains("State unknown since"));
}

#[tokio::test]
async fn a_mirror_takes_the_newest_from_an_origin_and_refuses_forgeries() {
    let (mut origin, mirror) = (start("origin").await, start("copy").await);
    origin.publish(9, now());
    origin.reaches(9).await;
    let from = source::Origin { site: Site::A, url: origin.url.clone(), client: source::client().unwrap() };
    // A mirror that knows another key for the site takes nothing.
    let stranger = Arc::new(mirror.keys.as_ref().clone());
    assert!(source::fetch_newer(&from, &stranger, &mirror.served).await.is_err());
    assert!(mirror.served.borrow().is_none());
    tokio::spawn(source::watch_origin(from, origin.keys.clone(), mirror.served.clone(), mirror.shutdown.clone()));
    mirror.reaches(9).await;
    assert_eq!(mirror.get("/de/").await.2, origin.get("/de/").await.2);
    // The same once more does not replace it.
    assert!(!offer(&mirror.served, Snapshot::read(&origin.dir.join("export"), &origin.keys).unwrap()));
}

#[tokio::test]
async fn a_changed_file_is_not_served() {
    let mut site = start("forged").await;
    site.publish(7, now());
    site.reaches(7).await;
    site.publish(8, now());
    let page = site.dir.join("export/current/nl/index.html");
    std::fs::write(&page, "all is well").unwrap();
    assert!(Snapshot::read(&site.dir.join("export"), &site.keys).is_err());
}
