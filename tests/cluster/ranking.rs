//! Who is next is measured, published, and the same for everyone (R12, R13).

use demes::wire::pb;

use crate::harness::{Chat, STEP, story};

/// Names of candidates with a score, best first.
fn ranked(chat: &pb::Chat) -> Vec<String> {
    let ranking = chat.ranking.clone().unwrap_or_default();
    let scored = ranking.candidates.into_iter().filter(|one| one.farness_us.is_some());
    scored.map(|one| one.peer_id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_best_placed_member_is_first_on_the_list_and_follows_the_host() {
    story(async {
        let mut chat = Chat::of(5, &[30, 22, 2, 40, 12]).await;
        let term = chat.chat_at(0).await.unwrap().term;
        let best_first = [2, 4, 1, 0, 3].map(|place: usize| chat.peers[place].id.clone());
        chat.all_see("the order of the distances", |chat| ranked(chat) == best_first)
            .await
            .unwrap();
        let ranking = chat.chat_at(3).await.unwrap().ranking.unwrap();
        let scores: Vec<_> = ranking.candidates.iter().filter_map(|one| one.farness_us).collect();
        assert!(scores.is_sorted(), "{scores:?}");
        assert_eq!(ranking.delays.len(), 5 * 4, "every directed delay is published");

        chat.says(1).await;
        chat.peers[0].kill().unwrap();
        chat.says(1).await;
        assert_eq!(chat.host_above(term, STEP).await.unwrap().0, 2, "the best backup is chosen");
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_are_equally_far_everyone_still_has_the_same_list() {
    story(async {
        let mut chat = Chat::of(5, &[10, 10, 10, 10, 10]).await;
        chat.says(3).await;
        chat.all_see("five scores", |chat| ranked(chat).len() == 5).await.unwrap();
        let mut lists = std::collections::BTreeMap::new();
        for place in 0..5 {
            let ranking = chat.chat_at(place).await.unwrap().ranking.unwrap();
            let list: Vec<_> = ranking.candidates.into_iter().map(|one| one.peer_id).collect();
            assert_eq!(list.len(), 5);
            let published = lists.entry((ranking.term, ranking.version)).or_insert(list.clone());
            assert_eq!(*published, list, "one version is one list");
        }
        chat.finish().await;
    })
    .await;
}
