//! The request ids that this peer's programs have used lately, with what became of each.

use std::collections::{HashMap, VecDeque};

use super::handle::Granted;
use crate::protocol::types::{Index, Number};

/// The most ids in memory. Older ones are found in the store, once they are committed.
const REQUESTS_MAX: usize = 16_384;

/// Recent requests by id. When it is full, the oldest is forgotten.
#[derive(Default)]
pub struct Requests {
    by_id: HashMap<String, Granted>,
    /// Those of this incarnation.
    by_number: HashMap<Number, String>,
    order: VecDeque<(String, Option<Number>)>,
}

impl Requests {
    /// What has become of a request.
    pub fn get(&self, id: &str) -> Option<Granted> {
        self.by_id.get(id).copied()
    }

    /// Takes note of a new request.
    pub fn add(&mut self, id: String, number: Number) {
        self.by_number.insert(number, id.clone());
        self.insert(id, Granted { number, index: None }, Some(number));
    }

    /// Takes note of a committed one of an earlier incarnation: until the store has it, a repeat
    /// finds it here only.
    pub fn add_outlived(&mut self, id: String, granted: Granted) {
        if !self.by_id.contains_key(&id) {
            self.insert(id, granted, None);
        }
    }

    /// The request of that number is committed.
    pub fn confirm(&mut self, number: Number, index: Index) {
        let known = self.by_number.get(&number).and_then(|id| self.by_id.get_mut(id));
        if let Some(known) = known.filter(|known| known.number == number) {
            known.index = Some(index);
        }
    }

    fn insert(&mut self, id: String, granted: Granted, number: Option<Number>) {
        if self.order.len() >= REQUESTS_MAX
            && let Some((id, number)) = self.order.pop_front()
        {
            self.by_id.remove(&id);
            number.and_then(|number| self.by_number.remove(&number));
        }
        self.by_id.insert(id.clone(), granted);
        self.order.push_back((id, number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_finds_the_first_result_and_the_oldest_is_forgotten() {
        let mut requests = Requests::default();
        requests.add("a".into(), 1);
        assert_eq!(requests.get("a"), Some(Granted { number: 1, index: None }));
        requests.confirm(1, 9);
        assert_eq!(requests.get("a"), Some(Granted { number: 1, index: Some(9) }));
        for number in 2..=REQUESTS_MAX as u64 + 1 {
            requests.add(number.to_string(), number);
        }
        assert_eq!(requests.get("a"), None);
        assert_eq!(requests.get("2"), Some(Granted { number: 2, index: None }));
    }

    #[test]
    fn a_repeat_finds_what_an_earlier_incarnation_has_said() {
        let mut requests = Requests::default();
        requests.add_outlived("a".into(), Granted { number: 1, index: Some(9) });
        requests.add("b".into(), 1);
        requests.confirm(1, 12);
        assert_eq!(requests.get("a"), Some(Granted { number: 1, index: Some(9) }));
        assert_eq!(requests.get("b"), Some(Granted { number: 1, index: Some(12) }));
    }
}
