//! The request ids that this peer's programs have used lately, with what became of each.

use std::collections::{HashMap, VecDeque};

use super::handle::Granted;
use crate::protocol::types::{Index, Number};

/// The most ids in memory. Older ones are found in the store, once they are committed.
const REQUESTS_MAX: usize = 16_384;

/// Recent requests by id. When it is full, the oldest is forgotten.
#[derive(Default)]
pub struct Requests {
    by_id: HashMap<String, Number>,
    by_number: HashMap<Number, Option<Index>>,
    order: VecDeque<(String, Number)>,
}

impl Requests {
    /// What has become of a request.
    pub fn get(&self, id: &str) -> Option<Granted> {
        let number = *self.by_id.get(id)?;
        Some(Granted { number, index: self.by_number.get(&number).copied().flatten() })
    }

    /// Takes note of a new request.
    pub fn add(&mut self, id: String, number: Number) {
        if self.order.len() >= REQUESTS_MAX
            && let Some((id, number)) = self.order.pop_front()
        {
            self.by_id.remove(&id);
            self.by_number.remove(&number);
        }
        self.by_number.insert(number, None);
        self.by_id.insert(id.clone(), number);
        self.order.push_back((id, number));
    }

    /// The request of that number is committed.
    pub fn confirm(&mut self, number: Number, index: Index) {
        if let Some(known) = self.by_number.get_mut(&number) {
            *known = Some(index);
        }
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
}
