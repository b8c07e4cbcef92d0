//! What the doctor has found: one line for each, told as soon as it is known.

use std::io::{self, IsTerminal, Write as _};

use anyhow::Result;
use serde_json::{Value, json};

use crate::cli::output::Output;

/// Text is broken before this column.
const COLUMNS: usize = 96;

/// How good or bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Could not be looked at, which the text explains.
    Skipped,
    /// It works, and may not for long, or not as well as it could.
    Warning,
    /// It does not work.
    Problem,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Skipped => "skipped",
            Level::Warning => "warning",
            Level::Problem => "problem",
        }
    }

    fn mark(self, output: Output) -> String {
        match self {
            Level::Ok => output.colored(32, "✓"),
            Level::Skipped => output.dim("-"),
            Level::Warning => output.colored(33, "!"),
            Level::Problem => output.colored(31, "✗"),
        }
    }
}

/// What a group of checks is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Section {
    Configuration,
    Key,
    Disk,
    Peer,
    Address,
    Chats,
    Members,
}

impl Section {
    fn title(self) -> &'static str {
        match self {
            Section::Configuration => "Configuration",
            Section::Key => "Key and certificate",
            Section::Disk => "Disk",
            Section::Peer => "Peer",
            Section::Address => "Address",
            Section::Chats => "Chats",
            Section::Members => "Members",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Section::Key => "key",
            Section::Configuration => "configuration",
            Section::Disk => "disk",
            Section::Peer => "peer",
            Section::Address => "address",
            Section::Chats => "chats",
            Section::Members => "members",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub section: Section,
    /// Names the check, for programs.
    pub check: &'static str,
    pub level: Level,
    /// What was seen.
    pub text: String,
    /// What a person can do about it; empty where there is nothing to be done.
    pub todo: String,
}

/// Everything that was found so far. For people it is told at once, for programs at the end.
pub struct Report {
    output: Output,
    findings: Vec<Finding>,
    section: Option<Section>,
    /// Whether a passing line can be shown on stderr.
    shows_progress: bool,
    is_line_open: bool,
}

impl Report {
    pub fn new(output: Output) -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let shows_progress = !output.is_json() && io::stderr().is_terminal() && !is_dumb;
        Self { output, findings: Vec::new(), section: None, shows_progress, is_line_open: false }
    }

    /// Something is as it should be.
    pub fn ok(&mut self, section: Section, check: &'static str, text: String) -> Result<()> {
        self.add(Finding { section, check, level: Level::Ok, text, todo: String::new() })
    }

    /// Something could not be looked at.
    pub fn skipped(&mut self, section: Section, check: &'static str, text: &str) -> Result<()> {
        let (level, text) = (Level::Skipped, text.to_owned());
        self.add(Finding { section, check, level, text, todo: String::new() })
    }

    /// Adds a finding, and tells it.
    pub fn add(&mut self, finding: Finding) -> Result<()> {
        if !self.output.is_json() {
            self.clear_progress();
            if self.section != Some(finding.section) {
                self.section = Some(finding.section);
                let title = self.output.bold(finding.section.title());
                self.output.line(&format!("\n{title}"))?;
            }
            let mark = finding.level.mark(self.output);
            self.output.write(&format!("  {mark} {}", hanging(&finding.text, 4)))?;
            if !finding.todo.is_empty() {
                self.output.write(&format!("    → {}", hanging(&finding.todo, 6)))?;
            }
        }
        self.findings.push(finding);
        Ok(())
    }

    /// Text between findings, for people only.
    pub fn text(&mut self, text: &str) -> Result<()> {
        if !self.output.is_json() {
            self.clear_progress();
            self.output.write(text)?;
        }
        Ok(())
    }

    /// Says what is being done, until the next finding.
    pub fn progress(&mut self, doing: &str) {
        if self.shows_progress {
            self.is_line_open = true;
            let _ = write!(io::stderr().lock(), "\r\x1b[K  … {doing}");
        }
    }

    fn clear_progress(&mut self) {
        if std::mem::take(&mut self.is_line_open) {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }

    /// How many findings there are of a level.
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    /// Whether a check of that name found a problem.
    pub fn is_problem(&self, check: &str) -> bool {
        self.findings.iter().any(|it| it.check == check && it.level == Level::Problem)
    }

    /// The last words. `rest` is what programs get beside the findings.
    pub fn finish(&mut self, mut rest: Value) -> Result<()> {
        self.clear_progress();
        let counts = [Level::Ok, Level::Warning, Level::Problem, Level::Skipped]
            .map(|level| (level, self.count(level)));
        if self.output.is_json() {
            rest["findings"] = self.findings.iter().map(to_json).collect();
            let names = counts.iter().map(|(level, count)| (level.name().to_owned(), json!(count)));
            rest["summary"] = Value::Object(names.collect());
            return Ok(self.output.emit(|| rest, String::new)?);
        }
        Ok(self.output.write(&format!("\n{}\n", summary(self.output, counts.map(|it| it.1))))?)
    }
}

fn summary(output: Output, [good, warnings, problems, skipped]: [usize; 4]) -> String {
    let plural =
        |count: usize, thing: &str| format!("{count} {thing}{}", if count == 1 { "" } else { "s" });
    let mut parts = Vec::new();
    if problems > 0 {
        parts.push(output.colored(31, &plural(problems, "problem")));
    }
    if warnings > 0 {
        parts.push(output.colored(33, &plural(warnings, "warning")));
    }
    if parts.is_empty() {
        parts.push(output.colored(32, "no problems"));
    }
    parts.push(format!("{good} ok"));
    if skipped > 0 {
        parts.push(format!("{skipped} not looked at"));
    }
    parts.join(", ")
}

fn to_json(finding: &Finding) -> Value {
    json!({
        "section": finding.section.name(),
        "check": finding.check,
        "level": finding.level.name(),
        "text": finding.text,
        "todo": finding.todo,
    })
}

/// Breaks text into lines, the later ones indented.
fn hanging(text: &str, indent: usize) -> String {
    let mut broken = String::new();
    let mut column = indent;
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if column > indent && column + 1 + width > COLUMNS {
            broken += "\n";
            broken += &" ".repeat(indent);
            column = indent;
        } else if column > indent {
            broken += " ";
            column += 1;
        }
        broken += word;
        column += width;
    }
    broken + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_broken_between_words() {
        assert_eq!(hanging("short", 4), "short\n");
        let text = hanging(&"word ".repeat(40), 4);
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with("    word")), "{text}");
        assert_eq!(text.split_whitespace().count(), 40);
        let long = "x".repeat(200);
        assert_eq!(hanging(&long, 4), format!("{long}\n"), "a path stays whole");
    }

    #[test]
    fn the_last_line_names_the_worst_first() {
        let output = Output::new(false);
        assert_eq!(summary(output, [5, 0, 0, 0]), "no problems, 5 ok");
        assert_eq!(summary(output, [5, 1, 2, 1]), "2 problems, 1 warning, 5 ok, 1 not looked at");
    }
}
