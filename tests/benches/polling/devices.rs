//! The devices of the bench: real Modbus TCP and SNMP servers, in a process of their own.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use bcp_fleet::devices::{ber, snmp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

/// An enterprise's subtree that exists nowhere.
pub const SUBTREE: &str = "1.3.6.1.4.1.99999.1";

/// The devices' process: prints one address per device, then answers until it is killed.
pub async fn play_devices() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let [protocol, devices, points, dead, answer_ms] = arguments.as_slice() else { bail!("five arguments") };
    let (devices, points, dead): (u64, u64, u64) = (devices.parse()?, points.parse()?, dead.parse()?);
    let delay = Duration::from_millis(answer_ms.parse()?);
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let tree: Arc<snmp::Tree> = Arc::new(
        (1..=points)
            .filter_map(|n| Some((ber::parse_oid(&format!("{SUBTREE}.{n}.0"))?, ber::Value::Gauge32(2_305))))
            .collect(),
    );
    let mut addresses = String::new();
    for n in 0..devices {
        let dead = n < dead;
        let address = if protocol == "snmp" {
            let socket = UdpSocket::bind(any).await?;
            let address = socket.local_addr()?;
            tokio::spawn(play_snmp(socket, Arc::clone(&tree), dead, delay));
            address
        } else {
            let listener = TcpListener::bind(any).await?;
            let address = listener.local_addr()?;
            tokio::spawn(play_modbus(listener, dead, delay));
            address
        };
        addresses.push_str(&format!("{address}\n"));
    }
    std::io::stdout().lock().write_all(addresses.as_bytes())?;
    std::future::pending().await
}

async fn play_snmp(socket: UdpSocket, tree: Arc<snmp::Tree>, dead: bool, delay: Duration) {
    let mut request = [0u8; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut request).await {
        if let Some(answer) = snmp::answer(&request[..length], b"public", &tree).filter(|_| !dead) {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

/// Answers every read of registers with the float 230.5 all over.
async fn play_modbus(listener: TcpListener, dead: bool, delay: Duration) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let mut request = [0u8; 12];
            while stream.read_exact(&mut request).await.is_ok() {
                if dead {
                    continue;
                }
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                let count = u16::from_be_bytes([request[10], request[11]]);
                let bytes = count * 2;
                let mut answer = request[..4].to_vec();
                answer.extend((bytes + 3).to_be_bytes());
                answer.extend([request[6], request[7], bytes as u8]);
                answer.extend(230.5f32.to_be_bytes().into_iter().cycle().take(usize::from(bytes)));
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        });
    }
}
