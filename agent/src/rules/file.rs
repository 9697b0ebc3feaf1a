//! Rule files on the disk, the default set among them.

use std::path::{Path, PathBuf};

use tenantry_rules::{DEFAULT, Problems, RuleSet, Source};

/// What the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSettings {
    /// Whether the default set holds, before the files.
    pub default: bool,
    pub files: Vec<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum RuleFilesError {
    #[error("cannot read {path}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// A line for each problem: file, line, column, reason.
    #[error("{0}")]
    Wrong(Problems),
}

/// All of them, or everything that is wrong with them.
pub fn read_rules(settings: &RuleSettings) -> Result<RuleSet, RuleFilesError> {
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path)
            .map_err(|source| RuleFilesError::Read { path: path.clone(), source })?;
        Ok((shown(path), text))
    };
    let files = settings.files.iter().map(read).collect::<Result<Vec<_>, RuleFilesError>>()?;
    let default = settings.default.then_some(DEFAULT);
    let own = files.iter().map(|(name, text)| Source { name, text });
    let sources: Vec<Source<'_>> = default.into_iter().chain(own).collect();
    RuleSet::build(&sources).map_err(RuleFilesError::Wrong)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
