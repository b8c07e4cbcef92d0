//! What is proven of other peers (L4, L6); what follows from it stands in `sender/blame.rs`.

use std::collections::BTreeMap;

use super::types::{PeerId, Term};

/// What was seen of a peer that lies, or is broken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Evidence {
    /// The term in which it was seen.
    pub term: Term,
    pub what: Offence,
}

/// What was found of each peer, last.
pub type Findings = BTreeMap<PeerId, Evidence>;

/// Each offence with the byte that stands for it in stores, for good, and what people read.
macro_rules! offences {
    ($($name:ident $code:literal $text:literal,)+) => {
        /// What no honest peer does.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Offence {
            $(#[doc = $text] $name,)+
        }

        impl Offence {
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// What stands for it in stores.
            pub fn code(self) -> u8 {
                match self {
                    $(Self::$name => $code,)+
                }
            }

            /// What that byte stands for.
            pub fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)+
                    _ => None,
                }
            }
        }
    };
}

offences! {
    HostAgainstCommitted 1 "the host's log conflicts with what is committed here",
    MemberAgainstCommitted 2 "a member's log conflicts with what is committed here",
    TwoEntries 3 "the host has made different entries at one place",
    BrokenChain 4 "the chain of hashes is broken",
    AnotherReign 5 "the host shows another reign than its own",
    NotChosen 6 "the host shows a reign, or voters, that nobody has chosen",
    AnotherCourse 7 "the host shows what was said in another course of the chat",
    RunningChatRecovered 8 "a recovery of the chat came from a host of the same generation",
    ForeignWords 9 "words in this peer's name that it has not said",
    NoNumber 10 "an entry without its author's number",
    NumberWithout 11 "an entry with a number that has none",
    Doubled 12 "the host has put a message into the log a second time",
    LeftOut 13 "the host has left out what an author said before",
    OutsidersWords 14 "the host has put words into the mouth of one who takes no part",
    ForgedWords 15 "the host has put words into this peer's mouth",
}
