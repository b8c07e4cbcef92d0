//! What a line that was typed in `chat` asks for: to be sent, or something else.

/// What `/help` shows.
pub const HELP: &str = "\
What you type is sent; several lines that are pasted are one message.
  /me waves    is shown as an action of yours
  /who         who takes part, and who is there
  /quit        leaves, as Ctrl-D does, when your messages are confirmed
  //text       sends /text
Arrow keys bring back and edit what you typed, Ctrl-C leaves at once.";

const COMMANDS: [(&str, Said); 3] =
    [("/help", Said::Help), ("/quit", Said::Quit), ("/who", Said::Who)];
/// Said in the third person, by its author; it is sent as it is, and shown otherwise, as XEP-0245
/// does.
pub const ACTION: &str = "/me ";

/// What a line asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// This text is to be sent.
    Text(String),
    Help,
    Quit,
    Who,
    /// Nothing: the line is blank.
    Nothing,
    /// What it is, cannot be told; why, for the person.
    Unclear(String),
}

/// The first letter of a text that is none: what a terminal would obey is never sent.
pub fn control_in(text: &str) -> Option<char> {
    text.chars().find(|letter| letter.is_control() && !matches!(letter, '\n' | '\t'))
}

/// Reads what was typed. A control sequence is never a text.
pub fn read(line: &str) -> Said {
    let line = line.trim_end_matches('\n');
    if line.trim().is_empty() {
        return Said::Nothing;
    }
    if let Some(bad) = control_in(line) {
        let code = u32::from(bad);
        return Said::Unclear(format!("it has a control character in it (U+{code:04X})"));
    }
    let is_command = line.starts_with('/') && !line.contains('\n');
    if !is_command || line.starts_with(ACTION) {
        return Said::Text(line.to_owned());
    }
    if let Some(text) = line.strip_prefix("//") {
        return Said::Text(format!("/{text}"));
    }
    let word = line.split_whitespace().next().unwrap_or(line);
    let named = COMMANDS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    named.map(|(_, said)| said).unwrap_or_else(|| {
        Said::Unclear(format!("there is no {word}; /help says what there is, //… sends /…"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_begins_a_command_and_two_begin_a_text() {
        let text = |text: &str| Said::Text(text.to_owned());
        for (line, said) in [
            ("hi", text("hi")),
            (" /quit", text(" /quit")),
            ("/quit", Said::Quit),
            ("/QUIT now", Said::Quit),
            ("/who ", Said::Who),
            ("/help", Said::Help),
            ("//etc/hosts", text("/etc/hosts")),
            ("/me waves", text("/me waves")),
            ("/etc/hosts has it\n/quit\n", text("/etc/hosts has it\n/quit")),
            (" \n", Said::Nothing),
        ] {
            assert_eq!(read(line), said, "{line:?}");
        }
        for line in ["/me", "/etc/hosts", "/", "/quitt"] {
            assert!(matches!(read(line), Said::Unclear(_)), "{line}");
        }
    }

    #[test]
    fn a_control_sequence_is_no_text() {
        for line in ["\x1b[A", "a\x08b", "a\u{9b}2J", "one\ntwo\x07", "//\x1b[2J", "/me \x1b[2J"] {
            assert!(matches!(read(line), Said::Unclear(_)), "{line:?}");
        }
        assert_eq!(read("a\tb"), Said::Text("a\tb".to_owned()));
    }
}
