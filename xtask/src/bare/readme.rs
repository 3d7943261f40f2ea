//! The commands the README begins with.

/// The lines of the first code block that are commands, without their comments, as words.
pub(super) fn commands(readme: &str) -> Vec<Vec<String>> {
    let block = readme.split("```").nth(1).unwrap_or_default();
    let words = |line: &str| {
        let command = line.split('#').next().unwrap_or_default();
        command.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    // The first line is the block's language.
    block.lines().skip(1).map(words).filter(|words| !words.is_empty()).collect()
}

/// Whether the command serves until it is told to stop.
pub(super) fn serves(command: &[String]) -> bool {
    command.iter().any(|word| word == "run")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_block_is_what_is_run() {
        let text =
            "# x\n\n```sh\ncargo xtask run   # builds it\n\ncargo xtask demo\n```\ntext\n```\nrm -r x\n```\n";
        assert_eq!(commands(text), [["cargo", "xtask", "run"], ["cargo", "xtask", "demo"]]);
        assert!(commands("no block").is_empty());
    }

    #[test]
    fn the_readme_has_two_and_the_first_serves() {
        let commands = commands(include_str!("../../../README.md"));
        assert_eq!(commands.len(), 2, "{commands:?}");
        assert!(serves(&commands[0]) && !serves(&commands[1]), "{commands:?}");
    }
}
