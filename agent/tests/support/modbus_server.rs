//! A Modbus TCP server inside a test: it says what the test wants.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Time that a server gives its client to break the rule of one request at a time.
pub const TEMPTATION: Duration = Duration::from_millis(5);

/// One request as a server sees it.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub unit: u8,
    pub address: u16,
    pub count: u16,
    /// Requests of all connections before it.
    pub number: usize,
}

impl Asked {
    pub fn covers(self, address: u16) -> bool {
        (self.address..self.address + self.count).contains(&address)
    }

    /// Every register holds its own address.
    pub fn right(self) -> Reply {
        Reply::Words((self.address..self.address + self.count).collect())
    }
}

/// What the server says.
pub enum Reply {
    Words(Vec<u16>),
    Exception(u8),
    Silence,
}

/// Counters of a server.
#[derive(Debug, Default)]
pub struct Seen {
    pub requests: AtomicUsize,
    pub connections: AtomicUsize,
    pub open: AtomicUsize,
    pub most_open: AtomicUsize,
    /// Requests that came before the one before them was answered.
    pub overlapping: AtomicUsize,
}

/// A Modbus TCP server on a port of its own.
pub fn server(behave: impl Fn(Asked) -> Reply + Send + Sync + 'static) -> (u16, Arc<Seen>) {
    serve_for(Duration::ZERO, behave)
}

/// One that waits `temptation` for a second request before it answers the first.
pub fn serve_for(temptation: Duration, behave: impl Fn(Asked) -> Reply + Send + Sync + 'static) -> (u16, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (behave, seen) = (Arc::new(behave), Arc::new(Seen::default()));
    let counters = Arc::clone(&seen);
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            counters.connections.fetch_add(1, Ordering::SeqCst);
            let open = counters.open.fetch_add(1, Ordering::SeqCst) + 1;
            counters.most_open.fetch_max(open, Ordering::SeqCst);
            let (behave, counters) = (Arc::clone(&behave), Arc::clone(&counters));
            std::thread::spawn(move || {
                // It ends when the client goes.
                let _ = serve(stream, temptation, &*behave, &counters);
                counters.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (port, seen)
}

fn serve(
    mut stream: TcpStream,
    temptation: Duration,
    behave: &impl Fn(Asked) -> Reply,
    seen: &Seen,
) -> std::io::Result<()> {
    let mut request = [0; 12];
    loop {
        stream.read_exact(&mut request)?;
        let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        let number = seen.requests.fetch_add(1, Ordering::SeqCst);
        let asked = Asked { unit: request[6], address: word(8), count: word(10), number };
        if !temptation.is_zero() {
            stream.set_read_timeout(Some(temptation))?;
            let early = stream.peek(&mut [0]).is_ok_and(|bytes| bytes > 0);
            seen.overlapping.fetch_add(usize::from(early), Ordering::SeqCst);
            stream.set_read_timeout(None)?;
        }
        let pdu = match behave(asked) {
            Reply::Words(words) => {
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
                [&[request[7], u8::try_from(bytes.len()).unwrap()], bytes.as_slice()].concat()
            }
            Reply::Exception(code) => vec![request[7] | 0x80, code],
            Reply::Silence => continue,
        };
        let mut answer = request[..4].to_vec();
        answer.extend(u16::try_from(pdu.len() + 1).unwrap().to_be_bytes());
        answer.push(asked.unit);
        answer.extend(pdu);
        stream.write_all(&answer)?;
    }
}
