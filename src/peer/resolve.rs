//! What a person calls a chat or a member: an id, its beginning, or a name.

use std::sync::Arc;

use super::life::Faulty;
use super::node::Node;
use super::refusal::{self, Refusal};
use crate::protocol::event::Status as ChatStatus;
use crate::protocol::types::{ChatId, PeerId};
use crate::runtime::handle::ChatShared;
use crate::wire::hex;

/// Digits of an id that name what is to end for good: with fewer, a slip of one names another.
pub const SURE_DIGITS: usize = 8;
/// How alike two names are at least where one may have been meant by the other, of 1.
const ALIKE: f64 = 0.8;

/// A chat that a person has named.
pub enum Named {
    Running(Arc<ChatShared>),
    /// It does not run at the moment.
    Faulty(ChatId, Faulty),
}

/// The chat of that id, name, or beginning of an id; in this order, and only if it is one. Whether
/// letters are small or capital matters where it tells two names apart.
pub fn resolve_chat(node: &Node, text: &str) -> Result<Arc<ChatShared>, Refusal> {
    match resolve_any(node, text, 1)? {
        Named::Running(chat) => Ok(chat),
        Named::Faulty(_, faulty) => Err(faulty.refusal()),
    }
}

/// The same among all chats, those that do not run included; so many digits of an id are enough.
pub fn resolve_any(node: &Node, text: &str, digits_min: usize) -> Result<Named, Refusal> {
    // What programs send names its chat so: then the others need not be looked at.
    if let Ok(id) = text.parse::<ChatId>() {
        let faulty = node.lives.faulty().get(&id).cloned();
        let faulty = faulty.map(|faulty| Named::Faulty(id, faulty));
        let found = faulty.or_else(|| node.handle.chat(id).map(Named::Running));
        return found.ok_or_else(refusal::chat_not_found);
    }
    let faulty = node.lives.faulty().clone();
    let running = node.handle.chats().into_iter().filter(|chat| !faulty.contains_key(&chat.id));
    let running = running.map(|chat| {
        let name = chat.view.borrow().status.chat_name.clone();
        (hex(&chat.id.0), name, Named::Running(chat))
    });
    let mut chats: Vec<_> = running.collect();
    chats.extend(
        faulty
            .into_iter()
            .map(|(id, chat)| (hex(&id.0), chat.name.clone(), Named::Faulty(id, chat))),
    );
    pick(chats, text, digits_min).map_err(|missed| match missed {
        Missed::Nothing { alike } => refusal::chat_unknown(alike),
        Missed::Several(ids) => refusal::chat_ambiguous(ids),
        Missed::TooShort(id) => refusal::chat_unsure(id),
    })
}

/// The member of that id, name, or beginning of an id; so many digits of an id are enough.
pub fn resolve_peer(status: &ChatStatus, text: &str, digits_min: usize) -> Result<PeerId, Refusal> {
    let members = status.members.iter();
    let members = members.map(|(peer, member)| (hex(&peer.0), member.name.clone(), *peer));
    pick(members.collect(), text, digits_min).map_err(|missed| match missed {
        Missed::Nothing { alike } => refusal::peer_unknown(alike),
        Missed::Several(ids) => refusal::peer_ambiguous(ids),
        Missed::TooShort(id) => refusal::peer_unsure(id),
    })
}

/// Why nothing was found that a text surely means.
#[derive(PartialEq, Eq, Debug)]
enum Missed {
    /// Nothing is called so; perhaps that was meant.
    Nothing { alike: Option<String> },
    /// These are.
    Several(Vec<String>),
    /// This is, by fewer digits than are asked for.
    TooShort(String),
}

/// What is meant among things that have an id and a name each.
fn pick<T>(mut all: Vec<(String, String, T)>, text: &str, digits_min: usize) -> Result<T, Missed> {
    let (small, digits) = (text.to_lowercase(), text.to_ascii_lowercase());
    type Is<'a> = &'a dyn Fn(&str, &str) -> bool;
    let is_named: [Is<'_>; 3] =
        [&|id, _| id == digits, &|_, name| !text.is_empty() && name == text, &|_, name| {
            !text.is_empty() && name.to_lowercase() == small
        }];
    for is in is_named {
        let mut found: Vec<_> = all.extract_if(.., |(id, name, _)| is(id, name)).collect();
        match found.len() {
            0 => {}
            1 => return Ok(found.remove(0).2),
            _ => return Err(Missed::Several(found.into_iter().map(|(id, ..)| id).collect())),
        }
    }
    let begins = |id: &str| !digits.is_empty() && id.starts_with(&digits);
    let mut found: Vec<_> = all.extract_if(.., |(id, ..)| begins(id)).collect();
    match found.len() {
        0 => {
            let likeness = |name: &str| strsim::jaro_winkler(&name.to_lowercase(), &small);
            let names = all.into_iter().map(|(_, name, _)| (likeness(&name), name));
            let best = names.max_by(|(one, _), (other, _)| one.total_cmp(other));
            let best = best.filter(|(likeness, name)| *likeness >= ALIKE && !name.is_empty());
            Err(Missed::Nothing { alike: best.map(|(_, name)| name) })
        }
        1 if digits.len() < digits_min => Err(Missed::TooShort(found.remove(0).0)),
        1 => Ok(found.remove(0).2),
        _ => Err(Missed::Several(found.into_iter().map(|(id, ..)| id).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(text: &str, digits_min: usize) -> Result<u8, Missed> {
        let all =
            [("a0ffee0012", "Ana", 1), ("a0ffee0034", "ana", 2), ("bead000056", "Benedikt", 3)];
        let all = all.map(|(id, name, number)| (id.to_owned(), name.to_owned(), number));
        pick(all.to_vec(), text, digits_min)
    }

    #[test]
    fn case_matters_only_where_it_tells_two_apart() {
        assert_eq!((picked("Ana", 1), picked("ana", 1)), (Ok(1), Ok(2)));
        let both = ["a0ffee0012".to_owned(), "a0ffee0034".to_owned()];
        assert_eq!(picked("ANA", 1), Err(Missed::Several(both.to_vec())));
        assert_eq!((picked("BENEDIKT", 8), picked("BEAD0000", 8)), (Ok(3), Ok(3)));
        assert_eq!(picked("a0ffee", 1), Err(Missed::Several(both.to_vec())));
    }

    #[test]
    fn what_ends_something_needs_more_than_some_digits() {
        assert_eq!(picked("be", 1), Ok(3));
        assert_eq!(picked("be", SURE_DIGITS), Err(Missed::TooShort("bead000056".into())));
        assert_eq!(picked("bead0000", SURE_DIGITS), Ok(3));
        assert_eq!(picked("", 1), Err(Missed::Nothing { alike: None }));
    }

    #[test]
    fn what_was_perhaps_meant_is_named() {
        let alike = |name: &str| Err(Missed::Nothing { alike: Some(name.to_owned()) });
        assert_eq!(picked("benedict", 1), alike("Benedikt"));
        assert_eq!(picked("xylophone", 1), Err(Missed::Nothing { alike: None }));
    }
}
