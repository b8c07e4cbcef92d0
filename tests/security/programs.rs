//! Programs of others on the person's own machine: other users, pages in a browser, and whoever
//! reaches loopback.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use demes::cli::demo::cluster::Cluster;
use demes::wire::pb;
use demes::wire::pb::client_service_client::ClientServiceClient;
use tokio::process::Command;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::doors::{begin, poured};
use crate::peer::{PATIENCE, assert_refused};

/// Ada's peer with a chat, as it is without any setting.
async fn ada() -> Cluster {
    let binary = Path::new(env!("CARGO_BIN_EXE_demes"));
    let mut cluster = Cluster::new(binary, &["Ada"], &[]).expect("prepared");
    cluster.start_all().await.expect("started");
    cluster.found("lunch").await.expect("a chat");
    cluster
}

fn programs(ada: &Cluster) -> String {
    let file = ada.peers[0].data_dir().join("client.addr");
    std::fs::read_to_string(file).expect("it listens").trim().to_owned()
}

fn token(ada: &Cluster) -> String {
    let file = ada.peers[0].data_dir().join("client.token");
    std::fs::read_to_string(file).expect("it has one").trim().to_owned()
}

/// A connection on loopback, which calls the peer by this name.
async fn called(ada: &Cluster, name: Option<&str>) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", programs(ada))).expect("an address");
    let endpoint = match name {
        Some(name) => endpoint.origin(format!("http://{name}").parse().expect("a name")),
        None => endpoint,
    };
    endpoint.connect().await.expect("it listens")
}

fn with(header: &'static str, value: &str) -> Request<pb::ListChatsRequest> {
    let mut request = Request::new(pb::ListChatsRequest {});
    request.metadata_mut().insert(header, value.parse::<MetadataValue<_>>().expect("ASCII"));
    request
}

// L9: nobody on loopback asks anything without the token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_token_every_call_is_refused_before_it_is_read() {
    let ada = ada().await;
    let channel = called(&ada, None).await;
    let refused = (Code::Unauthenticated, "TOKEN_REQUIRED");
    let mut client = ClientServiceClient::new(channel.clone());
    let answer = client.list_chats(pb::ListChatsRequest {}).await;
    let told = answer.as_ref().expect_err("refused").message().to_owned();
    assert!(told.contains("demes token") && told.contains("client.sock"), "{told}");
    assert_refused(answer, refused.0, refused.1);
    assert_refused(client.feed(pb::FeedRequest::default()).await.map(drop), refused.0, refused.1);
    let health = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    assert_refused(health, refused.0, refused.1);
    let right = token(&ada);
    let mut wrong = right.clone().into_bytes();
    wrong[63] = if wrong[63] == b'0' { b'1' } else { b'0' };
    let wrong = String::from_utf8(wrong).expect("ASCII");
    for given in [format!("Bearer {wrong}"), right.clone(), format!("Basic {right}")] {
        let answer = client.list_chats(with("authorization", &given)).await;
        assert_refused(answer, refused.0, refused.1);
    }
    let answer = client.list_chats(with("authorization", &format!("Bearer {right}"))).await;
    assert_eq!(answer.expect("it is right").into_inner().chats.len(), 1);

    // What is refused holds nothing, however much it begins.
    let pid = ada.peers[0].pid().expect("it runs");
    let most_kib = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    let (before_kib, taken) = (most_kib(), Arc::new(AtomicU64::new(0)));
    let mut held = Vec::new();
    for _ in 0..12 {
        let channel = called(&ada, None).await;
        let path = "/demes.v1.ClientService/SendMessage";
        held.extend(begin(&channel, path, 64 << 10, 200, &taken));
    }
    poured(&taken).await;
    let grown_kib = most_kib() - before_kib;
    eprintln!("2,400 unfinished messages without the token: {grown_kib} KiB");
    assert!(grown_kib <= 48 << 10, "{grown_kib} KiB");
    timeout(PATIENCE, ada.say(0, "still here", "one")).await.expect("in time").expect("said");
}

// L9: a page cannot make a browser ask, whatever name it gives this machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_names_and_pages_are_refused() {
    let ada = ada().await;
    let right = format!("Bearer {}", token(&ada));
    for (name, fits) in [
        ("localhost:7444", true),
        ("127.0.0.1", true),
        ("[::1]:1", true),
        ("page.example", false),
        ("10.1.2.3:7444", false),
        ("localhost.page.example", false),
    ] {
        let mut client = ClientServiceClient::new(called(&ada, Some(name)).await);
        let answer = client.list_chats(with("authorization", &right)).await;
        match fits {
            true => drop(answer.expect(name)),
            false => assert_refused(answer, Code::PermissionDenied, "NOT_LOCAL"),
        }
    }
    let mut client = ClientServiceClient::new(called(&ada, None).await);
    for origin in ["http://page.example", "http://localhost:7444", "null"] {
        let mut request = with("authorization", &right);
        request.metadata_mut().insert("origin", origin.parse().expect("ASCII"));
        let answer = client.list_chats(request).await;
        assert_refused(answer, Code::PermissionDenied, "NOT_LOCAL");
    }
}

async fn run(command: &mut Command) -> (Output, String) {
    let output = timeout(PATIENCE, command.output()).await.expect("it ends").expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

fn demes(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demes"));
    command.args(arguments).env_remove("DEMES_TOKEN").kill_on_drop(true);
    command.stdin(std::process::Stdio::null());
    command
}

// L9: commands need no token on their own machine, and no other user can do what they do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_use_the_socket_and_other_users_cannot() {
    let ada = ada().await;
    let elsewhere = tempfile::tempdir().expect("a directory");
    let (data_dir, address) = (ada.peers[0].data_dir(), programs(&ada));
    let data_dir = data_dir.to_str().expect("UTF-8");
    let other_dir = elsewhere.path().to_str().expect("UTF-8");
    let chats = |more: &[&str]| demes(&[&["chats"], more].concat());
    let (done, said) = run(&mut chats(&["--data-dir", data_dir])).await;
    assert!(done.status.success(), "{said}");
    // The listener on loopback is named: the token here is shown.
    let named = ["--peer-api", address.as_str(), "--data-dir", data_dir];
    let (done, said) = run(&mut chats(&named)).await;
    assert!(done.status.success(), "{said}");
    let without = ["--peer-api", address.as_str(), "--data-dir", other_dir];
    let (done, said) = run(&mut chats(&without)).await;
    assert!(!done.status.success() && said.contains("demes token"), "{said}");
    let (done, said) = run(&mut demes(&["token", "--data-dir", data_dir])).await;
    assert!(done.status.success(), "{said}");
    let token = String::from_utf8(done.stdout).expect("ASCII");
    let (done, said) = run(chats(&without).env("DEMES_TOKEN", token.trim())).await;
    assert!(done.status.success(), "{said}");
    if !nix::unistd::geteuid().is_root() {
        return; // Only root can play another user.
    }
    for arguments in [&["chats"][..], &["token"], &["status"]] {
        let mut command = demes(arguments);
        command.args(["--data-dir", data_dir]).uid(65_533).gid(65_533).env("HOME", other_dir);
        let (done, said) = run(&mut command).await;
        assert!(!done.status.success(), "{arguments:?}: {said}");
    }
}
