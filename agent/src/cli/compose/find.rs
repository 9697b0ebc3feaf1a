//! Finds a project's files and reads them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tenantry_compose::{Files, Project, Sources, environment, load, project_name};

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
    let own = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let here = std::env::current_dir().context("the working directory")?;
    let Located { directory, files, env_files, environment } = located(flags, &here, own)?;
    let sources = Sources {
        files: &files,
        directory: &directory,
        env_files: &env_files,
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
    let profiles = profiles(flags, &sources.environment);
    Ok(project.with_profiles(&profiles, named))
}

fn profiles(flags: &SourceFlags, environment: &BTreeMap<String, String>) -> Vec<String> {
    let further = environment.get("COMPOSE_PROFILES").map_or("", String::as_str);
    let further = further.split(',').filter(|text| !text.is_empty()).map(str::to_owned);
    flags.profile.iter().cloned().chain(further).collect()
}

/// The project's name: with `--project-name` no file is needed.
pub fn name(flags: &SourceFlags) -> anyhow::Result<String> {
    match &flags.project_name {
        Some(name) if project_name(name).as_ref() == Some(name) => Ok(name.clone()),
        _ => Ok(project(flags, &[])?.name),
    }
}

/// Where a project is, and the variables that it is read with.
struct Located {
    directory: PathBuf,
    files: Vec<PathBuf>,
    env_files: Vec<PathBuf>,
    environment: BTreeMap<String, String>,
}

/// `own` is the caller's environment, which comes before the files'.
fn located(
    flags: &SourceFlags,
    here: &Path,
    own: BTreeMap<String, String>,
) -> anyhow::Result<Located> {
    let env_files: Vec<PathBuf> = flags.env_file.iter().map(|file| here.join(file)).collect();
    // The file that says which files to read stands where the person does.
    let first = flags.project_directory.as_ref().map_or(here.to_owned(), |other| here.join(other));
    let own = match &flags.file[..] {
        [] => environment(&OfHost, &first, &env_files, own)?,
        _ => own,
    };
    let of_environment = own.get("COMPOSE_FILE").map_or("", String::as_str);
    let (directory, files) = files(flags, here, of_environment)?;
    let environment = environment(&OfHost, &directory, &env_files, own)?;
    Ok(Located { directory, files, env_files, environment })
}

fn files(
    flags: &SourceFlags,
    here: &Path,
    of_environment: &str,
) -> anyhow::Result<(PathBuf, Vec<PathBuf>)> {
    let given: Vec<PathBuf> = match (&flags.file[..], of_environment) {
        ([], "") => vec![],
        ([], of_environment) => std::env::split_paths(of_environment).collect(),
        (given, _) => given.to_vec(),
    };
    let (directory, files) = match given.first() {
        None => found(here).with_context(|| {
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

    #[test]
    fn dot_env_says_which_files_and_profiles() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir(dir.join("sub")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        let said = "COMPOSE_FILE=sub/a.yaml:sub/b.yaml\nCOMPOSE_PROFILES=debug,tools\nTAG=outer\n";
        write(".env", said);
        write("sub/.env", "TAG=inner\nOWN=sub\n");
        write("other.env", "COMPOSE_FILE=sub/b.yaml\n");
        write("sub/a.yaml", "");
        let located = |flags: &SourceFlags, own: &[(&str, &str)]| {
            let own = own.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            located(flags, &dir, own.collect()).unwrap()
        };
        let none = || SourceFlags {
            file: vec![],
            project_name: None,
            project_directory: None,
            profile: vec![],
            env_file: vec![],
        };
        let found = located(&none(), &[]);
        assert_eq!(found.directory, dir.join("sub"));
        assert_eq!(found.files, [Path::new("a.yaml"), Path::new("b.yaml")]);
        assert_eq!(profiles(&none(), &found.environment), ["debug", "tools"]);
        assert_eq!((&*found.environment["TAG"], &*found.environment["OWN"]), ("outer", "sub"));
        // The caller's own environment comes first, and flags before either.
        let own = [("COMPOSE_FILE", "sub/b.yaml"), ("COMPOSE_PROFILES", "")];
        let found = located(&none(), &own);
        assert_eq!(found.files, [Path::new("b.yaml")]);
        assert!(profiles(&none(), &found.environment).is_empty());
        let flags = SourceFlags { file: vec!["sub/c.yaml".into()], ..none() };
        let found = located(&flags, &[]);
        assert_eq!(found.files, [Path::new("c.yaml")]);
        assert_eq!(found.environment["TAG"], "inner");
        let flags = SourceFlags { env_file: vec!["other.env".into()], ..none() };
        assert_eq!(located(&flags, &[]).files, [Path::new("b.yaml")]);
    }
}
