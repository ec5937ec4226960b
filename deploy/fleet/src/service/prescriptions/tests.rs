//! Two copies and what lies between them.

use axum::http::StatusCode;

use super::*;
use crate::service::Service;

fn epoch(counter: u64) -> Epoch {
    Epoch { incarnation: 1, counter }
}

/// A copy in a directory of its own.
struct Place {
    data_dir: PathBuf,
}

impl Place {
    fn new(name: &str) -> Place {
        crate::install_crypto();
        let data_dir = std::env::temp_dir().join(format!("bcp-fleet-rx-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&data_dir);
        for site in [Site::A, Site::B] {
            let directory = Service::Prescriptions.directory(&data_dir, site);
            journal::update(&directory, |record| "seed".clone_into(&mut record.lineage)).unwrap();
        }
        Place { data_dir }
    }

    fn start(&self, site: Site, want: Want, counter: u64) -> Start {
        Start {
            service: Service::Prescriptions,
            site,
            base: "27000".parse().unwrap(),
            data_dir: self.data_dir.clone(),
            want,
            epoch: epoch(counter),
        }
    }

    fn open(&self, site: Site, want: Want, counter: u64) -> Arc<Prescriptions> {
        Arc::new(Prescriptions::open(&self.start(site, want, counter)).unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.data_dir);
    }
}

async fn served(service: &Arc<Prescriptions>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = router(Arc::clone(service));
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn put(url: &str, text: &str) -> StatusCode {
    let answer = reqwest::Client::new().post(format!("{url}/write")).body(text.to_owned()).send().await.unwrap();
    StatusCode::from_u16(answer.status().as_u16()).unwrap()
}

#[tokio::test]
async fn a_write_is_acknowledged_only_when_the_standby_has_it() {
    let place = Place::new("sync");
    let (active, standby) = (place.open(Site::A, Want::Active, 1), place.open(Site::B, Want::Standby, 0));
    let (active_url, standby_url) = (served(&active).await, served(&standby).await);
    tokio::spawn(replicate(Arc::clone(&active), standby_url.clone()));
    assert_eq!(put(&active_url, "one").await, StatusCode::OK);
    assert_eq!(standby.lock().journal.get(1).unwrap().text, "one");
    assert_eq!(put(&standby_url, "no").await, StatusCode::SERVICE_UNAVAILABLE);
    wait_for("in sync", || active.facts().peer_in_sync).await;
    assert_eq!(standby.facts().role, CopyRole::Standby);
}

#[tokio::test]
async fn without_its_peer_it_waits_until_the_log_has_latched_it() {
    let place = Place::new("alone");
    let active = place.open(Site::A, Want::Active, 3);
    let url = served(&active).await;
    tokio::spawn(replicate(Arc::clone(&active), "http://127.0.0.1:1".to_owned()));
    let writing = {
        let url = url.clone();
        tokio::spawn(async move { put(&url, "alone").await })
    };
    let client = reqwest::Client::new();
    wait_for("it asks", || active.facts().wants_alone).await;
    let say = |counter: u64, wish: u64| {
        client
            .post(format!("{url}/sync"))
            .json(&serde_json::json!({"peer_in_sync": false, "epoch": epoch(counter), "wish": wish}))
            .send()
    };
    let wish = active.facts().wish;
    assert_eq!(say(2, wish).await.unwrap().status().as_u16(), 409, "another epoch's word counts for nothing");
    assert_eq!(say(3, wish ^ 1).await.unwrap().status().as_u16(), 409, "so does a word to another wish");
    assert!(!writing.is_finished());
    assert_eq!(say(3, wish).await.unwrap().status().as_u16(), 204);
    assert_eq!(writing.await.unwrap(), StatusCode::OK);
    assert!(!active.facts().peer_in_sync);
    // The peer comes back and is caught up: nothing is acknowledged alone any more.
    let standby = place.open(Site::B, Want::Standby, 0);
    let standby_url = served(&standby).await;
    tokio::spawn(replicate(Arc::clone(&active), standby_url));
    wait_for("caught up", || active.facts().peer_in_sync).await;
    assert_eq!(standby.lock().journal.position(), 1);
    assert_eq!(active.lock().handshake.mode, Mode::Synchronous);
}

#[tokio::test]
async fn an_old_active_copy_steps_down_and_its_unacknowledged_tail_is_replaced() {
    let place = Place::new("fork");
    let old = place.open(Site::A, Want::Active, 1);
    old.write("common".to_owned()).unwrap();
    let standby = place.open(Site::B, Want::Standby, 0);
    let appended = standby.append(&old.next_append(0).unwrap()).unwrap();
    assert!(matches!(appended, Appended::Taken { position: 1 }));
    old.write("never acknowledged".to_owned()).unwrap();
    drop(standby);
    let new = place.open(Site::B, Want::Active, 2);
    new.write("first of the new side".to_owned()).unwrap();
    let refused = new.append(&old.next_append(1).unwrap()).unwrap();
    assert!(matches!(refused, Appended::Refused { seen, .. } if seen == epoch(2)));
    let old_url = served(&old).await;
    tokio::spawn(replicate(Arc::clone(&new), old_url));
    wait_for("old follows", || new.facts().peer_in_sync).await;
    assert_eq!(old.facts().role, CopyRole::Standby);
    assert_eq!(old.lock().journal.get(2).unwrap().text, "first of the new side");
    assert!(old.write("late".to_owned()).is_err());
    drop(old);
    let again = Prescriptions::open(&place.start(Site::A, Want::Active, 1));
    assert!(matches!(again, Err(ServiceError::Superseded { .. })));
}

#[test]
fn another_history_is_not_overwritten() {
    let place = Place::new("lineage");
    let standby = place.open(Site::B, Want::Standby, 0);
    let active = place.open(Site::A, Want::Active, 1);
    active.write("one".to_owned()).unwrap();
    standby.append(&active.next_append(0).unwrap()).unwrap();
    "other".clone_into(&mut active.lock().lineage);
    let answer = standby.append(&active.next_append(1).unwrap()).unwrap();
    assert!(matches!(answer, Appended::Refused { .. }));
}
