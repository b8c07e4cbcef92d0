//! What a container gets from the image, as the Dockerfile says it.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// What every container runtime sets, unless the image does.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The last stage of a Dockerfile.
pub struct Image {
    pub entrypoint: Vec<String>,
    pub env: Vec<(String, String)>,
    pub user: String,
    pub stop_signal: String,
    /// Where the program is.
    pub program: String,
}

impl Image {
    pub fn of(dockerfile: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(dockerfile)?.replace("\\\n", " ");
        let stage = text.rsplit_once("\nFROM ").context("a Dockerfile has a stage")?.1;
        let all = |word: &str| -> Vec<&str> {
            let of_line = |line| str::strip_prefix(line, word)?.strip_prefix(' ').map(str::trim);
            stage.lines().filter_map(of_line).collect()
        };
        let last = |word: &str| {
            all(word).last().copied().with_context(|| format!("the image says its {word}"))
        };
        let mut env = vec![("PATH".to_owned(), PATH.to_owned())];
        for words in all("ENV") {
            for pair in words.split_whitespace() {
                let (name, value) = pair.split_once('=').context("ENV has name=value")?;
                env.push((name.to_owned(), value.trim_matches('"').to_owned()));
            }
        }
        // It may be put in its place by an earlier stage.
        let path = env.iter().rfind(|(name, _)| name == "PATH").map_or("", |(_, path)| path);
        let copied = text.lines().filter(|line| line.starts_with("COPY "));
        let copied = copied.filter_map(|line| line.split_whitespace().last());
        let mut copied = copied.map(|to| format!("/{}", to.trim_start_matches('/')));
        let program = copied.find(|to| {
            let directory = to.strip_suffix("/demes");
            directory.is_some_and(|directory| path.split(':').any(|one| one == directory))
        });
        let entrypoint: Vec<String> = serde_json::from_str(last("ENTRYPOINT")?)?;
        ensure!(!entrypoint.is_empty(), "the image starts a program");
        Ok(Self {
            entrypoint,
            env,
            user: last("USER")?.to_owned(),
            stop_signal: last("STOPSIGNAL")?.to_owned(),
            program: program.context("the program is on the image's path")?,
        })
    }
}
