//! VictoriaMetrics as a peer, and a proxy before it that does what servers do when they are not well.
//!
//! Knows: how to start the real server, how to ask what it holds, and how to refuse, delay and lose requests on their way.
//! Refuses to know: what the writer makes of it.
#![allow(dead_code, reason = "each user of this module takes a part of it")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::site::{Running, free_address, wait_for};

const START: Duration = Duration::from_secs(20);
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// The server's binary; none where it is not installed.
pub fn binary() -> Option<PathBuf> {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&dirs).map(|dir| dir.join("victoria-metrics"));
    found.find(|path| path.is_file())
}

pub struct Tsdb {
    pub process: Running,
    pub address: SocketAddr,
    pub dir: PathBuf,
}

impl Tsdb {
    /// None, said and with `BCP_STRICT=1` a failure, where it is not installed.
    pub fn start(dir: &Path) -> Option<Tsdb> {
        let Some(binary) = binary() else {
            assert!(std::env::var_os("BCP_STRICT").is_none_or(|v| v != "1"), "victoria-metrics is not installed");
            println!("skipped: victoria-metrics is not installed");
            return None;
        };
        let address = free_address();
        let dir = dir.join("tsdb");
        std::fs::create_dir_all(&dir).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let process = Command::new(binary)
            .args([
                format!("-storageDataPath={}", dir.join("data").display()),
                format!("-httpListenAddr={address}"),
                "-retentionPeriod=100y".to_owned(),
                // Samples of one series with one time are one sample, as in InfluxDB.
                "-dedup.minScrapeInterval=1ms".to_owned(),
                "-search.disableCache".to_owned(),
                "-search.maxUniqueTimeseries=2000000".to_owned(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Tsdb { process: Running(process), address, dir };
        let up = || get(address, "/health").filter(|answer| answer.contains("OK"));
        assert!(
            wait_for(START, up).is_some(),
            "{}",
            std::fs::read_to_string(server.dir.join("log")).unwrap_or_default()
        );
        Some(server)
    }

    /// Makes what was written visible to questions.
    pub fn flush(&self) {
        let _ = get(self.address, "/internal/force_flush");
    }

    /// Samples by series name and device, each time with its value, as often as the server holds it.
    pub fn samples(&self, name: &str) -> BTreeMap<String, Vec<(i64, f64)>> {
        self.flush();
        let query = format!("/api/v1/export?match%5B%5D=%7B__name__%3D~%22{name}%22%7D");
        let text = get(self.address, &query).unwrap_or_default();
        let mut found: BTreeMap<String, Vec<(i64, f64)>> = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with('{')) {
            let row: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|fault| panic!("{fault}: {line}"));
            let key = format!("{} {}", row["metric"]["__name__"], row["metric"]["device"]).replace('"', "");
            let times = row["timestamps"].as_array().unwrap().iter().filter_map(serde_json::Value::as_i64);
            let values = row["values"].as_array().unwrap().iter().filter_map(serde_json::Value::as_f64);
            found.entry(key).or_default().extend(times.zip(values));
        }
        found
    }
}

/// `GET`; the body where there is an answer. Chunked or not, lines are whole.
pub fn get(address: SocketAddr, path: &str) -> Option<String> {
    let stream = TcpStream::connect_timeout(&address, REQUEST_LIMIT).ok()?;
    stream.set_read_timeout(Some(REQUEST_LIMIT)).ok()?;
    let mut writer = stream.try_clone().ok()?;
    write!(writer, "GET {path} HTTP/1.0\r\nHost: tsdb\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    BufReader::new(stream).read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// What happens to a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It reaches the server.
    None,
    /// Nobody listens.
    Down,
    /// 429 with `Retry-After`.
    Busy { seconds: u64 },
    /// 413 above so many compressed bytes.
    TooLarge { above: usize },
    /// 400 for every request that holds this text.
    Poison { text: String },
    /// No answer; nothing reaches the server.
    Hang,
    /// It reaches the server, and the answer is lost.
    AnswerLost,
}

#[derive(Debug, Default)]
pub struct Log {
    /// When requests came, and how they were answered: 0 for not at all.
    pub requests: Vec<(Instant, u16)>,
}

pub struct Proxy {
    pub address: SocketAddr,
    fault: Arc<Mutex<Fault>>,
    pub log: Arc<Mutex<Log>>,
}

impl Proxy {
    pub fn start(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Proxy { address, fault: Arc::new(Mutex::new(Fault::None)), log: Arc::default() };
        let (fault, log) = (Arc::clone(&proxy.fault), Arc::clone(&proxy.log));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (fault, log) = (Arc::clone(&fault), Arc::clone(&log));
                std::thread::spawn(move || drop(serve(&stream, server, &fault, &log)));
            }
        });
        proxy
    }

    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    pub fn answered(&self, status: u16) -> usize {
        self.log.lock().unwrap().requests.iter().filter(|(_, answered)| *answered == status).count()
    }
}

fn serve(stream: &TcpStream, server: SocketAddr, fault: &Mutex<Fault>, log: &Mutex<Log>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        if *fault.lock().unwrap() == Fault::Down {
            return Ok(());
        }
        let mut head = String::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            head.push_str(&line);
            if line == "\r\n" {
                break;
            }
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let now = fault.lock().unwrap().clone();
        let came = Instant::now();
        let answer = match now {
            Fault::Down => None,
            Fault::Busy { seconds } => Some(format!("HTTP/1.1 429 x\r\nRetry-After: {seconds}\r\n")),
            Fault::TooLarge { above } if body.len() > above => Some("HTTP/1.1 413 x\r\n".to_owned()),
            Fault::Poison { ref text } if unpacked(&body).contains(text) => Some("HTTP/1.1 400 x\r\n".to_owned()),
            Fault::Hang => {
                log.lock().unwrap().requests.push((came, 0));
                // Until the other side gives up.
                let _ = reader.read(&mut [0]);
                return Ok(());
            }
            Fault::AnswerLost => {
                forward(server, &head, &body)?;
                None
            }
            Fault::None | Fault::TooLarge { .. } | Fault::Poison { .. } => {
                let said = forward(server, &head, &body)?;
                Some(said.lines().next().unwrap_or_default().to_owned() + "\r\n")
            }
        };
        let status = answer.as_ref().and_then(|head| head.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
        log.lock().unwrap().requests.push((came, status));
        let Some(answer) = answer else { return Ok(()) };
        write!(stream, "{answer}Content-Length: 0\r\n\r\n")?;
    }
}

fn unpacked(body: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(body).read_to_string(&mut text).unwrap();
    text
}

fn forward(server: SocketAddr, head: &str, body: &[u8]) -> std::io::Result<String> {
    let mut onward = TcpStream::connect(server)?;
    let (request, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    write!(onward, "{request}\r\nConnection: close\r\n{headers}")?;
    onward.write_all(body)?;
    let mut said = String::new();
    onward.read_to_string(&mut said)?;
    Ok(said)
}
