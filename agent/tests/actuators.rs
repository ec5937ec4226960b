//! Built-in actuators as the programs that gates run, against the real haproxy and bind9.
//!
//! A peer that is not installed skips its test with a line that says so; with `BCP_STRICT=1` it fails instead.
#![allow(clippy::unwrap_used)]

mod support {
    pub mod process;
}

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use support::process::{Peer, command, installed, scratch, wait_for};

const DONE: i32 = 0;
const FAILED: i32 = 1;
const ALREADY: i32 = 10;
const VETO: i32 = 20;

/// One step, as a gate of `site` would run it.
fn step(actuator: &Value, name: &str, counter: u64, site: &str, more: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bcp-agent"));
    command
        .args(["act", "--ticket=rx", &format!("--actuators=[{actuator}]")])
        .env("BCP_STEP", name)
        .env("BCP_EPOCH", format!("1.{counter}"))
        .env("BCP_SITE", site)
        .env("BCP_HOLDER", site)
        .env("BCP_LIMIT", "5000")
        .envs(more.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn ended(output: &Output) -> (i32, String) {
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().next_back().unwrap_or_default();
    (output.status.code().unwrap(), format!("{line}{}", String::from_utf8_lossy(&output.stderr)))
}

fn act(actuator: &Value, name: &str, counter: u64, site: &str, more: &[(&str, &str)]) -> (i32, String) {
    ended(&step(actuator, name, counter, site, more).output().unwrap())
}

/// The outcome, and words that must be in what was said.
fn expect(actuator: &Value, name: &str, counter: u64, site: &str, code: i32, says: &str) {
    let (found, line) = act(actuator, name, counter, site, &[]);
    assert!(found == code && line.contains(says), "{name} at {site} under {counter}: {found}: {line}");
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Says its name to everybody and keeps the connection.
fn server(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            if stream.write_all(name.as_bytes()).is_ok() {
                kept.push(stream);
            }
        }
    });
    port
}

struct Proxy {
    peer: Peer,
    config: PathBuf,
    front: u16,
    socket: PathBuf,
}

impl Proxy {
    async fn start() -> Option<Proxy> {
        if !installed("haproxy", "haproxy") {
            return None;
        }
        let dir = scratch("act-haproxy");
        let (front, socket, config) = (free_port(), dir.join("admin.sock"), dir.join("haproxy.cfg"));
        let text = format!(
            "global\n  stats socket {0} mode 600 level admin\n  stats socket {0}.operator mode 600 level operator\n\
             defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 30s\n  timeout server 30s\n\
             listen rx\n  bind 127.0.0.1:{front}\n  server a1 127.0.0.1:{1}\n  server b1 127.0.0.1:{2} disabled\n",
            socket.display(),
            server("a"),
            server("b"),
        );
        std::fs::write(&config, text).unwrap();
        let proxy = Proxy { peer: Peer { child: Proxy::run(&config), dir }, config, front, socket };
        proxy.ready().await;
        Some(proxy)
    }

    fn run(config: &Path) -> Child {
        let log = std::fs::File::create(config.with_extension("log")).unwrap();
        let mut haproxy = command("haproxy");
        haproxy.args(["-db", "-f"]).arg(config).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    async fn ready(&self) {
        wait_for("haproxy", async || std::os::unix::net::UnixStream::connect(&self.socket).is_ok()).await;
    }

    /// Who serves a new client; `-` for nobody.
    fn serves(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.front)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => String::from_utf8_lossy(&byte).into_owned(),
            Ok(_) | Err(_) => "-".to_owned(),
        }
    }
}

#[tokio::test]
async fn haproxy_is_told_and_read_back() {
    let Some(mut proxy) = Proxy::start().await else { return };
    let servers = json!({"a": ["rx/a1"], "b": ["rx/b1"]});
    let haproxy = json!({"kind": "haproxy", "socket": proxy.socket, "servers": servers});
    assert_eq!(proxy.serves(), "a");
    // Another site was promoted: this one's clients follow it.
    let follow = act(&haproxy, "follow", 2, "a", &[("BCP_HOLDER", "b")]);
    assert_eq!(follow, (DONE, "haproxy: connections go to site b\n".trim().to_owned()));
    assert_eq!(proxy.serves(), "b");
    expect(&haproxy, "promote", 3, "a", ALREADY, "nothing to do");
    let own_only = json!({"kind": "haproxy", "socket": proxy.socket, "servers": {"b": ["rx/b1"]}});
    assert_eq!(act(&own_only, "follow", 2, "b", &[("BCP_HOLDER", "a")]).0, ALREADY);
    expect(&haproxy, "publish", 3, "a", DONE, "connections go to site a");
    expect(&haproxy, "publish", 3, "a", ALREADY, "connections go to site a");
    assert_eq!(proxy.serves(), "a");
    let late = act(&haproxy, "publish", 4, "b", &[("BCP_DEADLINE", "1")]);
    assert!(late.0 == FAILED && late.1.contains("the lease ran out"), "{late:?}");
    assert_eq!(proxy.serves(), "a", "nothing is changed after the lease");
    // A client that is connected is cut off by a stop, and a new one gets nothing.
    let mut client = TcpStream::connect(("127.0.0.1", proxy.front)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client.read_exact(&mut [0]).unwrap();
    expect(&haproxy, "verify-stopped", 3, "a", FAILED, "rx/a1 may get connections");
    expect(&haproxy, "stop", 3, "a", DONE, "closed");
    assert!(matches!(client.read(&mut [0]), Ok(0)) || client.read(&mut [0]).is_err(), "the old connection lives");
    expect(&haproxy, "stop", 3, "a", ALREADY, "it is closed");
    expect(&haproxy, "verify-stopped", 3, "a", DONE, "it is closed");
    assert_eq!(proxy.serves(), "-");
    // Active-active: both are there, by shares.
    for site in ["a", "b"] {
        let set = format!("set server rx/{site}1 state ready\n");
        std::os::unix::net::UnixStream::connect(&proxy.socket).unwrap().write_all(set.as_bytes()).unwrap();
    }
    let weigh = |shares: &str| act(&haproxy, "weigh", 5, "a", &[("BCP_PARAMS", shares)]);
    assert_eq!(weigh(r#"{"a":"0","b":"100"}"#).0, DONE);
    assert!((0..6).all(|_| proxy.serves() == "b"));
    assert_eq!(weigh(r#"{"a":"0","b":"100"}"#).0, ALREADY);
    assert_eq!(weigh(r#"{"a":"50","b":"50"}"#).0, DONE);
    let both: std::collections::BTreeSet<String> = (0..8).map(|_| proxy.serves()).collect();
    assert_eq!(both.len(), 2, "{both:?}");
    assert_eq!(weigh(r#"{"a":"101"}"#).0, FAILED);
    // What is wrong is said in HAProxy's words.
    let operator =
        json!({"kind": "haproxy", "socket": format!("{}.operator", proxy.socket.display()), "servers": servers});
    expect(&operator, "stop", 6, "a", FAILED, "Permission denied");
    let unknown = json!({"kind": "haproxy", "socket": proxy.socket, "servers": {"a": ["rx/a9"]}});
    expect(&unknown, "stop", 6, "a", FAILED, "backend rx has no server a9");
    let backend = json!({"kind": "haproxy", "socket": proxy.socket, "servers": {"a": ["ry/a1"]}});
    expect(&backend, "publish", 6, "a", FAILED, "Can't find backend");
    // One that does not run forwards nothing; it cannot be published through either.
    proxy.peer.child.kill().unwrap();
    proxy.peer.child.wait().unwrap();
    expect(&haproxy, "stop", 6, "a", ALREADY, "haproxy does not run");
    expect(&haproxy, "verify-stopped", 6, "a", DONE, "haproxy does not run");
    expect(&haproxy, "publish", 7, "a", FAILED, "nothing can be asked");
    proxy.peer.child = Proxy::run(&proxy.config);
    proxy.ready().await;
}

const SECRET: &str = "c2VjcmV0LW9mLXRoZS10ZXN0LWtleS0zMi1ieXRlcy4=";

struct Named {
    peer: Peer,
    port: u16,
}

impl Named {
    async fn start(name: &str) -> Option<Named> {
        if !installed("named", "bind9") {
            return None;
        }
        let dir = scratch(name);
        let (port, at) = (free_port(), dir.display());
        std::fs::write(
            dir.join("zone"),
            "$TTL 60\n@ IN SOA ns.example.test. op.example.test. 1 3600 600 86400 60\n@ IN NS ns.example.test.\nns IN A 127.0.0.1\n",
        )
        .unwrap();
        let config = format!(
            r#"
            options {{ directory "{at}"; pid-file "{at}/pid"; session-keyfile "{at}/session"; recursion no;
                listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; dnssec-validation no; }};
            controls {{ }};
            key "gate" {{ algorithm hmac-sha256; secret "{SECRET}"; }};
            key "long" {{ algorithm hmac-sha512; secret "{SECRET}"; }};
            key "reader" {{ algorithm hmac-sha256; secret "{SECRET}"; }};
            zone "example.test" {{ type primary; file "{at}/zone"; update-policy {{
                grant gate name rx.example.test. A AAAA; grant gate name _bcp.rx.example.test. TXT;
                grant long name rx.example.test. A AAAA; grant long name _bcp.rx.example.test. TXT; }}; }};
            "#
        );
        std::fs::write(dir.join("named.conf"), config).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let mut named = command("named");
        named.args(["-g", "-n", "1", "-c"]).arg(dir.join("named.conf")).stdout(Stdio::null()).stderr(log);
        std::fs::write(dir.join("key"), format!("{SECRET}\n")).unwrap();
        std::fs::write(dir.join("wrong"), "bm90IHRoaXMgb25l").unwrap();
        std::fs::write(dir.join("garbage"), "%%%").unwrap();
        let named = Named { peer: Peer { child: named.spawn().unwrap(), dir }, port };
        wait_for("named", async || TcpStream::connect(("127.0.0.1", named.port)).is_ok()).await;
        Some(named)
    }

    /// The actuator of a site whose address is `address`.
    fn site(&self, address: &str) -> Value {
        json!({"kind": "dns", "server": format!("127.0.0.1:{}", self.port), "zone": "example.test", "name": "rx.example.test",
            "addresses": [address], "key": "gate", "key_file": self.peer.dir.join("key")})
    }

    fn dig(&self, name: &str, kind: &str) -> String {
        let port = self.port.to_string();
        let output = command("dig").args(["@127.0.0.1", "-p", &port, "+short", name, kind]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn address(&self) -> String {
        self.dig("rx.example.test", "A")
    }

    fn mark(&self) -> String {
        self.dig("_bcp.rx.example.test", "TXT").replace('"', "")
    }

    fn forget(&self) {
        let script = format!(
            "server 127.0.0.1 {}\nzone example.test\nupdate delete rx.example.test A\nupdate delete _bcp.rx.example.test TXT\nsend\n",
            self.port
        );
        self.nsupdate(&script);
    }

    fn nsupdate(&self, script: &str) {
        let mut child = command("nsupdate")
            .args(["-y", &format!("hmac-sha256:gate:{SECRET}")])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }
}

const A: &str = "10.1.0.10";
const B: &str = "10.2.0.10";

#[tokio::test]
async fn dns_carries_the_epoch_and_no_older_one_comes_back() {
    let Some(named) = Named::start("act-named").await else { return };
    let (a, b) = (named.site(A), named.site(B));
    expect(&a, "publish", 4, "a", DONE, "points here under epoch 1.4");
    assert_eq!((named.address(), named.mark()), (A.to_owned(), "v=bcp1 ticket=rx epoch=1.4 site=a".to_owned()));
    expect(&a, "publish", 4, "a", ALREADY, "points here under epoch 1.4");
    expect(&b, "publish", 4, "b", VETO, "site a published under epoch 1.4 already");
    expect(&b, "publish", 3, "b", VETO, "site a published under epoch 1.4, later than 1.3");
    expect(&b, "publish", 5, "b", DONE, "under epoch 1.5");
    assert_eq!((named.address(), named.mark()), (B.to_owned(), "v=bcp1 ticket=rx epoch=1.5 site=b".to_owned()));
    expect(&a, "publish", 4, "a", VETO, "later than 1.4");
    assert_eq!(named.address(), B);
    // What is taken down needs no change here, and no server either.
    let mut gone = a.clone();
    gone["server"] = json!("127.0.0.1:1");
    for name in ["stop", "seal", "verify-stopped", "promote", "follow"] {
        expect(&gone, name, 5, "a", ALREADY, "nothing to do");
    }
    expect(&gone, "publish", 6, "a", FAILED, "no exchange with 127.0.0.1:1");
    let late = act(&a, "publish", 6, "a", &[("BCP_DEADLINE", "1")]);
    assert!(late.0 == FAILED && late.1.contains("the lease ran out") && named.address() == B, "{late:?}");
    // Addresses that were changed by hand are set right under the same epoch; SHA-512 and two families.
    let mut wide = b.clone();
    wide["addresses"] = json!([B, "2001:db8::10"]);
    (wide["key"], wide["algorithm"], wide["ttl_s"]) = (json!("long"), json!("hmac-sha512"), json!(5));
    expect(&wide, "publish", 5, "b", DONE, "under epoch 1.5");
    assert_eq!((named.address(), named.dig("rx.example.test", "AAAA")), (B.to_owned(), "2001:db8::10".to_owned()));
}

#[tokio::test]
async fn dns_says_what_the_server_does_not_take() {
    let Some(named) = Named::start("act-named-bad").await else { return };
    let good = named.site(A);
    let with = |key: &str, value: Value| {
        let mut changed = good.clone();
        changed[key] = value;
        changed
    };
    let file = |name: &str| json!(named.peer.dir.join(name));
    for (actuator, says) in [
        (with("key_file", file("wrong")), "the secret is not the one it knows"),
        (with("key", json!("nobody")), "it does not know a key of this name"),
        (with("algorithm", json!("hmac-sha512")), "refuses"),
        (with("key", json!("reader")), "may the key update this name"),
        (with("key_file", file("garbage")), "does not hold the secret"),
        (with("key_file", file("missing")), "cannot be read"),
        (with("zone", json!("test")), "127.0.0.1"),
    ] {
        expect(&actuator, "publish", 4, "a", FAILED, says);
    }
    assert_eq!((named.address(), named.mark()), (String::new(), String::new()), "nothing was written");
    named.nsupdate(&format!(
        "server 127.0.0.1 {}\nzone example.test\nupdate add _bcp.rx.example.test 60 TXT \"somebody's own\"\nsend\n",
        named.port
    ));
    expect(&good, "publish", 4, "a", FAILED, "holds `somebody's own`, which no gate of ticket rx wrote");
}

/// Passes connections on to a name server; the second one of a step, its update, waits for a word. Its answer may be lost.
struct Delay {
    address: SocketAddr,
    arrived: Arc<AtomicUsize>,
    held: Arc<AtomicBool>,
    lose_answer: Arc<Mutex<bool>>,
}

impl Delay {
    fn new(to: u16) -> Delay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let delay = Delay {
            address: listener.local_addr().unwrap(),
            arrived: Arc::default(),
            held: Arc::default(),
            lose_answer: Arc::default(),
        };
        let (arrived, held, lose) =
            (Arc::clone(&delay.arrived), Arc::clone(&delay.held), Arc::clone(&delay.lose_answer));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (mut client, mut server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", to)).unwrap());
                let message = read_message(&mut client);
                // RFC 1035 section 4.1.1: the operation is in the third byte.
                let is_update = message[4] >> 3 & 0xf == 5;
                if is_update {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    while held.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
                server.write_all(&message).unwrap();
                let answer = read_message(&mut server);
                if !(is_update && *lose.lock().unwrap()) {
                    client.write_all(&answer).unwrap();
                }
            }
        });
        delay
    }
}

/// A message with its length before it.
fn read_message(stream: &mut TcpStream) -> Vec<u8> {
    let mut message = vec![0; 2];
    stream.read_exact(&mut message).unwrap();
    let length = usize::from(u16::from_be_bytes([message[0], message[1]]));
    message.resize(2 + length, 0);
    stream.read_exact(&mut message[2..]).unwrap();
    message
}

/// Two gates between whose reading and writing the other one writes: in both orders, with and without a mark from before.
#[tokio::test]
async fn dns_races_end_with_the_later_epoch() {
    let Some(named) = Named::start("act-named-race").await else { return };
    let delay = Delay::new(named.port);
    let delayed = |address: &str| {
        let mut actuator = named.site(address);
        actuator["server"] = json!(delay.address);
        actuator
    };
    for had_mark in [false, true] {
        for (slow, quick, slow_ends) in [(5, 6, VETO), (6, 5, DONE)] {
            named.forget();
            if had_mark {
                expect(&named.site(B), "publish", 4, "b", DONE, "");
            }
            let seen = delay.arrived.load(Ordering::SeqCst);
            delay.held.store(true, Ordering::SeqCst);
            let child = step(&delayed(A), "publish", slow, "a", &[]).spawn().unwrap();
            wait_for("the slow gate's update", async || delay.arrived.load(Ordering::SeqCst) > seen).await;
            expect(&named.site(B), "publish", quick, "b", DONE, "");
            delay.held.store(false, Ordering::SeqCst);
            let (code, line) = ended(&child.wait_with_output().unwrap());
            assert_eq!(code, slow_ends, "slow {slow}, quick {quick}, mark {had_mark}: {line}");
            let (epoch, address) = if slow > quick { (slow, A) } else { (quick, B) };
            assert!(named.mark().contains(&format!("epoch=1.{epoch} ")), "{}", named.mark());
            assert_eq!(named.address(), address);
        }
    }
    // An update whose answer is lost was carried out all the same, and the next try finds that out.
    *delay.lose_answer.lock().unwrap() = true;
    expect(&delayed(A), "publish", 7, "a", FAILED, "no exchange");
    *delay.lose_answer.lock().unwrap() = false;
    expect(&delayed(A), "publish", 7, "a", ALREADY, "under epoch 1.7");
    assert_eq!(named.address(), A);
}

/// Whoever comes first: any number of gates at one time, and the latest epoch stands.
#[tokio::test]
async fn dns_many_gates_at_one_time() {
    let Some(named) = Named::start("act-named-many").await else { return };
    for round in 0..4_u64 {
        let epochs = [7, 3, 9, 5].map(|epoch| epoch + 10 * round);
        let children = epochs.map(|epoch| {
            let address = format!("10.0.0.{epoch}");
            (epoch, step(&named.site(&address), "publish", epoch, "a", &[]).spawn().unwrap())
        });
        let latest = 9 + 10 * round;
        for (epoch, child) in children {
            let (code, line) = ended(&child.wait_with_output().unwrap());
            let fine = if epoch == latest { code == DONE } else { [DONE, VETO].contains(&code) };
            assert!(fine, "round {round}, epoch {epoch}: {code}: {line}");
        }
        assert_eq!(named.address(), format!("10.0.0.{latest}"));
        assert_eq!(named.mark(), format!("v=bcp1 ticket=rx epoch=1.{latest} site=a"));
    }
}

/// Answers every request with the next of some answers and keeps what it was sent.
fn hook(answers: Vec<&'static str>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/rx", listener.local_addr().unwrap());
    let (kept, heard) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let said = Arc::clone(&heard);
    std::thread::spawn(move || {
        for (stream, answer) in listener.incoming().zip(answers) {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut part = [0; 4_096];
            let is_whole = |request: &[u8]| {
                let text = String::from_utf8_lossy(request).to_lowercase();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                body.len() >= length.parse::<usize>().unwrap()
            };
            while !is_whole(&request) {
                let read = stream.read(&mut part).unwrap();
                request.extend_from_slice(&part[..read]);
            }
            said.lock().unwrap().push(String::from_utf8(request).unwrap());
            if answer.is_empty() {
                // Never answered.
                kept.lock().unwrap().push(stream);
            } else {
                let head = format!("HTTP/1.1 {answer}\r\nConnection: close\r\n");
                stream.write_all(format!("{head}Content-Length: 6\r\n\r\nwell.\n").as_bytes()).unwrap();
            }
        }
    });
    (url, heard)
}

#[tokio::test]
async fn webhooks_are_told_the_whole_step_and_believed_by_their_status() {
    let dir = scratch("act-hook");
    std::fs::write(dir.join("token"), "letmein\n").unwrap();
    let answers = vec![
        "200 OK",
        "208 Already Reported",
        "409 Conflict",
        "500 Oh",
        "204 No Content",
        "302 Found\r\nLocation: http://127.0.0.1:1/",
        "200 OK",
        "",
    ];
    let (url, heard) = hook(answers);
    let token = json!({"kind": "http", "url": url, "token_file": dir.join("token")});
    let far = u64::MAX.to_string();
    let key = [("BCP_KEY", "rx:1.4:promote:a:host-a:1"), ("BCP_DEADLINE", far.as_str())];
    let (code, line) = act(&token, "promote", 4, "a", &key);
    assert_eq!((code, line.as_str()), (DONE, "webhook: well."));
    let request = heard.lock().unwrap()[0].clone();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let head = head.to_lowercase();
    assert!(head.starts_with("post /rx http/1.1"), "{head}");
    assert!(
        head.contains("authorization: bearer letmein") && head.contains("idempotency-key: rx:1.4:promote:a:host-a:1")
    );
    let body: Value = serde_json::from_str(body).unwrap();
    assert!(body["deadline_ms"].as_u64().is_some_and(|left| left > 1_000), "{body}");
    for (key, value) in [("ticket", "rx"), ("epoch", "1.4"), ("step", "promote"), ("site", "a"), ("holder", "a")] {
        assert_eq!(body[key], value);
    }
    expect(&token, "stop", 4, "a", ALREADY, "well.");
    expect(&token, "publish", 4, "a", VETO, "refused: well.");
    expect(&token, "verify-stopped", 4, "a", FAILED, "answered 500");
    expect(&token, "stop", 4, "a", FAILED, "answered 204");
    expect(&token, "stop", 4, "a", FAILED, "answered 302");
    let signed = json!({"kind": "http", "url": url, "hmac_file": dir.join("token")});
    expect(&signed, "stop", 4, "a", DONE, "well.");
    let request = heard.lock().unwrap().last().unwrap().to_lowercase();
    let signature = request.lines().find_map(|line| line.strip_prefix("bcp-signature: sha256=")).unwrap();
    assert_eq!(signature.len(), 64);
    assert!(!request.contains("authorization"));
    let slow = act(&token, "stop", 4, "a", &[("BCP_LIMIT", "300")]);
    assert!(slow.0 == FAILED && slow.1.contains("not done within its share of the step"), "{slow:?}");
    let keys: Vec<String> = heard.lock().unwrap().iter().map(|text| text.to_lowercase()).collect();
    let key = |text: &String| text.lines().find(|line| line.starts_with("idempotency-key: ")).unwrap().to_owned();
    assert_ne!(key(&keys[1]), key(&keys[4]), "a stop is a call of its own each time");
    let late = act(&token, "promote", 4, "a", &[("BCP_DEADLINE", "1")]);
    assert!(late.0 == FAILED && late.1.contains("the lease ran out"), "{late:?}");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn what_is_no_step_is_refused() {
    let good = json!({"kind": "systemd", "unit": "rx.service", "systemctl": "/bin/false"});
    let usage = |command: &mut Command, says: &str| {
        let (code, line) = ended(&command.output().unwrap());
        assert!(code == 64 && line.contains(says), "{code}: {line}");
    };
    usage(step(&good, "dance", 4, "a", &[]).env("BCP_PARAMS", "{}"), "BCP_STEP is `dance`");
    usage(step(&good, "stop", 4, "a", &[]).env_remove("BCP_STEP"), "BCP_STEP is not set");
    usage(&mut step(&json!({"kind": "sysv"}), "stop", 4, "a", &[]), "unknown variant `sysv`");
    let unit = json!({"kind": "systemd", "unit": "../rx.service"});
    usage(&mut step(&unit, "stop", 4, "a", &[]), "is not a unit's name");
    usage(Command::new(env!("CARGO_BIN_EXE_bcp-agent")).args(["act", "--ticket=rx"]), "--config");
}
