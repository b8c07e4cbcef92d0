//! Programs of others on the person's own machine: other users, pages in a browser, and whoever
//! reaches loopback.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use demes::cli::demo::cluster::Cluster;
use demes::wire::pb;
use demes::wire::pb::client_service_client::ClientServiceClient;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
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
    drop(held);
    let grown_kib = most_kib() - before_kib;
    eprintln!("2,400 unfinished messages without the token: {grown_kib} KiB");
    assert!(grown_kib <= 48 << 10, "{grown_kib} KiB");
    timeout(PATIENCE, ada.say(0, "still here", "one")).await.expect("in time").expect("said");
}

// L9: who is refused keeps nobody out who has the token, however many places there are to take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_refused_hold_no_place() {
    let ada = ada().await;
    let taken = Arc::new(AtomicU64::new(0));
    let mut held = Vec::new();
    // As many connections as there are places, each with more than it may have under way.
    for _ in 0..256 {
        let channel = called(&ada, None).await;
        let path = "/demes.v1.ClientService/Feed";
        held.push(begin(&channel, path, 64, 2, &taken));
    }
    poured(&taken).await;
    let right = format!("Bearer {}", token(&ada));
    let mut client = ClientServiceClient::new(called(&ada, None).await);
    let answer = timeout(PATIENCE, client.list_chats(with("authorization", &right))).await;
    assert_eq!(answer.expect("in time").expect("answered").into_inner().chats.len(), 1);
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
    command.stdin(Stdio::null());
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
    // The listener on loopback is named: its own token, which lies here, is shown.
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
    // They reach the directory, and nothing in it.
    let above = Path::new(data_dir).ancestors().skip(1);
    for above in above.take_while(|it| it.starts_with(ada.root())) {
        std::fs::set_permissions(above, Permissions::from_mode(0o755)).expect("it is ours");
    }
    for arguments in [&["chats"][..], &["token"], &["status"]] {
        let mut command = demes(arguments);
        command.args(["--data-dir", data_dir]).uid(65_533).gid(65_533).env("HOME", other_dir);
        let (done, said) = run(&mut command).await;
        assert_eq!(done.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("another user"), "{arguments:?}: {said}");
    }
}

/// Starts Ada's peer again, after this was done while it did not run.
async fn again(ada: &mut Cluster, meanwhile: impl FnOnce(&Path)) {
    let peer = &mut ada.peers[0];
    peer.kill().expect("it runs");
    peer.gone().await.expect("it ends");
    meanwhile(&peer.data_dir());
    peer.start().await.expect("it starts");
}

// L9: the token stays, unless somebody else may know it; and it is told to nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_is_kept_as_long_as_nobody_else_could_read_it() {
    let mut ada = ada().await;
    let file = ada.peers[0].data_dir().join("client.token");
    let set_mode = |mode| {
        std::fs::set_permissions(&file, Permissions::from_mode(mode)).expect("it is ours");
    };
    ada.peers[0].set("DEMES__TELEMETRY__LOG_LEVEL", "trace");
    let first = token(&ada);
    again(&mut ada, |_| ()).await;
    assert_eq!(token(&ada), first);
    for case in ["deleted", "empty", "readable"] {
        let before = token(&ada);
        again(&mut ada, |_| match case {
            "deleted" => std::fs::remove_file(&file).expect("it is there"),
            "empty" => std::fs::write(&file, "").expect("written"),
            _ => set_mode(0o640),
        })
        .await;
        let mode = std::fs::metadata(&file).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{case}");
        let mut client = ClientServiceClient::new(called(&ada, None).await);
        let old = client.list_chats(with("authorization", &format!("Bearer {before}"))).await;
        assert_refused(old, Code::Unauthenticated, "TOKEN_REQUIRED");
        let new = format!("Bearer {}", token(&ada));
        client.list_chats(with("authorization", &new)).await.expect(case);
    }
    let log = std::fs::read_to_string(ada.peers[0].log_path()).expect("it has one");
    assert!(log.contains("others could read the token"), "{log}");
    for secret in [&first, &token(&ada)] {
        assert!(!log.contains(secret.as_str()), "it is in the log");
    }

    // The token is for this peer: not for whoever else listens on this machine.
    let data_dir = ada.peers[0].data_dir();
    let (asked, mut was_asked) = tokio::sync::mpsc::unbounded_channel();
    let other = tonic_health::server::health_reporter().1;
    let other = InterceptedService::new(other, move |request: Request<()>| {
        let _ = asked.send(request.metadata().contains_key("authorization"));
        Ok(request)
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it listens").to_string();
    let server = tonic::transport::Server::builder().add_service(other);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let data_dir = data_dir.to_str().expect("UTF-8");
    for (variable, shown) in [("", false), (first.as_str(), true)] {
        let mut command = demes(&["health", "--peer-api", &address, "--data-dir", data_dir]);
        let (done, said) = run(command.env("DEMES_TOKEN", variable)).await;
        assert!(done.status.success(), "{said}");
        assert_eq!(was_asked.recv().await, Some(shown));
    }
}

// L9: the socket is there while the peer is, in any directory, and is the first peer's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_is_there_while_the_peer_runs() {
    let root = tempfile::tempdir().expect("a directory");
    let long = format!("{}/data", "d".repeat(120));
    for (data_dir, end) in [("data", "killed"), (&long, "stopped")] {
        let here = |arguments: &[&str]| {
            let mut command = demes(arguments);
            command.args(["--data-dir", data_dir]).current_dir(root.path());
            command.env("XDG_CONFIG_HOME", root.path());
            command
        };
        let up = ["up", "--name", "Ada", "--until-stdin-ends", "--json"];
        let up = [&up[..], &["--listen", "127.0.0.1:0", "--client-listen", "127.0.0.1:0"]].concat();
        let socket = root.path().join(data_dir).join("client.sock");
        for start in ["first", "second"] {
            let mut peer = here(&up);
            peer.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut peer = peer.spawn().expect("it starts");
            let mut said = BufReader::new(peer.stdout.take().expect("piped")).lines();
            let said = timeout(PATIENCE, said.next_line()).await.expect("in time");
            let said = said.expect("read").expect("it says where it listens");
            assert!(
                said.contains(&format!("\"client_socket\":\"{data_dir}/client.sock\"")),
                "{said}"
            );
            for _ in 0..2 {
                let (done, said) = run(&mut here(&["chats"])).await;
                assert!(done.status.success(), "{data_dir}, {start}: {said}");
                // Another one is refused, and takes nothing away.
                let (done, said) = run(&mut here(&up)).await;
                assert!(!done.status.success() && said.contains("use"), "{said}");
            }
            match end {
                "killed" => peer.start_kill().expect("it runs"),
                _ => drop(peer.stdin.take()),
            }
            timeout(PATIENCE, peer.wait()).await.expect("in time").expect("it ends");
            let left = ["client.sock", "client.addr"].map(|it| socket.with_file_name(it).exists());
            assert_eq!(left, [end == "killed"; 2]);
            let (done, said) = run(&mut here(&["chats"])).await;
            assert_eq!(done.status.code(), Some(69), "{said}");
            assert!(said.contains("is the peer running?"), "{said}");
        }
    }
}
