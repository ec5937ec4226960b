//! The way from the agent to its broker, which can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::Result;

const OPEN: u8 = 0;
const STALLED: u8 = 1;
const CUT: u8 = 2;
/// How soon a change is noticed.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct Link {
    pub address: SocketAddr,
    state: Arc<AtomicU8>,
}

impl Link {
    pub fn to(broker: SocketAddr) -> Result<Link> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let link = Link { address: listener.local_addr()?, state: Arc::new(AtomicU8::new(OPEN)) };
        let state = Arc::clone(&link.state);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                std::thread::spawn(move || drop(join(&near, broker, &state)));
            }
        });
        Ok(link)
    }

    pub fn open(&self) {
        self.state.store(OPEN, Ordering::Relaxed);
    }
    /// Bytes wait, nothing is reset.
    pub fn stall(&self) {
        self.state.store(STALLED, Ordering::Relaxed);
    }
    /// Connections break, and new ones are refused.
    pub fn cut(&self) {
        self.state.store(CUT, Ordering::Relaxed);
    }
}

fn join(near: &TcpStream, broker: SocketAddr, state: &Arc<AtomicU8>) -> std::io::Result<()> {
    if state.load(Ordering::Relaxed) == CUT {
        return Ok(());
    }
    let far = TcpStream::connect(broker)?;
    let back = {
        let (from, to, state) = (far.try_clone()?, near.try_clone()?, Arc::clone(state));
        std::thread::spawn(move || drop(copy(&from, &to, &state)))
    };
    let _ = copy(near, &far, state);
    let _ = back.join();
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, state: &AtomicU8) -> std::io::Result<()> {
    from.set_read_timeout(Some(LOOK))?;
    to.set_nodelay(true)?;
    let mut buffer = vec![0u8; 64 * 1024];
    let done = loop {
        match state.load(Ordering::Relaxed) {
            CUT => break Ok(()),
            STALLED => {
                std::thread::park_timeout(LOOK);
                continue;
            }
            _ => {}
        }
        match from.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(n) => {
                if let Err(fault) = to.write_all(&buffer[..n]) {
                    break Err(fault);
                }
            }
            Err(fault) if matches!(fault.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(fault) => break Err(fault),
        }
    };
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
    done
}
