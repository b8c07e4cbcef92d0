//! Connections that are dead without a word, or frozen.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use demes::cli::demo::peer::Place;
use demes::cli::demo::proxy::Gate;
use demes::wire::pb;
use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Request;

use crate::harness::{Chat, story};

/// What forgets all connections that it has carried: nothing passes on them, and nobody is told.
#[derive(Default)]
struct Middlebox(Mutex<Vec<watch::Sender<bool>>>);

impl Middlebox {
    fn forget(&self) {
        for connection in self.0.lock().unwrap().drain(..) {
            connection.send_replace(false);
            // It stays shut.
            std::mem::forget(connection);
        }
    }
}

impl Gate for Middlebox {
    fn passes(&self, _: SocketAddr) -> [watch::Receiver<bool>; 2] {
        let (connection, passes) = watch::channel(true);
        self.0.lock().unwrap().push(connection);
        [passes.clone(), passes]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_connections_are_noticed_before_a_call_over_them_is_given_up() {
    story(async {
        let middlebox = Arc::new(Middlebox::default());
        let place = |_| Place::gated(Duration::ZERO, middlebox.clone()).unwrap();
        let mut chat = Chat::at((0..3).map(place).collect()).await;
        chat.says(1).await;
        middlebox.forget();
        let heard = async {
            for speaker in 0..3 {
                chat.says(speaker).await;
            }
        };
        // A call over a dead connection is given up after five seconds.
        timeout(Duration::from_millis(4_500), heard).await.expect("they have other connections");
        chat.finish().await;
    })
    .await;
}

/// What a program has given up while its peer was frozen is no attack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_programs_connection_outlives_a_frozen_peer() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let frozen = chat.others(&[chat.host().await.unwrap()])[0];
        chat.says(frozen).await;
        let client = chat.peers[frozen].client();
        chat.signal(frozen, Signal::SIGSTOP);
        for _ in 0..3 {
            let calls = (0..100).map(|_| {
                let mut client = client.clone();
                let mut request = Request::new(pb::GetChatRequest { chat: chat.chat.clone() });
                request.set_timeout(Duration::from_millis(100));
                async move { client.get_chat(request).await.expect_err("nobody answers") }
            });
            futures_util::future::join_all(calls).await;
        }
        chat.signal(frozen, Signal::SIGCONT);
        let request = pb::GetChatRequest { chat: chat.chat.clone() };
        for _ in 0..100 {
            let answer = client.clone().get_chat(request.clone()).await;
            answer.expect("the connection is as good as before");
        }
        chat.says(frozen).await;
        chat.finish().await;
    })
    .await;
}
