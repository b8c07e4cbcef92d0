//! The table of a chat's life in every order of what may happen (`pairs`), and its steps on the
//! disk with a crash or an error at every write (`crash`).

mod crash;
mod pairs;

use std::sync::Arc;

use crate::crypto::Identity;
use crate::protocol::types::ChatId;
use crate::runtime::driver::{self, DriverOptions};
use crate::runtime::handle::{NewChat, NotAdded};
use crate::storage::DataDir;

/// Nobody would tell it to hand over and say goodbye.
#[tokio::test]
async fn a_chat_that_comes_after_the_stop_does_not_run() {
    let path = tempfile::tempdir().expect("a directory");
    let dir = DataDir::open(path.path()).expect("it opens");
    let identity = Identity::load_or_create(path.path()).expect("a key");
    let (identity, config) = (Arc::new(identity), Default::default());
    let (handle, _reports) = driver::start(DriverOptions { identity, config, keep_seat: false });
    let new = |id| {
        let anew = dir.follow(ChatId([id; 16]), 1, 0).expect("it begins");
        let (store, recovered) = (anew.store, anew.recovered);
        NewChat { id: store.chat(), store, recovered, contacts: vec![], carried: vec![] }
    };
    assert_eq!(handle.add(new(1)).await, Ok(()));
    handle.stop().await;
    assert_eq!(handle.add(new(4)).await, Err(NotAdded::Stopping));
    handle.close().await;
    assert_eq!(handle.add(new(5)).await, Err(NotAdded::Stopping));
    assert!(dir.open_chat(ChatId([4; 16])).is_ok(), "it is left for the next start");
}
