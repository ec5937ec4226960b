//! Both ends prove who they are, over a real socket.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::{Extension, Router, routing::get};
use bcp_identity::{Credentials, Identity, http_client, pki, serve};

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("bcp-identity-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const LIMIT: Duration = Duration::from_secs(5);

fn identity(text: &str) -> Identity {
    text.parse().unwrap()
}

fn issue(dir: &Path, text: &str) -> Credentials {
    pki::issue(dir, &identity(text), &["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap()
}

async fn start(
    credentials: Credentials,
) -> (SocketAddr, tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let app = Router::new().route("/who", get(|Extension(who): Extension<Identity>| async move { who.to_string() }));
    let task = tokio::spawn(async move { serve(listener, &credentials, app, stopped).await.unwrap() });
    (address, stop, task)
}

#[tokio::test]
async fn both_ends_are_checked() {
    let dir = Dir::new("both");
    pki::create_ca(&dir.0, "test").unwrap();
    let server = issue(&dir.0, "collector:w");
    let agent = issue(&dir.0, "agent:a:host-a");
    assert_eq!(std::fs::metadata(&agent.key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(agent.identity().unwrap(), identity("agent:a:host-a"));
    let (address, stop, task) = start(server).await;
    let url = format!("https://{address}/who");

    let client = http_client(&agent, &identity("collector:w"), LIMIT).unwrap();
    assert_eq!(client.get(&url).send().await.unwrap().text().await.unwrap(), "agent:a:host-a");

    let wrong = http_client(&agent, &identity("collector:b"), LIMIT).unwrap();
    assert!(wrong.get(&url).send().await.is_err(), "a client must not talk to another identity");

    let foreign = Dir::new("foreign");
    pki::create_ca(&foreign.0, "other").unwrap();
    let mut stranger = issue(&foreign.0, "agent:a:host-a");
    stranger.ca = dir.0.join("ca.pem");
    let stranger = http_client(&stranger, &identity("collector:w"), LIMIT).unwrap();
    assert!(stranger.get(&url).send().await.is_err(), "a certificate of another CA must be refused");

    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(3), task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let dir = Dir::new("renew");
    pki::create_ca(&dir.0, "test").unwrap();
    let server = issue(&dir.0, "collector:w");
    let agent = issue(&dir.0, "agent:a:host-a");
    let (address, stop, task) = start(server.clone()).await;
    let url = format!("https://{address}/who");
    // The server's files now say someone else: only a reload can make this visible.
    let other = issue(&dir.0, "collector:b");
    std::fs::copy(&other.key, &server.key).unwrap();
    std::fs::copy(&other.cert, &server.cert).unwrap();
    let client = http_client(&agent, &identity("collector:b"), LIMIT).unwrap();
    let seen = async {
        while client.get(&url).send().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, seen).await.unwrap();
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(3), task).await.unwrap().unwrap();
}
