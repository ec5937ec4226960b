//! Meters that count: every read answered is one more, so that each reading is one of a kind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;

/// A Modbus TCP server with one number: how many times it was read. It answers one request at a time, as a bus does.
#[derive(Debug)]
pub struct Meter {
    pub address: SocketAddr,
    /// When each number was given away; the first is number 1.
    answered: Arc<Mutex<Vec<Instant>>>,
}

impl Meter {
    pub fn start() -> Result<Meter> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let meter = Meter { address: listener.local_addr()?, answered: Arc::default() };
        let answered = Arc::clone(&meter.answered);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answered = Arc::clone(&answered);
                // It ends when the agent closes, or dies.
                std::thread::spawn(move || drop(serve(stream, &answered)));
            }
        });
        Ok(meter)
    }

    pub fn answered(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(mut stream: TcpStream, answered: &Mutex<Vec<Instant>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        // Transaction, protocol, length, unit; function, first register, number of registers.
        let mut request = [0u8; 12];
        stream.read_exact(&mut request)?;
        let count = u16::from_be_bytes([request[10], request[11]]);
        let mut registers = vec![0u8; usize::from(count) * 2];
        {
            let mut answered = answered.lock().unwrap_or_else(PoisonError::into_inner);
            answered.push(Instant::now());
            let number = u32::try_from(answered.len()).unwrap_or(u32::MAX);
            if let Some(first) = registers.first_chunk_mut::<4>() {
                *first = number.to_be_bytes();
            }
        }
        let length = u16::try_from(3 + registers.len()).unwrap_or(u16::MAX);
        let mut answer = request[..4].to_vec();
        answer.extend_from_slice(&length.to_be_bytes());
        answer.extend_from_slice(&[request[6], request[7], u8::try_from(registers.len()).unwrap_or(u8::MAX)]);
        answer.extend_from_slice(&registers);
        stream.write_all(&answer)?;
    }
}
