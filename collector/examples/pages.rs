//! Writes a made-up publication to a folder, to look at the pages: `cargo run -p bcp-collector --example pages -- DIR [calm]`.

use std::path::PathBuf;

use bcp_collector::web::public::{Publisher, sample};
use bcp_core::time::Wall;
use bcp_wire::Site;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or_else(|| anyhow::anyhow!("usage: pages DIR [calm]"))?);
    let model = if args.next().as_deref() == Some("calm") { sample::calm(12) } else { sample::sample(12) };
    // Valid from now on, so that the expiry script lets the pages be looked at.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let model = sample::at(Wall(i64::try_from(now.as_millis())?), model);
    let mut publisher = Publisher::open(Site::A, &dir.join("keys/publish.key"), &dir.join("export"))?;
    let published = publisher.publish_model(&model, model.as_of)?;
    println!("{published:?} in {}", dir.join("export/current").display());
    Ok(())
}
