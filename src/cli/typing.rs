//! What a person types in `chat`, and what is shown meanwhile: a line editor at a terminal, plain
//! lines elsewhere, as in a pipe or with TERM=dumb.
//!
//! The editor reads on a thread of its own, where it may hang when the process ends. What happens is
//! printed above the line that is being typed. A line that was entered is taken off the screen, so
//! that it stands there once: where the chat has it.

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal as _, Read as _, Write as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Editor, ExternalPrinter, Helper};
use tokio::sync::{mpsc, oneshot};
use unicode_width::UnicodeWidthChar as _;

use super::output::Output;

const PROMPT: &str = "> ";
/// Lines that have been read and not been sent yet; reading waits beyond it.
const LINES_MAX: usize = 16;
/// Lines of the session that the arrow keys bring back. They are on no disk.
const HISTORY_MAX: usize = 500;
/// A longer line is none that a person has typed; a text is refused far below it.
const LINE_BYTES_MAX: u64 = 64 * 1_024;
/// How often it is tried to have the screen before a line leaves the editor, a millisecond each.
const TRIES: u32 = 20;
const BRACKETED_PASTE_OFF: &str = "\x1b[?2004l";

/// What was typed.
#[derive(PartialEq, Eq, Debug)]
pub enum Typed {
    /// A line, or several that were pasted.
    Line(String),
    /// A line that is no text.
    NoText,
    /// The end: Ctrl-D.
    End,
    /// Ctrl-C, where the editor has the keyboard.
    Interrupt,
}

/// Where the talk is shown.
pub struct Screen {
    sink: Sink,
    /// Whether a person types, and so sees each line already, or saw it.
    pub is_typed: bool,
}

enum Sink {
    Plain(Output),
    Editor(mpsc::Sender<Shown>, Restore),
}

/// A line to be shown, and who wants to know that it was.
type Shown = (String, oneshot::Sender<io::Result<()>>);

impl Screen {
    /// Shows a line, or several.
    pub async fn line(&self, text: &str) -> io::Result<()> {
        let Sink::Editor(lines, _) = &self.sink else { return self.output(text) };
        let (done, shown) = oneshot::channel();
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        lines.send((format!("{text}\n"), done)).await.map_err(|_| gone())?;
        shown.await.unwrap_or_else(|_| Err(gone()))
    }

    fn output(&self, text: &str) -> io::Result<()> {
        match self.sink {
            Sink::Plain(output) => output.line(text),
            Sink::Editor(..) => Ok(()),
        }
    }
}

/// Gives the terminal back as it was, however the talk ends.
struct Restore(Termios);

impl Drop for Restore {
    fn drop(&mut self) {
        let mut stdout = io::stdout().lock();
        // Nothing can be done where the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
        let _ = write!(stdout, "{BRACKETED_PASTE_OFF}\r\x1b[K");
        let _ = stdout.flush();
    }
}

/// Begins to read, with an editor if both ends are a terminal that can do what one needs.
pub fn open(output: Output) -> (mpsc::Receiver<io::Result<Typed>>, Screen) {
    let (sender, typed) = mpsc::channel(LINES_MAX);
    let is_typed = io::stdin().is_terminal() && io::stdout().is_terminal();
    let sink = match is_typed.then(|| edited(sender.clone())).flatten() {
        Some(sink) => sink,
        None => {
            std::thread::spawn(move || read_plainly(io::stdin().lock(), &sender));
            Sink::Plain(output)
        }
    };
    (typed, Screen { sink, is_typed })
}

fn edited(typed: mpsc::Sender<io::Result<Typed>>) -> Option<Sink> {
    let restore = Restore(tcgetattr(io::stdin()).ok()?);
    let config = Config::builder().auto_add_history(true).max_history_size(HISTORY_MAX).ok()?;
    let history = MemHistory::with_config(&config.clone().build());
    let mut editor = Editor::with_history(config.build(), history).ok()?;
    let entering = Arc::new(Entering::default());
    editor.set_helper(Some(Line(Arc::clone(&entering))));
    // There is none for a terminal that cannot move its cursor.
    let Ok(printer) = editor.create_external_printer() else {
        std::mem::forget(restore);
        return None;
    };
    let (sender, lines) = mpsc::channel(1);
    let held = Arc::clone(&entering);
    std::thread::spawn(move || print_above(printer, lines, &held));
    std::thread::spawn(move || edit(editor, &entering, &typed));
    Some(Sink::Editor(sender, restore))
}

/// Whether a line is on its way out of the editor: until it is off the screen, nothing is printed.
#[derive(Default)]
struct Entering {
    is: Mutex<bool>,
    over: Condvar,
}

impl Entering {
    fn begin(&self) {
        for _ in 0..TRIES {
            if let Ok(mut is) = self.is.try_lock() {
                *is = true;
                return;
            }
            // Something is being printed, for which the editor may be needed: then the line stays.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(&self, erase: impl FnOnce()) {
        let mut is = self.is.lock().unwrap_or_else(PoisonError::into_inner);
        if *is {
            erase();
        }
        *is = false;
        self.over.notify_all();
    }

    fn wait(&self) -> MutexGuard<'_, bool> {
        let is = self.is.lock().unwrap_or_else(PoisonError::into_inner);
        self.over.wait_while(is, |is| *is).unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the editor asks about a line.
struct Line(Arc<Entering>);

impl Completer for Line {
    type Candidate = String;
}

impl Hinter for Line {
    type Hint = String;
}

impl Highlighter for Line {}

impl Validator for Line {
    fn validate(&self, _: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        self.0.begin();
        Ok(ValidationResult::Valid(None))
    }
}

impl Helper for Line {}

fn print_above(
    mut printer: impl ExternalPrinter,
    mut lines: mpsc::Receiver<Shown>,
    entering: &Entering,
) {
    while let Some((text, done)) = lines.blocking_recv() {
        let free = entering.wait();
        let printed = printer.print(text).map_err(io::Error::other);
        drop(free);
        // Whoever wanted it shown may have gone.
        let _ = done.send(printed);
    }
}

fn edit(
    mut editor: Editor<Line, MemHistory>,
    entering: &Entering,
    typed: &mpsc::Sender<io::Result<Typed>>,
) {
    loop {
        let read = editor.readline(PROMPT);
        let line = read.as_deref().unwrap_or_default();
        let columns = editor.dimensions().map_or(0, |(columns, _)| usize::from(columns));
        let rows = rows(&format!("{PROMPT}{line}"), columns);
        entering.end(|| erase(rows));
        let (what, is_last) = match read {
            Ok(line) => (Ok(Typed::Line(line)), false),
            Err(ReadlineError::Eof) => (Ok(Typed::End), true),
            Err(ReadlineError::Interrupted) => (Ok(Typed::Interrupt), true),
            Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                (Ok(Typed::NoText), false)
            }
            Err(error) => (Err(io::Error::other(error)), true),
        };
        if typed.blocking_send(what).is_err() || is_last {
            return;
        }
    }
}

/// How many rows of the screen a text takes, the cursor's behind it included.
fn rows(text: &str, columns: usize) -> usize {
    let (mut row, mut column) = (1, 0);
    for letter in text.chars() {
        let width = if letter == '\n' { columns } else { letter.width().unwrap_or(0) };
        column += width;
        if letter == '\n' || column > columns {
            row += 1;
            column = if letter == '\n' { 0 } else { width };
        }
    }
    row + usize::from(column == columns)
}

/// Takes the rows above the cursor off the screen.
fn erase(rows: usize) {
    let mut text = String::new();
    for _ in 0..rows {
        let _ = write!(text, "\x1b[1A\x1b[2K");
    }
    let mut stdout = io::stdout().lock();
    // A screen that is gone shows nothing twice.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// The lines of an input that nobody edits.
fn read_plainly(mut input: impl BufRead, typed: &mpsc::Sender<io::Result<Typed>>) {
    loop {
        let mut bytes = Vec::new();
        let what = match (&mut input).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes) {
            Ok(0) => Ok(Typed::End),
            Ok(_) if bytes.last() != Some(&b'\n') && bytes.len() as u64 == LINE_BYTES_MAX => {
                // Most of what was to be one line is thrown away, rather than sent in pieces.
                input.skip_until(b'\n').map(|_| Typed::NoText)
            }
            Ok(_) => Ok(match String::from_utf8(bytes) {
                Ok(line) => Typed::Line(line.trim_end_matches(['\n', '\r']).to_owned()),
                Err(_) => Typed::NoText,
            }),
            Err(error) => Err(error),
        };
        let is_last = matches!(what, Ok(Typed::End) | Err(_));
        if typed.blocking_send(what).is_err() || is_last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_as_the_terminal_wraps() {
        assert_eq!(rows("> hello", 80), 1);
        assert_eq!(rows("> hello", 6), 2);
        assert_eq!(rows("> hello", 7), 2, "the cursor stands on the next row");
        assert_eq!(rows("> one\ntwo\n", 80), 3);
        assert_eq!(rows("> 会議", 5), 2, "a wide letter does not fit into the last column");
    }

    #[test]
    fn a_bad_byte_costs_its_line_and_no_more() {
        let (sender, mut typed) = mpsc::channel(LINES_MAX);
        let long = vec![b'x'; LINE_BYTES_MAX as usize + 9];
        let input = [&b"one\r\ntw\xffo\n"[..], &long, b"\nthree"].concat();
        read_plainly(&input[..], &sender);
        drop(sender);
        let mut all = Vec::new();
        while let Some(what) = typed.blocking_recv() {
            all.push(what.expect("memory can be read"));
        }
        let line = |text: &str| Typed::Line(text.to_owned());
        assert_eq!(all, [line("one"), Typed::NoText, Typed::NoText, line("three"), Typed::End]);
    }
}
