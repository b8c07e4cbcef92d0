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
        let copied = all("COPY").into_iter().filter_map(|words| words.split_whitespace().last());
        let program = copied.filter(|path| path.ends_with("/demes")).find(|path| {
            PATH.split(':').any(|directory| path.rsplit_once('/').map(|p| p.0) == Some(directory))
        });
        let entrypoint: Vec<String> = serde_json::from_str(last("ENTRYPOINT")?)?;
        ensure!(!entrypoint.is_empty(), "the image starts a program");
        Ok(Self {
            entrypoint,
            env,
            user: last("USER")?.to_owned(),
            stop_signal: last("STOPSIGNAL")?.to_owned(),
            program: program.context("the program is on the image's path")?.to_owned(),
        })
    }
}
