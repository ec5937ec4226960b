//! Behaviour 1 where request numbers can be seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::source::snmp::message::Body;
use snmp2::snmp;

const LIMIT: Duration = Duration::from_millis(2);
const DEVICES: usize = 20;

/// Answers every request after 1.5 times the time limit, with the request's number as the value.
async fn late_agent() -> String {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = socket.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut buffer = [0; 2_048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let message = message::read_community(&buffer[..length]).unwrap();
            let Body::Pdu(pdu) = message.body else { panic!("a trap") };
            let number = message::integer(u32::try_from(pdu.id).unwrap());
            let varbind = message::field(0x30, &[&message::field(6, &[&[0x2B, 6, 1]]), &number]);
            let answer = message::response(pdu.id, &varbind);
            let answer = message::field(0x30, &[&message::integer(1), &message::field(4, &[b"public"]), &answer]);
            let socket = Arc::clone(&socket);
            tokio::spawn(async move {
                tokio::time::sleep(LIMIT * 3 / 2).await;
                let _ = socket.send_to(&answer, from).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behaviour_01_a_late_answer_is_never_used_for_another_request() {
    let total: usize = if std::env::var("BCP_LONG").as_deref() == Ok("1") { 100_000 } else { 6_000 };
    let (in_time, wrong) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let began = Instant::now();
    let one = async || {
        let link =
            SnmpLink { address: late_agent().await, access: Access::community("public"), timeout: LIMIT, retries: 0 };
        let mut channel = Channel::new();
        let mut request = prepare(&link, snmp::MSG_GET, &[&[0x2B, 6, 1]], 0, 0);
        for _ in 0..total / DEVICES {
            let mut session = Session { link: &link, channel: &mut channel };
            let asked = i64::from(session.channel.next_id);
            let answer = session.exchange(&mut request, Duration::from_secs(1), |pdu| {
                pdu.varbinds.clone().next().map(|(_, value)| value)
            });
            // A busy machine may be late itself, so that the answer is in time after all: then it is the right one.
            if let Ok(value) = answer.await {
                in_time.fetch_add(1, Ordering::SeqCst);
                wrong.fetch_add(usize::from(value != Some(message::Got::Int(asked))), Ordering::SeqCst);
            }
        }
    };
    futures::future::join_all((0..DEVICES).map(|_| one())).await;
    let (in_time, wrong) = (in_time.into_inner(), wrong.into_inner());
    println!("{total} requests answered late, {in_time} in time after all, {wrong} wrong, {:.1?}", began.elapsed());
    assert_eq!(wrong, 0);
    assert!(in_time < total / 2, "the answers were not late");
}
