//! The Modbus source against servers that misbehave.

#![allow(clippy::unwrap_used, clippy::float_cmp, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bcp_agent::config::{DeviceConfig, Link, ModbusLink};
use bcp_agent::profile;
use bcp_agent::schedule::Outcome;
use bcp_agent::source::Polled;
use bcp_agent::source::modbus::Bus;
use bcp_wire::{BadReason, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TIMEOUT: Duration = Duration::from_millis(60);
const BUDGET: Duration = Duration::from_secs(2);

/// One request as it came.
#[derive(Debug, Clone, Copy)]
struct Asked {
    transaction: u16,
    unit: u8,
    function: u8,
    address: u16,
    count: u16,
    /// How many came before, over all connections.
    number: usize,
}

impl Asked {
    /// The right answer: every register holds its own address.
    fn right(self) -> Vec<u8> {
        self.words(&(self.address..self.address + self.count).collect::<Vec<_>>())
    }

    fn words(self, words: &[u16]) -> Vec<u8> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let mut pdu = vec![self.function, u8::try_from(bytes.len()).unwrap()];
        pdu.extend(bytes);
        self.frame(&pdu)
    }

    fn exception(self, code: u8) -> Vec<u8> {
        self.frame(&[self.function | 0x80, code])
    }

    fn frame(self, pdu: &[u8]) -> Vec<u8> {
        let mut frame = self.transaction.to_be_bytes().to_vec();
        frame.extend([0, 0]);
        frame.extend(u16::try_from(pdu.len() + 1).unwrap().to_be_bytes());
        frame.push(self.unit);
        frame.extend(pdu);
        frame
    }

    fn covers(self, address: u16) -> bool {
        (self.address..self.address + self.count).contains(&address)
    }
}

/// What the server does with a request.
enum Reply {
    Now(Vec<u8>),
    After(Duration, Vec<u8>),
    Close(Vec<u8>),
    Silence,
}

/// Counters of a server.
#[derive(Debug, Default)]
struct Seen {
    requests: AtomicUsize,
    connections: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

async fn server(behave: impl Fn(Asked) -> Reply + Send + Sync + 'static) -> (String, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (behave, seen) = (Arc::new(behave), Arc::new(Seen::default()));
    let counters = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counters.connections.fetch_add(1, Ordering::SeqCst);
            let open = counters.open.fetch_add(1, Ordering::SeqCst) + 1;
            counters.most_open.fetch_max(open, Ordering::SeqCst);
            let (behave, counters) = (Arc::clone(&behave), Arc::clone(&counters));
            tokio::spawn(async move {
                let _ = serve(stream, &*behave, &counters).await;
                counters.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (address, seen)
}

async fn serve(mut stream: TcpStream, behave: &(impl Fn(Asked) -> Reply + Sync), seen: &Seen) -> std::io::Result<()> {
    let mut request = [0_u8; 12];
    loop {
        stream.read_exact(&mut request).await?;
        let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        let number = seen.requests.fetch_add(1, Ordering::SeqCst);
        let asked = Asked {
            transaction: word(0),
            unit: request[6],
            function: request[7],
            address: word(8),
            count: word(10),
            number,
        };
        match behave(asked) {
            Reply::Now(bytes) => stream.write_all(&bytes).await?,
            Reply::After(delay, bytes) => {
                tokio::time::sleep(delay).await;
                stream.write_all(&bytes).await?;
            }
            Reply::Close(bytes) => {
                stream.write_all(&bytes).await?;
                return Ok(());
            }
            Reply::Silence => {}
        }
    }
}

/// A device whose points `outlet.N.current` are the registers of `addresses`.
fn device(address: &str, unit: u8, addresses: &[u16]) -> (Arc<DeviceConfig>, ModbusLink) {
    let mut text = String::from(
        "format = 1\ntitle = \"t\"\nkind = \"pdu\"\nsources = [\"this test\"]\n[modbus]\nmax_gap = 4\nmax_registers = 100\n",
    );
    for (i, register) in addresses.iter().enumerate() {
        let _ = writeln!(text, "[[point]]\nname = \"outlet.{}.current\"\nread = \"holding:{register}\"", i + 1);
    }
    let profile = profile::parse("t/t", "t", &text).unwrap_or_else(|faults| panic!("{faults:?}"));
    let link = ModbusLink::tcp(address, unit, TIMEOUT);
    let config = DeviceConfig {
        id: format!("pdu-{unit}").parse().unwrap(),
        kind: "pdu".to_owned(),
        profile: Arc::new(profile),
        location: None,
        parent: None,
        interval: Duration::from_secs(1),
        link: Link::Modbus(link.clone()),
    };
    (Arc::new(config), link)
}

fn values(polled: &Polled) -> BTreeMap<String, Result<Value, BadReason>> {
    polled.samples.iter().map(|(name, _, value)| (name.to_string(), value.clone())).collect()
}

fn bad(polled: &Polled) -> Vec<(String, BadReason)> {
    values(polled).into_iter().filter_map(|(name, value)| Some((name, value.err()?))).collect()
}

/// Every good value is the register's own address.
fn assert_right(polled: &Polled, addresses: &[u16]) {
    let values = values(polled);
    for (i, register) in addresses.iter().enumerate() {
        if let Ok(value) = &values[&format!("outlet.{}.current", i + 1)] {
            assert_eq!(value, &Value::Num(f64::from(*register)));
        }
    }
}

#[tokio::test]
async fn a_late_answer_is_never_used_for_another_request() {
    // Three blocks far apart, each of the same size: their answers differ in nothing but the values.
    let addresses = [10, 500, 900];
    let (server, seen) = server(|asked| {
        let right = asked.right();
        if asked.number % 3 == 1 { Reply::After(TIMEOUT * 3 / 2, right) } else { Reply::Now(right) }
    })
    .await;
    let mut bus = Bus::new(server.clone(), vec![device(&server, 1, &addresses)]);
    let (mut good, mut late) = (0, 0);
    for _ in 0..60 {
        let polled = bus.poll(0, BUDGET).await;
        assert_right(&polled, &addresses);
        let missing = bad(&polled);
        assert!(missing.iter().all(|(_, reason)| *reason == BadReason::Timeout), "{missing:?}");
        good += 3 - missing.len();
        late += missing.len();
    }
    assert!(good > 30 && late > 20, "{good} good, {late} late");
    assert!(seen.connections.load(Ordering::SeqCst) > 10, "each time-out drops its connection");
}

#[tokio::test]
async fn short_long_and_foreign_answers_are_bad_and_the_bus_is_well_at_once() {
    let addresses = [10, 11, 12];
    let (server, _) = server(|asked| match asked.number {
        1 => Reply::Now(asked.words(&[10, 11])),
        3 => Reply::Now(asked.words(&[10, 11, 12, 13])),
        5 => Reply::Now(Asked { transaction: asked.transaction.wrapping_add(7), ..asked }.right()),
        7 => Reply::Now(Asked { unit: 9, ..asked }.right()),
        9 => Reply::Now(Asked { function: 4, ..asked }.right()),
        11 => Reply::Now(asked.frame(&[3, 5, 0, 1, 2, 3, 4])),
        13 => Reply::Now(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        _ => Reply::Now(asked.right()),
    })
    .await;
    let mut bus = Bus::new(server.clone(), vec![device(&server, 1, &addresses)]);
    for round in 0..8 {
        let good = bus.poll(0, BUDGET).await;
        assert_eq!((bad(&good), good.outcome), (vec![], Outcome::Answered), "round {round}");
        assert_right(&good, &addresses);
        let broken = bus.poll(0, BUDGET).await;
        if round < 7 {
            let reasons: Vec<BadReason> = bad(&broken).into_iter().map(|(_, reason)| reason).collect();
            assert_eq!(reasons.len(), 3, "round {round}: {:?}", values(&broken));
            assert!(reasons.iter().all(|r| matches!(r, BadReason::Decode | BadReason::Timeout)), "{reasons:?}");
        }
    }
}

#[tokio::test]
async fn an_illegal_address_costs_one_point_and_is_remembered() {
    let addresses: Vec<u16> = (100..140).collect();
    let (server, seen) =
        server(|asked| if asked.covers(117) { Reply::Now(asked.exception(2)) } else { Reply::Now(asked.right()) })
            .await;
    let mut bus = Bus::new(server.clone(), vec![device(&server, 1, &addresses)]);
    let first = bus.poll(0, BUDGET).await;
    assert_eq!(bad(&first), vec![("outlet.18.current".to_owned(), BadReason::Exception)]);
    assert_right(&first, &addresses);
    let learning = seen.requests.swap(0, Ordering::SeqCst);
    assert!(learning <= 13, "log2(40) halvings, two reads each: {learning}");
    let second = bus.poll(0, BUDGET).await;
    assert_eq!(bad(&second).len(), 1);
    assert!(seen.requests.load(Ordering::SeqCst) <= 6);
    assert_eq!(seen.connections.load(Ordering::SeqCst), 1, "an exception is an answer: the connection stays");
}

#[tokio::test]
async fn each_exception_has_its_own_consequence() {
    let addresses = [10, 500];
    let (server, _) = server(|asked| match (asked.number, asked.address) {
        // Busy once: asked again, and well.
        (0, _) => Reply::Now(asked.exception(6)),
        // Device failure on one block: only its points.
        (3, 10) => Reply::Now(asked.exception(4)),
        _ => Reply::Now(asked.right()),
    })
    .await;
    let mut bus = Bus::new(server.clone(), vec![device(&server, 1, &addresses)]);
    assert_eq!(bad(&bus.poll(0, BUDGET).await), vec![]);
    assert_eq!(bad(&bus.poll(0, BUDGET).await), vec![("outlet.1.current".to_owned(), BadReason::Exception)]);
    assert_eq!(bad(&bus.poll(0, BUDGET).await), vec![]);
}

#[tokio::test]
async fn a_dead_unit_behind_a_gateway_does_not_disturb_the_others() {
    let (server, seen) =
        server(|asked| if asked.unit == 2 { Reply::Now(asked.exception(11)) } else { Reply::Now(asked.right()) }).await;
    let units = vec![device(&server, 1, &[10]), device(&server, 2, &[10]), device(&server, 3, &[20])];
    let mut bus = Bus::new(server.clone(), units);
    for _ in 0..3 {
        assert_eq!(bus.poll(0, BUDGET).await.outcome, Outcome::Answered);
        let dead = bus.poll(1, BUDGET).await;
        assert_eq!((dead.outcome, bad(&dead).len()), (Outcome::Silent, 1));
        let third = bus.poll(2, BUDGET).await;
        assert_right(&third, &[20]);
    }
    assert_eq!(seen.most_open.load(Ordering::SeqCst), 1, "one master per bus");
    assert_eq!(seen.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_silent_device_costs_one_timeout_and_a_closed_port_none() {
    let (silent, _) = server(|_| Reply::Silence).await;
    let mut bus = Bus::new(silent.clone(), vec![device(&silent, 1, &[10, 500, 900])]);
    let start = Instant::now();
    let polled = bus.poll(0, BUDGET).await;
    assert_eq!((polled.outcome, bad(&polled).len()), (Outcome::Silent, 3));
    assert!(start.elapsed() < TIMEOUT * 3, "one time-out, not one per block: {:?}", start.elapsed());

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let mut bus = Bus::new(closed.clone(), vec![device(&closed, 1, &[10])]);
    assert_eq!(bus.poll(0, BUDGET).await.outcome, Outcome::Refused);
}

#[tokio::test]
async fn a_device_that_hangs_up_after_every_answer_is_read_without_loss() {
    let (server, seen) = server(|asked| Reply::Close(asked.right())).await;
    let mut bus = Bus::new(server.clone(), vec![device(&server, 1, &[10])]);
    for _ in 0..5 {
        let polled = bus.poll(0, BUDGET).await;
        assert_eq!((polled.outcome, bad(&polled)), (Outcome::Answered, vec![]));
        // Let the closing reach us: what happens between two polls of a real device.
        tokio::task::yield_now().await;
    }
    assert!(seen.connections.load(Ordering::SeqCst) >= 5);
}

#[tokio::test]
async fn a_slow_device_is_stopped_at_its_budget() {
    let addresses: Vec<u16> = (0..20).map(|i| i * 200).collect();
    let (server, _) = server(|asked| Reply::After(Duration::from_millis(30), asked.right())).await;
    let mut bus = Bus::new(server.clone(), vec![device(&server, 1, &addresses)]);
    let start = Instant::now();
    let polled = bus.poll(0, Duration::from_millis(200)).await;
    assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
    assert_eq!(polled.outcome, Outcome::Answered);
    assert!((1..20).contains(&bad(&polled).len()));
    assert!(polled.trouble.is_some());
    assert_right(&polled, &addresses);
}
