//! What a project and its things are called.
//!
//! Owns the labels by which Compose finds its containers, networks and volumes again: they
//! are Docker Compose's own, so that either program finds what the other made.

use std::collections::HashMap;

/// A project's name: `--project-name`, the file's `name`, or the directory's, in the letters
/// that are allowed. `None` if nothing is left of it.
pub fn project_name(text: &str) -> Option<String> {
    let lower = text.to_lowercase();
    let kept = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(*c);
    let name: String = lower.chars().filter(kept).collect();
    let name = name.trim_start_matches(['_', '-']);
    (!name.is_empty()).then(|| name.to_owned())
}

/// Labels of what a project makes.
#[derive(Clone, Copy, Debug)]
pub struct Labels;

impl Labels {
    pub const PROJECT: &'static str = "com.docker.compose.project";
    pub const SERVICE: &'static str = "com.docker.compose.service";
    pub const NUMBER: &'static str = "com.docker.compose.container-number";
    pub const ONE_OFF: &'static str = "com.docker.compose.oneoff";
    pub const HASH: &'static str = "com.docker.compose.config-hash";
    /// The image by its id, as a name may mean another one tomorrow.
    pub const IMAGE: &'static str = "com.docker.compose.image";
    pub const NETWORK: &'static str = "com.docker.compose.network";
    pub const VOLUME: &'static str = "com.docker.compose.volume";
    const WORKING_DIR: &'static str = "com.docker.compose.project.working_dir";
    pub const FILES: &'static str = "com.docker.compose.project.config_files";

    pub fn of_project(project: &str) -> HashMap<String, String> {
        HashMap::from([(Labels::PROJECT.to_owned(), project.to_owned())])
    }

    /// Where a container's project came from.
    pub fn origin(directory: &str, files: &str) -> [(String, String); 2] {
        [
            (Labels::WORKING_DIR.to_owned(), directory.to_owned()),
            (Labels::FILES.to_owned(), files.to_owned()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_s_name_becomes_a_project_s() {
        assert_eq!(project_name("My App_2").as_deref(), Some("myapp_2"));
        assert_eq!(project_name("__x").as_deref(), Some("x"));
        assert_eq!(project_name("…"), None);
    }
}
