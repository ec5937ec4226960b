//! Writes a made-up publication to a folder, and a new one every 20 s with `live`, to look at the pages:
//! `cargo run -p bcp-collector --example pages -- DIR [calm] [live]`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bcp_collector::web::public::{Publisher, sample};
use bcp_core::time::Wall;
use bcp_wire::Site;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let dir = PathBuf::from(args.first().ok_or_else(|| anyhow::anyhow!("usage: pages DIR [calm] [live]"))?);
    let has = |word: &str| args.iter().any(|arg| arg == word);
    let mut publisher = Publisher::open(Site::A, &dir.join("keys/publish.key"), &dir.join("export"))?;
    println!("public key {}", STANDARD.encode(publisher.public_key()));
    loop {
        let made = if has("calm") { sample::calm(12) } else { sample::sample(12) };
        let now = Wall(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?);
        let mut model = sample::at(now, made);
        model.sequence += now.0.unsigned_abs() / 1000;
        println!("{:?} in {}", publisher.publish_model(&model, now)?, dir.join("export/current").display());
        if !has("live") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(20));
    }
}
