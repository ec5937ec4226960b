//! What one gateway agent costs: resident memory and processor time while it polls Modbus devices.
//!
//! `cargo bench -p bcp-tests --bench agent -- [--devices 50] [--points 20] [--seconds 30]`
//!
//! A fleet runs beside it, so that its data is committed and acknowledged as in production; the devices are Modbus TCP
//! servers in this process, which answer at once. Whole-process figures from `/proc`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use bcp_tests::{Fleet, Options, fleet, wait_for};
use bcp_wire::Site;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const BASE_PORT: u16 = 28000;

#[tokio::main]
async fn main() -> Result<()> {
    let devices = argument("--devices").unwrap_or(50);
    let points = argument("--points").unwrap_or(20).min(60);
    let seconds = argument("--seconds").unwrap_or(30);
    let fleet = Fleet::up(Options { base_port: BASE_PORT, ..Options::default() }).await?;
    let dir = fleet.data_dir().join("bench");
    std::fs::create_dir_all(dir.join("profiles/bench"))?;

    let mut config = format!(
        "site = \"a\"\nagent = \"gw-bench\"\nstate_dir = \"{dir}/state\"\nprofiles_dir = \"{dir}/profiles\"\n[mqtt]\nbroker = \"127.0.0.1:{port}\"\n",
        dir = dir.display(),
        port = fleet.port(Site::A, 3),
    );
    for n in 0..devices {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(serve_device(listener));
        config.push_str(&format!(
            "[[device]]\nid = \"meter-x{n}\"\nkind = \"meter\"\nprofile = \"bench/meter\"\ninterval = \"1s\"\nmodbus = {{ address = \"{address}\", unit = 1, timeout = \"500ms\" }}\n"
        ));
    }
    std::fs::write(dir.join("agent.toml"), config)?;
    std::fs::write(dir.join("profiles/bench/meter.toml"), profile(points))?;

    let mut agent = Command::new(fleet::binary())
        .args(["agent", "run", "--config"])
        .arg(dir.join("agent.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.join("agent.log"))?)
        .spawn()?;
    let last = format!("meter-x{}", devices - 1);
    let began = wait_for("the last device's points at the collector", Duration::from_secs(20), async || {
        let all = fleet.api(Site::A, &format!("points?device={last}")).await.ok()?;
        (all["points"].as_array()?.len() as u64 >= points).then_some(())
    })
    .await;
    if let Err(fault) = began {
        agent.kill()?;
        anyhow::bail!("{fault}; the agent said:\n{}", std::fs::read_to_string(dir.join("agent.log"))?);
    }

    let cpu_before = cpu_ms(agent.id())?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let cpu = cpu_ms(agent.id())? - cpu_before;
    let rss = rss_kib(agent.id())?;
    agent.kill()?;
    agent.wait()?;
    let samples = devices * points * seconds;
    println!("devices {devices}, points {points} each, every second, for {seconds} s: {samples} samples");
    println!(
        "cpu {:.2} % of one core, {:.1} s per million samples",
        cpu as f64 / seconds as f64 / 10.0,
        cpu as f64 * 1e3 / samples as f64
    );
    println!("resident memory {:.1} MB", rss as f64 / 1024.0);
    Ok(())
}

fn argument(name: &str) -> Option<u64> {
    let mut arguments = std::env::args().skip_while(|a| a != name);
    arguments.nth(1)?.parse().ok()
}

/// `points` floats in one block of input registers.
fn profile(points: u64) -> String {
    let groups = points.div_ceil(3);
    let mut text = String::from(
        "format = 1\ntitle = \"Bench meter\"\nkind = \"meter\"\nsources = [\"this bench\"]\n[modbus]\nmax_registers = 125\norder = \"abcd\"\n",
    );
    for group in 0..groups {
        for phase in 1..=3.min(points - 3 * group) {
            let address = (group * 3 + phase - 1) * 2;
            text.push_str(&format!(
                "[[point]]\nname = \"outlet.{}.current\"\nread = \"input:{address}\"\ntype = \"f32\"\n",
                group * 3 + phase
            ));
        }
    }
    text
}

/// A Modbus TCP server that answers every read of registers with the float 230.5 all over.
async fn serve_device(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let mut request = [0u8; 12];
            while stream.read_exact(&mut request).await.is_ok() {
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

fn cpu_ms(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().context("stat")?.split_whitespace().collect();
    // utime and stime are fields 14 and 15 of the whole line, in ticks of 10 ms.
    Ok((fields[11].parse::<u64>()? + fields[12].parse::<u64>()?) * 10)
}

fn rss_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("VmRSS value")?.parse()?)
}
