//! Links between sites: TCP proxies that can be cut, in one direction or both, delayed, and made to lose packets.
//!
//! Knows: which bytes go from which site to which, and whether the way is open.
//! Refuses to know: what the bytes mean.
//! Tasks: one per listener; per connection two readers and two writers, which end together.
//! Invariants: a cut resets nothing and loses nothing, bytes wait and go on when the link is healed; bytes of one
//! direction keep their order under any delay; what waits is bounded, so a long cut pushes back to the sender.

mod loss;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bcp_wire::Site;
use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub use loss::MAX_LOSS_PERCENT;

/// Bytes read at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks on their way in one direction of one connection: 512 KiB, about a TCP window of a national link.
const CHUNKS_UNDER_WAY: usize = 32;
/// Connections one listener carries: collectors and gates hold a handful each; a cut leaves a few per second behind.
const MAX_CONNECTIONS: usize = 512;
/// A connection whose sender has gone is kept this long behind a cut, as TCP itself would give up.
const ORPHAN_MS: u64 = 60_000;
/// Longest delay that can be asked for.
pub const MAX_DELAY_MS: u64 = 10_000;

/// State of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Way {
    pub cut: bool,
    pub delay_ms: u64,
    pub jitter_ms: u64,
    /// Of the packets; see [`loss`].
    pub loss_percent: u8,
}

/// One direction between two sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Direction {
    pub from: Site,
    pub to: Site,
}

impl Direction {
    #[must_use]
    pub const fn back(self) -> Direction {
        Direction { from: self.to, to: self.from }
    }
}

/// The state of all directions; writers are the fleet's orders, readers the proxies.
#[derive(Debug)]
pub struct Links {
    ways: BTreeMap<Direction, watch::Sender<Way>>,
    pub refused_connections: AtomicU64,
}

impl Default for Links {
    fn default() -> Self {
        let ways = Site::ALL
            .into_iter()
            .flat_map(|from| from.others().map(|to| Direction { from, to }))
            .map(|direction| (direction, watch::channel(Way::default()).0))
            .collect();
        Links { ways, refused_connections: AtomicU64::new(0) }
    }
}

impl Links {
    /// Changes one direction; connections in flight notice at once.
    pub fn set(&self, direction: Direction, change: impl FnOnce(&mut Way)) {
        if let Some(way) = self.ways.get(&direction) {
            way.send_modify(change);
        }
    }

    /// All directions and their state.
    #[must_use]
    pub fn state(&self) -> Vec<(Direction, Way)> {
        self.ways.iter().map(|(direction, way)| (*direction, *way.borrow())).collect()
    }

    fn watch(&self, direction: Direction) -> Option<watch::Receiver<Way>> {
        self.ways.get(&direction).map(watch::Sender::subscribe)
    }

    /// Serves one listener for ever: what comes in from `direction.from` goes to `target` in `direction.to`.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, direction: Direction, target: SocketAddr) {
        let open = Arc::new(AtomicUsize::new(0));
        loop {
            let Ok((client, _)) = listener.accept().await else {
                // Out of descriptors, or the peer was quicker: both pass.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let (Some(there), Some(back)) = (self.watch(direction), self.watch(direction.back())) else { return };
            if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
                open.fetch_sub(1, Ordering::Relaxed);
                self.refused_connections.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let open = Arc::clone(&open);
            tokio::spawn(async move {
                carry(client, target, there, back).await;
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }
}

/// Waits until both directions are open: a connection cannot be made over half a link.
async fn both_open(there: &mut watch::Receiver<Way>, back: &mut watch::Receiver<Way>) -> bool {
    loop {
        if there.wait_for(|way| !way.cut).await.is_err() || back.wait_for(|way| !way.cut).await.is_err() {
            return false;
        }
        if !there.borrow().cut && !back.borrow().cut {
            return true;
        }
    }
}

async fn carry(client: TcpStream, target: SocketAddr, there: watch::Receiver<Way>, back: watch::Receiver<Way>) {
    let _ = client.set_nodelay(true);
    let (client_read, client_write) = client.into_split();
    let (out, waiting) = mpsc::channel(CHUNKS_UNDER_WAY);
    let mut reader = tokio::spawn(read(client_read, out, there.clone()));
    let (mut opening_there, mut opening_back) = (there.clone(), back.clone());
    let opened = tokio::select! {
        opened = both_open(&mut opening_there, &mut opening_back) => opened,
        // The client gave up before the link was back: nothing was ever sent to the other side.
        () = gone(&mut reader) => false,
    };
    if !opened {
        reader.abort();
        return;
    }
    // A connection costs one round trip over the link.
    let (now, answer) = (*there.borrow(), *back.borrow());
    let round_trip = Duration::from_millis(now.delay_ms + answer.delay_ms);
    tokio::time::sleep(round_trip + loss::delay_of_opening(now.loss_percent, answer.loss_percent)).await;
    let Ok(server) = TcpStream::connect(target).await else {
        // Nobody listens there: both halves are dropped and the client sees the connection close.
        reader.abort();
        return;
    };
    let _ = server.set_nodelay(true);
    let (server_read, server_write) = server.into_split();
    let (reply, replies) = mpsc::channel(CHUNKS_UNDER_WAY);
    let replies_reader = tokio::spawn(read(server_read, reply, back.clone()));
    let mut tasks =
        [tokio::spawn(write(server_write, waiting, there)), tokio::spawn(write(client_write, replies, back))];
    // One broken half breaks the other; two halves that ended in order are both done.
    let (first, rest) = tasks.split_at_mut(1);
    tokio::select! {
        done = &mut first[0] => { if matches!(done, Ok(Delivered::All)) { let _ = (&mut rest[0]).await; } }
        done = &mut rest[0] => { if matches!(done, Ok(Delivered::All)) { let _ = (&mut first[0]).await; } }
    }
    for task in &tasks {
        task.abort();
    }
    reader.abort();
    replies_reader.abort();
}

/// Ends a while after the reader did, as the other end of a dead connection would.
async fn gone(reader: &mut tokio::task::JoinHandle<()>) {
    let _ = reader.await;
    tokio::time::sleep(Duration::from_millis(ORPHAN_MS)).await;
}

struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
}

async fn read(mut from: tokio::net::tcp::OwnedReadHalf, to: mpsc::Sender<Chunk>, way: watch::Receiver<Way>) {
    let mut last_due = Instant::now();
    let mut buffer = vec![0_u8; CHUNK_BYTES];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return };
        if count == 0 {
            return;
        }
        let now = *way.borrow();
        let jitter = if now.jitter_ms == 0 { 0 } else { rand::rng().random_range(0..=now.jitter_ms) };
        // Later bytes never overtake earlier ones.
        let late = Duration::from_millis(now.delay_ms + jitter) + loss::delay_of(count, now.loss_percent);
        last_due = last_due.max(Instant::now() + late);
        if to.send(Chunk { due: last_due, bytes: buffer[..count].to_vec() }).await.is_err() {
            return;
        }
    }
}

enum Delivered {
    All,
    Broken,
}

async fn write(
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut from: mpsc::Receiver<Chunk>,
    mut way: watch::Receiver<Way>,
) -> Delivered {
    while let Some(chunk) = from.recv().await {
        tokio::time::sleep_until(chunk.due).await;
        if way.wait_for(|way| !way.cut).await.is_err() || to.write_all(&chunk.bytes).await.is_err() {
            return Delivered::Broken;
        }
    }
    // The end of the stream is news too: it does not pass a cut.
    if way.wait_for(|way| !way.cut).await.is_err() || to.shutdown().await.is_err() {
        return Delivered::Broken;
    }
    Delivered::All
}

#[cfg(test)]
mod tests {
    use super::*;

    const A_TO_B: Direction = Direction { from: Site::A, to: Site::B };

    /// An echo server behind a link from a to b.
    async fn echo_behind_link() -> (Arc<Links>, SocketAddr) {
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = echo.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.into_split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        let links = Arc::new(Links::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = listener.local_addr().unwrap();
        tokio::spawn(Arc::clone(&links).serve(listener, A_TO_B, target));
        (links, near)
    }

    async fn say_and_hear(stream: &mut TcpStream, text: &[u8]) {
        stream.write_all(text).await.unwrap();
        hear(stream, text).await;
    }

    async fn hear(stream: &mut TcpStream, text: &[u8]) {
        let mut heard = vec![0; text.len()];
        tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut heard)).await.unwrap().unwrap();
        assert_eq!(heard, text);
    }

    async fn hears_nothing_for(stream: &mut TcpStream, ms: u64) {
        let mut byte = [0];
        let heard = tokio::time::timeout(Duration::from_millis(ms), stream.read(&mut byte)).await;
        assert!(heard.is_err(), "heard {heard:?} over a cut link");
    }

    #[tokio::test]
    async fn a_cut_stalls_and_a_heal_goes_on_with_the_same_connection() {
        let (links, near) = echo_behind_link().await;
        let mut stream = TcpStream::connect(near).await.unwrap();
        say_and_hear(&mut stream, b"before").await;
        links.set(A_TO_B, |way| way.cut = true);
        links.set(A_TO_B.back(), |way| way.cut = true);
        stream.write_all(b"during").await.unwrap();
        hears_nothing_for(&mut stream, 200).await;
        links.set(A_TO_B, |way| way.cut = false);
        hears_nothing_for(&mut stream, 100).await;
        links.set(A_TO_B.back(), |way| way.cut = false);
        hear(&mut stream, b"during").await;
        say_and_hear(&mut stream, b"after").await;
    }

    #[tokio::test]
    async fn a_one_way_cut_stops_one_direction_only() {
        let (links, near) = echo_behind_link().await;
        let mut stream = TcpStream::connect(near).await.unwrap();
        say_and_hear(&mut stream, b"x").await;
        // Answers are lost, requests are not: the echo is waiting and comes as soon as the way back is open.
        links.set(A_TO_B.back(), |way| way.cut = true);
        stream.write_all(b"request").await.unwrap();
        hears_nothing_for(&mut stream, 150).await;
        // Now requests are lost too; only the first comes back when answers pass again.
        links.set(A_TO_B, |way| way.cut = true);
        stream.write_all(b"second").await.unwrap();
        links.set(A_TO_B.back(), |way| way.cut = false);
        hear(&mut stream, b"request").await;
        hears_nothing_for(&mut stream, 150).await;
        links.set(A_TO_B, |way| way.cut = false);
        hear(&mut stream, b"second").await;
    }

    #[tokio::test]
    async fn a_connection_made_during_a_cut_comes_through_afterwards() {
        let (links, near) = echo_behind_link().await;
        links.set(A_TO_B, |way| way.cut = true);
        let mut stream = TcpStream::connect(near).await.unwrap();
        stream.write_all(b"early").await.unwrap();
        hears_nothing_for(&mut stream, 150).await;
        links.set(A_TO_B, |way| way.cut = false);
        hear(&mut stream, b"early").await;
    }

    #[tokio::test]
    async fn a_delay_is_paid_in_each_direction_and_keeps_the_order() {
        let (links, near) = echo_behind_link().await;
        let mut stream = TcpStream::connect(near).await.unwrap();
        say_and_hear(&mut stream, b"x").await;
        for direction in [A_TO_B, A_TO_B.back()] {
            links.set(direction, |way| (way.delay_ms, way.jitter_ms) = (60, 30));
        }
        let begun = Instant::now();
        for part in 0..10_u8 {
            stream.write_all(&[part; 3]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let expected: Vec<u8> = (0..10_u8).flat_map(|part| [part; 3]).collect();
        hear(&mut stream, &expected).await;
        assert!(begun.elapsed() >= Duration::from_millis(120), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn the_end_of_a_stream_and_an_absent_target_are_seen() {
        let (_links, near) = echo_behind_link().await;
        let mut stream = TcpStream::connect(near).await.unwrap();
        stream.write_all(b"bye").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert_eq!(rest, b"bye");

        let links = Arc::new(Links::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = listener.local_addr().unwrap();
        tokio::spawn(links.serve(listener, A_TO_B, "127.0.0.1:1".parse().unwrap()));
        let mut stream = TcpStream::connect(near).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0])).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)));
    }
}
