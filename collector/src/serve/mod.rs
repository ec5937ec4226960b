//! The serve process: takes readings in, judges them, shows what is known.
//!
//! Knows: what every agent says, what the rules make of it, what was agreed. Refuses to know: how agreement comes about.
//!
//! Tasks, all ended by `run`: the [`driver`]; the [`crate::export::writer`], where there is one; one [`crate::ingest::link`] per broker; four of [`decide_link`]; the
//! publisher of public pages; the HTTP listener. Threads: the store's sealer.
//!
//! Invariants: nothing is shown as good that is not fresh; nothing is acknowledged that is not durable; without decide
//! everything still shows, marked "local, not agreed".

pub mod certificates;
pub mod checks;
pub mod decide_link;
pub mod driver;
pub mod feed;
pub mod judge;
pub mod query;
pub mod show;
mod sites;
pub mod view;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use bcp_core::rules::Engine;
use bcp_core::time::Wall;
use bcp_wire::Id;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::ConfigError;
use crate::export::writer::Writer;
use crate::export::{Export, Lines};
use crate::ingest::intake::Intake;
use crate::ingest::link::{self, Session};
use crate::store::Store;
use crate::store::ledger::Ledger;
use crate::web::api::{self, Api};
use crate::{Config, Shutdown};

use certificates::Certificates;
use decide_link::{Agreed, Decide};
use driver::{Driver, Link};
use judge::Judge;

/// Payloads between the links and the driver; a full queue makes the brokers wait.
const ARRIVALS: usize = 1_024;
/// Messages to decide that wait for the one before; a new one is refused and said anew a moment later.
const TELLS: usize = 1;
/// The last groups are committed within this at the end.
const DRAIN_LIMIT: Duration = Duration::from_millis(1_500);

/// This machine's wall clock: a label, never a measure.
#[must_use]
pub fn wall_now() -> Wall {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Wall(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The rules and assets of the configuration, applied to nothing yet.
///
/// # Errors
/// Every fault of every rule and asset, each with its place.
pub fn engine(config: &Config) -> anyhow::Result<Engine> {
    let rules = crate::rules::rule_set(config).map_err(ConfigError::Faults)?;
    Ok(Engine::new(rules, crate::rules::assets(config)))
}

/// Runs until `shutdown`.
///
/// # Errors
/// It cannot start: configuration, store, port or certificate, in one line.
pub async fn run(config: Arc<Config>, mut shutdown: Shutdown) -> anyhow::Result<()> {
    let engine = engine(&config)?;
    let dir = config.serve_dir();
    let retention = config.retention;
    let (store, ledger) = tokio::task::spawn_blocking(move || -> anyhow::Result<(Store, Ledger)> {
        let store = Store::open(&dir, retention).map_err(|error| {
            let help = error.help();
            anyhow::anyhow!("the store in {} cannot be used: {}; {help}", dir.display(), link::chain(&error))
        })?;
        let ledger = Ledger::open(&dir.join("ledger.db")).map_err(|error| {
            let help = error.help();
            anyhow::anyhow!("the copy of the ledger cannot be used: {}; {help}", link::chain(&error))
        })?;
        Ok((store, ledger))
    })
    .await??;
    let (store, ledger) = (Arc::new(store), Arc::new(Mutex::new(ledger)));
    let listener = tokio::net::TcpListener::bind(config.listen.console).await.with_context(|| {
        let address = config.listen.console;
        format!("the console cannot listen on {address}; stop what listens there, or change listen.console")
    })?;
    let decide = Decide::new(&config).context("the control certificate cannot be used")?;
    let publisher = open_publisher(&config)?;

    let (news, arrivals) = mpsc::channel(ARRIVALS);
    let mut tasks = JoinSet::new();
    let mut links = BTreeMap::new();
    for (site, broker) in &config.mqtt.brokers {
        let open = |session| link::build(&config.mqtt, config.site, broker, session);
        let (client, events) = open(Session::Payloads)?;
        let (retained, retained_events) = open(Session::Retained)?;
        links.insert(*site, Link::new(client.clone(), retained.clone()));
        tasks.spawn(link::drive((*site, Session::Payloads), client, events, news.clone()));
        tasks.spawn(link::drive((*site, Session::Retained), retained, retained_events, news.clone()));
    }
    drop(news);
    let export = open_export(&config, &mut tasks).await?;
    let (agreed_out, agreed) = watch::channel(Agreed::default());
    tasks.spawn(decide_link::follow(decide.clone(), Arc::clone(&ledger), agreed_out));
    let (failed_out, failed) = watch::channel(0);
    let (votes, votes_in) = mpsc::channel(TELLS);
    let (service_votes, service_votes_in) = mpsc::channel(TELLS);
    let (sights, sights_in) = mpsc::channel(TELLS);
    // Alarm votes alone are said anew after a failure; the others are said every second anyway.
    tasks.spawn(decide_link::tell(decide.clone(), votes_in, failed_out));
    tasks.spawn(decide_link::tell(decide.clone(), service_votes_in, watch::Sender::new(0)));
    tasks.spawn(decide_link::tell(decide, sights_in, watch::Sender::new(0)));
    tasks.spawn(publish_pages(publisher, agreed.clone()));

    let session = rand::random();
    let (writer, view) = view::shared(view::View::empty(config.site, wall_now()));
    let app = api::router(Api::new(config.site, view.clone(), Arc::clone(&store), Arc::clone(&ledger)));
    let app = app.merge(crate::web::console::router(view.clone()));
    let mut stop = shutdown.clone();
    tasks.spawn(async move {
        let served = axum::serve(api::limited(listener), app).with_graceful_shutdown(async move { stop.wait().await });
        if let Err(error) = served.await {
            tracing::error!(%error, "the console's listener ended");
        }
    });
    tracing::info!(site = %config.site, console = %config.listen.console, "serve is up");
    let mut intake = Intake::new(store.marks());
    intake.lines = export.is_some().then(|| Lines::new(config.site, measured_assets(&config)));
    let driver = Driver {
        config: Arc::clone(&config),
        intake,
        store: Arc::clone(&store),
        export,
        judge: Judge::new(config.site, session, engine),
        certificates: Certificates::of(&config),
        session,
        links,
        arrivals,
        agreed,
        failed,
        votes,
        service_votes,
        sights,
        writer,
    };
    let ended = driver.run(&mut shutdown, DRAIN_LIMIT).await;
    tasks.abort_all();
    // The store's thread is joined here, where waiting is allowed.
    let _ = tokio::time::timeout(DRAIN_LIMIT, tokio::task::spawn_blocking(move || drop(store))).await;
    ended
}

/// The queue and the task that empties it, where a long-term database is configured.
async fn open_export(config: &Config, tasks: &mut JoinSet<()>) -> anyhow::Result<Option<Arc<Export>>> {
    let Some(influx) = &config.influx else { return Ok(None) };
    let (dir, bound) = (config.serve_dir().join("influx"), influx.queue_bytes);
    let opened = tokio::task::spawn_blocking(move || Export::open(&dir, bound)).await?;
    let export = opened.context("the queue of the long-term database cannot be used")?;
    let writer = Writer::new(influx, Arc::clone(&export)).context("the long-term database cannot be used")?;
    tasks.spawn(writer.run());
    Ok(Some(export))
}

/// What each device measures, where the policy says so.
fn measured_assets(config: &Config) -> HashMap<Id, Id> {
    config.assets.iter().filter_map(|(asset, section)| Some((section.device.clone()?, asset.clone()))).collect()
}

type Publisher = crate::web::public::Publisher;

fn open_publisher(config: &Config) -> anyhow::Result<Publisher> {
    Publisher::open(config.site, &config.public.key, &config.export_dir()).context("the public page cannot be signed")
}

/// Writes the public pages at each new publication point, and at no other time.
async fn publish_pages(mut publisher: Publisher, mut agreed: watch::Receiver<Agreed>) {
    let mut last = None;
    while agreed.changed().await.is_ok() {
        let Some(replica) = agreed.borrow_and_update().replica.clone() else { continue };
        if last == Some(replica.publication.sequence) {
            continue;
        }
        let sequence = replica.publication.sequence;
        let done = tokio::task::spawn_blocking(move || {
            let done = publisher.publish(&replica, wall_now());
            (publisher, done)
        })
        .await;
        let Ok((back, done)) = done else {
            tracing::error!("rendering the public pages ended unexpectedly; they stay as they are");
            return;
        };
        publisher = back;
        match done {
            Ok(_) => last = Some(sequence),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the public pages were not published");
            }
        }
    }
}
