//! A graceful stop: the host hands over, and everybody says goodbye (R23, R26).

use super::event::Notice;
use super::message::Body;
use super::replica::{Replica, Stopping};

impl Replica {
    pub(super) fn on_stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        let deadline = self.now + self.config.lease_max_us;
        self.stopping = Some(Stopping::HandingOver { deadline });
        self.start_hand_over(None);
        if !self.is_handing_over() {
            self.say_goodbye();
        }
    }

    pub(super) fn say_goodbye(&mut self) {
        self.stopping = Some(Stopping::SaidGoodbye);
        for peer in self.others() {
            self.send(peer, Body::Goodbye);
        }
        self.ready.persisted_notices.push(Notice::MayStop);
    }
}
