//! What operators see of real peers: metrics both ways, and logs that keep everything private.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use demes::cli::demo::peer::{Peer, free_address, until};
use demes::telemetry::metrics::{CHAT, PEER, TABLE, prometheus_name};
use demes::wire::pb;
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;

use crate::harness::{Chat, STEP, story};

const SCRAPE: &str = "/metrics";

/// One request to the listener for metrics: the head and the body of the answer.
async fn get(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.expect("the listener is there");
    let request = format!("{request} HTTP/1.1\r\nHost: peer\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_owned(), body.to_owned())
}

/// The series of a scrape: name and labels, and the value.
async fn scrape(address: &str) -> BTreeMap<String, f64> {
    let (head, body) = get(address, &format!("GET {SCRAPE}")).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    // Bodies may come in chunks; the sizes of those stand on lines of their own.
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    let series = lines.filter_map(|line| line.rsplit_once(' '));
    series.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

/// The sum of all series of a name whose labels have all of these.
fn sum(series: &BTreeMap<String, f64>, name: &str, labels: &[&str]) -> f64 {
    let is = |key: &str| {
        key.split('{').next() == Some(name) && labels.iter().all(|label| key.contains(label))
    };
    series.iter().filter(|(key, _)| is(key)).map(|(_, value)| value).sum()
}

/// A chat of three whose peers tell Prometheus their metrics, at these addresses.
async fn measured() -> (Chat, Vec<String>) {
    let mut chat = Chat::prepared(3, &[]);
    let mut addresses = Vec::new();
    for peer in &mut chat.peers {
        let address = free_address().unwrap().to_string();
        peer.set("DEMES__METRICS__LISTEN", &address);
        addresses.push(address);
    }
    chat.start_all().await.unwrap();
    chat.found("Friday").await.unwrap();
    (chat, addresses)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_is_told_what_happens() {
    story(async {
        let (mut chat, addresses) = measured().await;
        let (host, term) = chat.host_above(0, STEP).await.unwrap();
        let others = chat.others(&[host]);
        for _ in 0..5 {
            chat.says(others[0]).await;
        }
        let refused = pb::SendMessageRequest { chat: chat.chat.clone(), ..Default::default() };
        chat.peers[host].client().send_message(refused).await.expect_err("it has no text");

        let label = format!("demes_chat_id=\"{}\"", chat.chat);
        let at_host = scrape(&addresses[host]).await;
        assert_eq!(sum(&at_host, "demes_chat_hosting", &[&label]), 1.0);
        assert_eq!(sum(&at_host, "demes_voter_in_contact", &[&label]), 3.0);
        assert_eq!(sum(&at_host, "demes_member_joined", &[&label]), 3.0);
        assert_eq!(sum(&at_host, "demes_peer_links", &["\"up\""]), 2.0);
        assert!(sum(&at_host, "demes_entry_commit_duration_seconds_count", &[]) >= 5.0);
        assert!(sum(&at_host, "demes_storage_sync_duration_seconds_count", &[]) >= 5.0);
        assert!(sum(&at_host, "demes_host_tenure_seconds", &[&label]) > 0.0);
        let empty = ["error_type=\"TEXT_EMPTY\""];
        assert_eq!(sum(&at_host, "demes_input_rejected_total", &empty), 1.0);
        let sent = ["ClientService/SendMessage\"", "\"INVALID_ARGUMENT\""];
        assert_eq!(sum(&at_host, "rpc_server_call_duration_seconds_count", &sent), 1.0);
        for name in ["process_memory_usage_bytes", "process_cpu_time_seconds_total"] {
            assert!(sum(&at_host, name, &[]) > 0.0, "{name}");
        }
        let at_sender = scrape(&addresses[others[0]]).await;
        assert!(sum(&at_sender, "demes_message_confirm_duration_seconds_count", &[]) >= 5.0);
        assert!(sum(&at_sender, "demes_message_delivery_duration_seconds_count", &[]) >= 5.0);
        assert!(sum(&at_sender, "demes_entry_committed_total", &[&label]) >= 5.0);

        chat.peers[host].kill().unwrap();
        chat.says(others[0]).await;
        let (next, _) = chat.host_above(term, STEP).await.unwrap();
        chat.says(next).await;
        // Who is out of reach, the new host finds out.
        let address = &addresses[next];
        let tells_of_the_dead = || async {
            let told = scrape(address).await;
            (sum(&told, "demes_member_unreachable", &[&label]) == 1.0).then_some(told)
        };
        let at_next = until(STEP, "one member out of reach", tells_of_the_dead).await.unwrap();
        assert!(sum(&at_next, "demes_election_events_total", &[&label, "\"won\""]) >= 1.0);
        assert!(sum(&at_next, "demes_host_changes_total", &[&label]) >= 1.0);
        assert!(sum(&at_next, "demes_chat_term", &[&label]) > term as f64);

        // Every series has a name that is in the table.
        let mut names: Vec<_> = TABLE.iter().map(prometheus_name).collect();
        names.push("target_info".into());
        for key in at_host.keys().chain(at_next.keys()) {
            let name = key.split('{').next().unwrap_or_default();
            let stem = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let known = |name: &str| names.iter().any(|known| known == name);
            assert!(known(name) || stem.is_some_and(known), "{key}");
        }
        for (request, code) in [("GET /", "404"), ("POST /metrics", "405")] {
            let (head, body) = get(&addresses[next], request).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {code}")), "{head}");
            assert!(body.contains("/metrics"), "it says where to look: {body}");
        }
        chat.finish().await;
    })
    .await;
}

/// Waits until a peer tells of two other members, the first behind by these entries and the second
/// by none.
async fn tells_lags(chat: &Chat, address: &str, slow: usize, quick: usize, is: fn(f64) -> bool) {
    let name = "demes_member_lag";
    let told = until(STEP, "the lag of each member", || async {
        let series = scrape(address).await;
        let of = |place: usize| {
            let peer = format!("demes_peer_id=\"{}\"", &chat.peers[place].id[..8]);
            let chat = format!("demes_chat_id=\"{}\"", chat.chat);
            sum(&series, name, &[&chat, &peer])
        };
        let count = series.keys().filter(|key| key.starts_with(&format!("{name}{{"))).count();
        (count == 2 && is(of(slow)) && of(quick) == 0.0).then_some(())
    });
    if let Err(error) = told.await {
        let mut series = scrape(address).await;
        series.retain(|key, _| key.starts_with(name));
        panic!("{error}: {series:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_tells_how_far_each_member_is_behind() {
    story(async {
        let (mut chat, addresses) = measured().await;
        let (host, _) = chat.host_above(0, STEP).await.unwrap();
        let others = chat.others(&[host]);
        let (slow, quick) = (others[0], others[1]);
        tells_lags(&chat, &addresses[host], slow, quick, |lag| lag == 0.0).await;

        chat.signal(slow, Signal::SIGSTOP);
        for _ in 0..3 {
            chat.says(quick).await;
        }
        tells_lags(&chat, &addresses[host], slow, quick, |lag| lag >= 3.0).await;
        let at_member = scrape(&addresses[quick]).await;
        let told = at_member.keys().find(|key| key.starts_with("demes_member_lag{"));
        assert_eq!(told, None, "who only hears of it does not tell");

        chat.signal(slow, Signal::SIGCONT);
        tells_lags(&chat, &addresses[host], slow, quick, |lag| lag == 0.0).await;
        chat.finish().await;
    })
    .await;
}

/// Passes on what it is sent.
struct Collector(mpsc::Sender<ExportMetricsServiceRequest>);

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        let over = |_| tonic::Status::unavailable("the test is over");
        self.0.send(request.into_inner()).await.map_err(over)?;
        Ok(tonic::Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// Attributes whose values are texts.
fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        other => panic!("no text: {other:?}"),
    };
    attributes.into_iter().map(|it| (it.key, text(it.value))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_is_told_the_same_by_otlp() {
    story(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (sender, mut exports) = mpsc::channel(64);
        let server = tonic::transport::Server::builder()
            .add_service(MetricsServiceServer::new(Collector(sender)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        let mut chat = Chat::prepared(2, &[]);
        for peer in &mut chat.peers {
            for (key, value) in [("OTLP_INTERVAL_S", "1"), ("OTLP_TEMPORALITY", "delta")] {
                peer.set(&format!("DEMES__METRICS__{key}"), value);
            }
            peer.set("DEMES__TELEMETRY__OTLP_ENDPOINT", &endpoint);
        }
        chat.start_all().await.unwrap();
        chat.found("Friday").await.unwrap();
        chat.says(0).await;

        let row = |name: &str| TABLE.iter().find(|row| row.name == name).expect("in the table");
        let told = async {
            let mut hosts = false;
            let mut committed = 0;
            let mut lags: Vec<BTreeMap<String, String>> = Vec::new();
            while !(hosts && committed >= 1 && !lags.is_empty()) {
                let export = exports.recv().await.expect("the collector runs");
                let resources = export.resource_metrics.into_iter();
                for metric in resources.flat_map(|it| it.scope_metrics).flat_map(|it| it.metrics) {
                    let row = row(&metric.name);
                    let told = (metric.unit.as_str(), metric.description.as_str());
                    assert_eq!(told, (row.unit, row.meaning));
                    match metric.data {
                        Some(Data::Gauge(it)) if row.name == "demes.chat.hosting" => {
                            let last = it.data_points.first().and_then(|point| point.value);
                            hosts |= last == Some(Value::AsDouble(1.0));
                        }
                        Some(Data::Gauge(it)) if row.name == "demes.member.lag" => {
                            lags.extend(it.data_points.into_iter().map(|it| texts(it.attributes)));
                        }
                        Some(Data::Sum(it)) if row.name == "demes.entry.committed" => {
                            assert_eq!(it.aggregation_temporality, 1, "delta, as it was set");
                            for point in it.data_points {
                                let Some(Value::AsInt(count)) = point.value else { continue };
                                committed += count;
                            }
                        }
                        _ => {}
                    }
                }
            }
            lags
        };
        let told = tokio::time::timeout(Duration::from_secs(30), told).await;
        let (chat_id, peers) = (&chat.chat, &chat.peers);
        for lag in told.expect("told in time") {
            let is_of = |peer: &Peer| {
                let of = [(CHAT, chat_id.as_str()), (PEER, &peer.id[..8])];
                lag == of.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
            };
            assert!(peers.iter().any(is_of), "of a member of the chat: {lag:?}");
        }
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_at_their_loudest_have_no_text_name_or_address() {
    story(async {
        let mut chat = Chat::prepared(3, &[]);
        for (place, peer) in chat.peers.iter_mut().enumerate() {
            peer.set("DEMES__TELEMETRY__LOG_LEVEL", "trace");
            peer.set("DEMES__TELEMETRY__LOG_FORMAT", if place == 0 { "text" } else { "json" });
        }
        chat.start_all().await.unwrap();
        chat.found("Friday").await.unwrap();
        let (host, term) = chat.host_above(0, STEP).await.unwrap();
        let others = chat.others(&[host]);
        for speaker in [host, others[0], others[1]] {
            chat.says(speaker).await;
        }
        // What goes wrong is logged too: bad input, strangers, peers that are gone, and elections.
        let client = chat.peers[others[0]].client();
        let invite = pb::InviteMemberRequest {
            chat: chat.chat.clone(),
            address: free_address().unwrap().to_string(),
            ..Default::default()
        };
        let _ = client.clone().invite_member(invite).await;
        let _ = TcpStream::connect(chat.peers[others[0]].address()).await.unwrap();
        let message = pb::SendMessageRequest { chat: "Nowhere".into(), ..Default::default() };
        client.clone().send_message(message).await.expect_err("there is no such chat");
        chat.peers[host].kill().unwrap();
        chat.says(others[0]).await;
        chat.host_above(term, STEP).await.unwrap();
        chat.peers[host].start().await.unwrap();
        chat.settled().await.unwrap();

        let mut private: Vec<String> = ["text of", "request-", "Friday", "Nowhere"]
            .map(str::to_owned)
            .into_iter()
            .chain(chat.peers.iter().map(|peer| peer.address().to_string()))
            .collect();
        private.push("127.0.0.1".into());
        let names: Vec<_> = chat.peers.iter().map(|peer| peer.name.clone()).collect();
        for peer in &chat.peers {
            let log = fs::read_to_string(peer.log_path()).unwrap();
            for line in log.lines() {
                let found = private.iter().find(|text| line.contains(text.as_str()));
                assert_eq!(found, None, "{line}");
                let mut words = line.split(|letter: char| !letter.is_alphanumeric());
                assert!(!words.any(|word| names.iter().any(|name| name == word)), "{line}");
            }
            assert!(log.contains("host changed"), "there is something to look at: {log}");
        }
        let json = fs::read_to_string(chat.peers[1].log_path()).unwrap();
        for line in json.lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("one object a line");
            for field in ["timestamp", "level", "target", "message"] {
                assert!(line[field].is_string(), "{field}: {line}");
            }
        }
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_up_signal_has_the_log_level_read_again() {
    story(async {
        let mut chat = Chat::prepared(1, &[]);
        chat.start_all().await.unwrap();
        chat.found("Friday").await.unwrap();
        let file = chat.peers[0].data_dir().join(demes::config::FILE_NAME);
        let path = chat.peers[0].log_path();
        let log = || fs::read_to_string(&path).unwrap();
        let logged = |text: &'static str| {
            until(STEP, text, move || async move { log().contains(text).then_some(()) })
        };
        fs::write(&file, "[telemetry]\nlog_level = \"demes=loud\"\n").unwrap();
        chat.signal(0, Signal::SIGHUP);
        logged("the log level stays").await.unwrap();

        // What is read again holds at once: at `error` not even that it was read is written.
        for level in ["error", "debug"] {
            fs::write(&file, format!("[telemetry]\nlog_level = \"{level}\"\n")).unwrap();
            chat.signal(0, Signal::SIGHUP);
            chat.says(0).await;
        }
        logged("log_level=\"debug\"").await.unwrap();
        assert!(!log().contains("log_level=\"error\""), "{}", log());
        chat.says(0).await;
        chat.finish().await;
    })
    .await;
}
