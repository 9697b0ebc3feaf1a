//! Finds a project's files and reads them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tenantry_compose::{Files, Project, Sources, load, project_name};

use super::SourceFlags;

const NAMES: [&str; 4] =
    ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];
const OVERRIDES: [&str; 4] = [
    "compose.override.yaml",
    "compose.override.yml",
    "docker-compose.override.yaml",
    "docker-compose.override.yml",
];

struct OfHost;

impl Files for OfHost {
    fn read(&self, path: &Path) -> std::io::Result<String> {
        std::fs::read_to_string(path)
    }
}

/// The project with the services that its profiles, or their names, ask for. Warnings go to
/// standard error.
pub fn project(flags: &SourceFlags, named: &[String]) -> anyhow::Result<Project> {
    let (directory, files) = files(flags)?;
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let sources = Sources {
        files: &files,
        directory: &directory,
        env_files: &flags.env_file,
        environment,
        name: flags.project_name.as_deref(),
    };
    let (project, warnings) = load(&OfHost, &sources)?;
    for warning in warnings {
        eprintln!("tenantry: {warning}");
    }
    for name in named {
        anyhow::ensure!(
            project.services.contains_key(name),
            "no such service: {name}; the file has {}",
            project.services.keys().cloned().collect::<Vec<_>>().join(", ")
        );
    }
    let of_environment = std::env::var("COMPOSE_PROFILES").unwrap_or_default();
    let mut profiles = flags.profile.clone();
    profiles.extend(of_environment.split(',').filter(|text| !text.is_empty()).map(str::to_owned));
    Ok(project.with_profiles(&profiles, named))
}

/// The project's name: with `--project-name` no file is needed.
pub fn name(flags: &SourceFlags) -> anyhow::Result<String> {
    match &flags.project_name {
        Some(name) if project_name(name).as_ref() == Some(name) => Ok(name.clone()),
        _ => Ok(project(flags, &[])?.name),
    }
}

fn files(flags: &SourceFlags) -> anyhow::Result<(PathBuf, Vec<PathBuf>)> {
    let here = std::env::current_dir().context("the working directory")?;
    let of_environment = std::env::var("COMPOSE_FILE").unwrap_or_default();
    let given: Vec<PathBuf> = match (&flags.file[..], of_environment.as_str()) {
        ([], "") => vec![],
        ([], of_environment) => std::env::split_paths(of_environment).collect(),
        (given, _) => given.to_vec(),
    };
    let (directory, files) = match given.first() {
        None => found(&here).with_context(|| {
            format!("no Compose file in {} or above: {}", here.display(), NAMES.join(", "))
        })?,
        Some(first) => {
            let directory = here.join(first).parent().map(Path::to_path_buf).unwrap_or_default();
            (directory, given.iter().map(|file| here.join(file)).collect())
        }
    };
    let directory = match &flags.project_directory {
        Some(other) => here.join(other),
        None => directory,
    };
    let canonical = directory.canonicalize();
    let canonical = canonical.with_context(|| directory.display().to_string())?;
    // Mistakes are told with the name that the person would type.
    let short =
        |file: PathBuf| file.strip_prefix(&canonical).map(Path::to_path_buf).unwrap_or(file);
    Ok((canonical.clone(), files.into_iter().map(short).collect()))
}

/// The nearest directory that has one, with its override file.
fn found(here: &Path) -> Option<(PathBuf, Vec<PathBuf>)> {
    here.ancestors().find_map(|directory| {
        let first = |names: &[&str]| {
            names.iter().map(|name| directory.join(name)).find(|path| path.is_file())
        };
        let main = first(&NAMES)?;
        let files = std::iter::once(main).chain(first(&OVERRIDES)).collect();
        Some((directory.to_path_buf(), files))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_file_above_is_found_with_its_override() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        assert!(found(&below).is_none_or(|(found, _)| !found.starts_with(dir.path())));
        for name in ["docker-compose.yml", "compose.override.yaml"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let (directory, files) = found(&below).unwrap();
        assert_eq!(directory, dir.path());
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap()).collect();
        assert_eq!(names, ["docker-compose.yml", "compose.override.yaml"]);
    }
}
