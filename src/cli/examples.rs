//! Examples under the help texts.

pub const UP: &str = "\
Examples:
  demes up                                   your peer, for others to reach at port 7443
  demes up --name Ana --advertise ana.example:7443
  demes up --data-dir ~/ben --listen 127.0.0.1:7453 --client-listen 127.0.0.1:7454
                                             a second peer on this machine";
pub const NEW: &str = "\
Examples:
  demes new Friday                           a chat of your own; invite people later
  demes new Friday ben.example:7443 192.0.2.7:7443
  demes new Friday 20b3…af82@ben.example:7443
                                             only if that key answers there";
pub const INVITE: &str = "\
Examples:
  demes invite Friday cleo.example:7443
  demes invite Friday --link                 a link for one person, good for a week
  demes invite Friday --link --uses 3 --expires 2d";
pub const REVOKE: &str = "\
Examples:
  demes invites                              what there is to be ended
  demes revoke Friday 952125f7               the link whose id begins so
  demes revoke Friday cleo.example:7443      the invitation that went there";
pub const ACCEPT: &str = "\
Examples:
  demes invites                              what waits for your answer
  demes accept Friday
  demes accept -                             join by a link, which stdin has";
pub const TOKEN: &str = "\
Examples:
  export DEMES_TOKEN=$(demes token)            what stands in a command line, others can see
  grpcurl -plaintext -expand-headers -H 'authorization: Bearer ${DEMES_TOKEN}' 127.0.0.1:7444 list
  DEMES_TOKEN=$(kubectl exec demes-0 -- demes token) demes --peer-api 127.0.0.1:7444 chats";
pub const RENAME: &str = "\
Examples:
  demes rename Friday 'Friday evening'";
pub const SEND: &str = "\
It waits until a majority has the message on disk. What is queued is sent later, by itself; then the
exit code is 75.

Examples:
  demes send Friday 'See you at eight.'
  uptime | demes send Friday -
  demes send Friday 'On my way.' --no-wait   queued here is enough";
pub const FEED: &str = "\
Examples:
  demes feed                                 all chats, also those that come later
  demes feed Friday                          from the beginning, and on until Ctrl-C
  demes feed Friday --new                    only what happens from now on
  demes feed Friday -n 20 -s                 with the last 20 messages, and sequences
  demes feed Friday --after 42               what came after sequence 42
  demes feed Friday --json | jq -r '.message.text // empty'";
pub const HISTORY: &str = "\
Examples:
  demes history Friday                       the last 20 messages
  demes history Friday -n 100 --before 42    the 100 before sequence 42
  demes history Friday --json | jq '.messages[].sequence'";
pub const CHAT: &str = "\
What you type is sent; ✓ stands behind what a majority has on disk. Ctrl-D leaves when your own
messages are confirmed, Ctrl-C at once: what is queued is sent all the same. The exit code is 75 if
something is. /help shows what else can be typed.

Examples:
  demes chat Friday
  demes chat c0ff                            by the beginning of its id";
pub const STATUS: &str = "\
Examples:
  demes status                               this peer, and its chats
  demes status Friday                        one chat in full
  watch -n 1 demes status Friday";
pub const HAND_OVER: &str = "\
Examples:
  demes hand-over Friday                     to the best ranked member
  demes hand-over Friday Cleo";
pub const EXIT_CODES: &str = "\
Exit codes:
  0 done   1 refused   64 wrong usage or configuration   69 peer not reached
  70 a bug in demes   74 the disk is full, broken or not writable, or a key on it is not private
  75 queued, and not confirmed yet   130 interrupted   143 ended by SIGTERM";
