use super::*;
use crate::config::{HttpProbe, TcpProbe, TlsProbe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers each connection with the next of these texts; after the last, it accepts and says nothing.
async fn server(answers: Vec<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut answers = answers.into_iter();
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            if let Some(answer) = answers.next() {
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            } else {
                open.push(stream);
            }
        }
    });
    address
}

fn check(probe: CheckProbe) -> Check {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let id = "c".parse().unwrap();
    let service = "s".parse().unwrap();
    let interval = Duration::from_secs(1);
    let config = CheckConfig { id, service, target_site: None, interval, degraded_after: None, probe };
    Check::new(config, &Trust::default(), &crate::resolver::Resolver::default()).unwrap()
}

fn tcp(address: String, expect: Option<&str>) -> CheckProbe {
    CheckProbe::Tcp(TcpProbe { address, expect: expect.map(str::to_owned), timeout: Duration::from_millis(300) })
}

fn state(polled: &Polled) -> String {
    polled.samples[0].2.as_ref().unwrap().to_string()
}

#[tokio::test]
async fn an_http_check_sees_status_body_and_silence() {
    let address = server(vec![
        "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nrole: active\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nrole: standby",
        "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
    ])
    .await;
    let mut check = check(CheckProbe::Http(HttpProbe {
        url: format!("http://{address}/health"),
        expect_status: 200,
        expect_body: Some("active".to_owned()),
        timeout: Duration::from_millis(300),
        ca: None,
        min_days: 7,
    }));
    let first = check.poll().await;
    assert_eq!((state(&first), first.trouble.is_none(), first.transition.is_some()), ("up".to_owned(), true, true));
    let second = check.poll().await;
    assert_eq!((state(&second), second.transition.is_some()), ("down".to_owned(), true));
    assert!(second.trouble.unwrap().contains("lacks `active`"));
    let third = check.poll().await;
    assert_eq!((third.samples[2].2.clone(), third.transition.is_some()), (Ok(Value::Num(503.0)), false));
    let silent = check.poll().await;
    assert_eq!((state(&silent), silent.samples[1].2.clone()), ("down".to_owned(), Err(BadReason::Timeout)));
    assert_eq!(silent.outcome, Outcome::Answered, "a check never backs off");
}

#[tokio::test]
async fn a_tcp_check_sees_a_listener_and_its_absence() {
    let address = server(vec![]).await;
    let mut up = check(tcp(address, None));
    assert_eq!(state(&up.poll().await), "up");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let mut down = check(tcp(closed, None));
    let polled = down.poll().await;
    assert_eq!(state(&polled), "down");
    assert!(polled.trouble.unwrap().contains("refused"));
}

#[tokio::test]
async fn a_tcp_check_reads_the_greeting() {
    let greeter = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = greeter.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut open = Vec::new();
        for greeting in ["220 ready\r\n", "554 no\r\n", ""] {
            let (mut stream, _) = greeter.accept().await.unwrap();
            stream.write_all(greeting.as_bytes()).await.unwrap();
            if greeting.starts_with("554") {
                stream.shutdown().await.unwrap();
            }
            open.push(stream);
        }
        std::future::pending::<()>().await;
    });
    let mut check = check(tcp(address, Some("220 ")));
    assert_eq!(state(&check.poll().await), "up");
    assert!(check.poll().await.trouble.unwrap().contains("lacks `220 `"));
    assert!(check.poll().await.trouble.unwrap().contains("greeting within"));
}

#[tokio::test]
async fn slow_is_degraded() {
    let address = server(vec!["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"; 2]).await;
    let probe = HttpProbe {
        url: format!("http://{address}/"),
        expect_status: 200,
        expect_body: None,
        timeout: Duration::from_secs(2),
        ca: None,
        min_days: 7,
    };
    let mut check = check(CheckProbe::Http(probe));
    assert_eq!(state(&check.poll().await), "up");
    check.config.degraded_after = Some(Duration::from_nanos(1));
    let slow = check.poll().await;
    assert_eq!((state(&slow), slow.transition.is_some()), ("degraded".to_owned(), true));
}

/// A TLS server with a certificate of this life, and the file of its authority.
async fn tls_server(dir: &std::path::Path, days: i64) -> (String, std::path::PathBuf) {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    let _ = rustls::crypto::ring::default_provider().install_default();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    let hours = Duration::from_secs(3_600);
    let (now, span) = (std::time::SystemTime::now() + hours, hours * 24 * u32::try_from(days.unsigned_abs()).unwrap());
    params.not_after = if days > 0 { now + span } else { now - span }.into();
    let certificate = params.self_signed(&key).unwrap();
    let ca = dir.join(format!("ca{days}.pem"));
    std::fs::write(&ca, certificate.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let mut head = [0; 1024];
                    let _ = stream.read(&mut head).await;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    (address, ca)
}

#[tokio::test]
async fn a_certificate_is_told_by_its_days() {
    let dir = std::env::temp_dir().join(format!("bcp-checks-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for (days, min_days, want) in [(90, 7, "up"), (3, 7, "degraded"), (-3, 7, "down")] {
        let (address, ca) = tls_server(&dir, days).await;
        let port = address.rsplit(':').next().unwrap().to_owned();
        let tls = CheckProbe::Tls(TlsProbe {
            address,
            server_name: "localhost".try_into().unwrap(),
            timeout: Duration::from_secs(2),
            ca: Some(ca.clone()),
            min_days,
        });
        let http = CheckProbe::Http(HttpProbe {
            url: format!("https://localhost:{port}/"),
            expect_status: 200,
            expect_body: None,
            timeout: Duration::from_secs(2),
            ca: Some(ca),
            min_days,
        });
        for probe in [tls, http] {
            let polled = check(probe).poll().await;
            assert_eq!(state(&polled), want, "{days} days: {:?}", polled.trouble);
            let left = polled.samples.last().unwrap().2.as_ref().unwrap().as_num().unwrap();
            #[allow(clippy::cast_precision_loss)]
            let off = (left - days as f64).abs();
            assert!(off < 0.1, "{left} instead of {days}");
        }
    }
    let (address, _) = tls_server(&dir, 90).await;
    let mut stranger = check(CheckProbe::Tls(TlsProbe {
        address,
        server_name: "localhost".try_into().unwrap(),
        timeout: Duration::from_secs(2),
        ca: None,
        min_days: 7,
    }));
    let polled = stranger.poll().await;
    assert_eq!(state(&polled), "down");
    assert!(polled.samples[2].2.is_ok(), "its days are told all the same");
    std::fs::remove_dir_all(&dir).unwrap();
}
