//! What a person types in `chat`, and what is shown meanwhile: a line editor at a terminal, plain
//! lines elsewhere, as in a pipe or with TERM=dumb.
//!
//! The editor reads on a thread of its own, where it may hang when the process ends. What happens
//! is printed above the line that is being typed. A line that was entered is taken off the screen,
//! so that it stands there once: where the chat has it.

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal as _, Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Context, Editor, ExternalPrinter, Helper};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use unicode_width::UnicodeWidthChar as _;

use super::output::Output;
use crate::config::is_dumb_terminal;

const PROMPT: &str = "> ";
/// Lines that have been read and not been sent yet; reading waits beyond it.
const LINES_MAX: usize = 16;
/// Lines of the session that the arrow keys bring back. They are on no disk.
const HISTORY_MAX: usize = 500;
/// A longer line is none that a person has typed; a text is refused far below it.
const LINE_BYTES_MAX: u64 = 64 * 1_024;
/// How often it is tried to have the screen before a line leaves the editor, a millisecond each.
const TRIES: u32 = 20;
/// Columns between two places to which a tabulator leads.
const TAB: usize = 8;
/// How long what is shown may take while the editor leaves.
const LAST_LINE_TIMEOUT: Duration = Duration::from_millis(100);
const BRACKETED_PASTE_OFF: &str = "\x1b[?2004l";

/// What was typed.
#[derive(PartialEq, Eq, Debug)]
pub enum Typed {
    /// A line, or several that were pasted.
    Line(String),
    /// Something that is no text, which is left out: a byte at a terminal, else its whole line.
    NoText,
    /// The end: Ctrl-D.
    End,
    /// Ctrl-C, where the editor has the keyboard.
    Interrupt,
}

/// Where the talk is shown.
pub struct Screen {
    output: Output,
    editor: Option<Above>,
    /// Whether a person types at a terminal.
    pub is_typed: bool,
}

/// The editor's screen above its line.
struct Above {
    lines: mpsc::Sender<Shown>,
    /// The editor has left: its screen is an ordinary one.
    over: CancellationToken,
    _restore: Restore,
}

/// A line to be shown, and who wants to know that it was.
type Shown = (String, oneshot::Sender<io::Result<()>>);

impl Screen {
    /// Whether the entered line has left the screen, which an ordinary terminal still shows.
    pub fn is_edited(&self) -> bool {
        self.editor.is_some()
    }

    /// Takes the keyboard away from the editor: what is shown from now on surely stands there.
    pub fn close(&mut self) {
        self.editor = None;
    }

    /// Shows a line, or several.
    pub async fn line(&self, text: &str) -> io::Result<()> {
        match &self.editor {
            Some(editor) if !editor.over.is_cancelled() => editor.line(text).await,
            _ => self.output.line(text),
        }
    }
}

impl Above {
    async fn line(&self, text: &str) -> io::Result<()> {
        let (done, shown) = oneshot::channel();
        let printed = async {
            self.lines.send((format!("{text}\n"), done)).await.ok()?;
            shown.await.ok()
        };
        // An editor that leaves meanwhile may not take it any more.
        let late = async {
            self.over.cancelled().await;
            sleep(LAST_LINE_TIMEOUT).await;
        };
        tokio::select! {
            Some(printed) = printed => printed,
            () = late => Ok(()),
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
    let has_editor = is_typed && !is_dumb_terminal();
    let editor = has_editor.then(|| edited(sender.clone())).flatten();
    if editor.is_none() {
        std::thread::spawn(move || read_plainly(io::stdin().lock(), &sender));
    }
    (typed, Screen { output, editor, is_typed })
}

fn edited(typed: mpsc::Sender<io::Result<Typed>>) -> Option<Above> {
    let config = Config::builder().auto_add_history(true).max_history_size(HISTORY_MAX).ok()?;
    let config = config.build();
    let history = MemHistory::with_config(&config);
    let mut editor = Editor::with_history(config, history).ok()?;
    let entering = Arc::new(Entering::default());
    editor.set_helper(Some(Line { entering: Arc::clone(&entering), so_far: Mutex::default() }));
    // There is none for a terminal that cannot move its cursor.
    let printer = editor.create_external_printer().ok()?;
    let before = tcgetattr(io::stdin()).ok()?;
    // What is typed between two lines is the next one's, and is shown there.
    let mut silent = before.clone();
    silent.local_modes -= LocalModes::ECHO;
    tcsetattr(io::stdin(), OptionalActions::Now, &silent).ok()?;
    let (sender, lines) = mpsc::channel(1);
    let over = CancellationToken::new();
    let (held, left) = (Arc::clone(&entering), over.clone());
    std::thread::spawn(move || print_above(printer, lines, &held));
    std::thread::spawn(move || {
        edit(editor, &entering, &typed, &left);
        left.cancel();
    });
    Some(Above { lines: sender, over, _restore: Restore(before) })
}

/// Whether a line is on its way out of the editor: until it is off the screen, nothing is printed.
#[derive(Default)]
struct Entering {
    is: Mutex<bool>,
    over: Condvar,
    /// Whether the editor has begun: where it could not, whoever prints may wait for the editor.
    begun: AtomicBool,
}

impl Entering {
    fn begin(&self) {
        for _ in 0..TRIES {
            if let Ok(mut is) = self.is.try_lock() {
                *is = true;
                self.begun.store(true, Ordering::Relaxed);
                return;
            }
            // Something is being printed, for which the editor may be needed: then the line stays.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(&self, erase: impl FnOnce()) {
        if self.begun.swap(false, Ordering::Relaxed) {
            erase();
            *self.is.lock().unwrap_or_else(PoisonError::into_inner) = false;
            self.over.notify_all();
        }
    }

    fn wait(&self) -> MutexGuard<'_, bool> {
        let is = self.is.lock().unwrap_or_else(PoisonError::into_inner);
        self.over.wait_while(is, |is| *is).unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the editor asks about a line, and how the line is.
struct Line {
    entering: Arc<Entering>,
    /// What stands before and behind the cursor.
    so_far: Mutex<(String, String)>,
}

impl Line {
    fn take(&self) -> (String, String) {
        std::mem::take(&mut self.so_far.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Completer for Line {
    type Candidate = String;
}

impl Hinter for Line {
    type Hint = String;

    /// There are none; but it is asked at every change of the line.
    fn hint(&self, line: &str, position: usize, _: &Context<'_>) -> Option<String> {
        let (before, behind) = line.split_at_checked(position)?;
        let now = (before.to_owned(), behind.to_owned());
        *self.so_far.lock().unwrap_or_else(PoisonError::into_inner) = now;
        None
    }
}

impl Highlighter for Line {}

impl Validator for Line {
    fn validate(&self, _: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        self.entering.begin();
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
    left: &CancellationToken,
) {
    let mut so_far = (String::new(), String::new());
    loop {
        let read = editor.readline_with_initial(PROMPT, (&so_far.0, &so_far.1));
        so_far = editor.helper().map(Line::take).unwrap_or_default();
        let line = read.as_deref().unwrap_or(&so_far.0);
        let columns = editor.dimensions().map_or(0, |(columns, _)| usize::from(columns));
        let rows = rows(&format!("{PROMPT}{line}"), columns);
        entering.end(|| erase(rows));
        let (what, is_last) = match read {
            Ok(line) => {
                so_far = (String::new(), String::new());
                (Ok(Typed::Line(line)), false)
            }
            Err(ReadlineError::Eof) => {
                erase(rows);
                (Ok(Typed::End), true)
            }
            Err(ReadlineError::Interrupted) => (Ok(Typed::Interrupt), true),
            // The line so far goes on without the byte that is no text.
            Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                erase(rows);
                (Ok(Typed::NoText), false)
            }
            Err(error) => (Err(io::Error::other(error)), true),
        };
        if is_last {
            left.cancel();
        }
        if typed.blocking_send(what).is_err() || is_last {
            return;
        }
    }
}

/// How many rows of the screen a text takes, the cursor's behind it included.
fn rows(text: &str, columns: usize) -> usize {
    let (mut row, mut column) = (1, 0);
    for letter in text.chars() {
        if letter == '\n' {
            row += 1;
            column = 0;
            continue;
        }
        let width = match letter {
            '\t' => TAB - column % TAB,
            letter => letter.width().unwrap_or(0),
        };
        column += width;
        if column > columns {
            row += 1;
            column = width;
        }
    }
    row + usize::from(column == columns)
}

/// Takes the rows above the cursor off the screen, and what is below it.
fn erase(rows: usize) {
    let mut text = String::new();
    for _ in 0..rows {
        let _ = write!(text, "\x1b[1A\x1b[2K");
    }
    text += "\x1b[J";
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
