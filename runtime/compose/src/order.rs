//! In which order services begin and end.

use std::collections::BTreeSet;

use crate::project::Project;

/// Services that wait for each other: none of them can be the first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("services that wait for each other: {}", .0.join(" → "))]
pub struct Circle(pub Vec<String>);

/// `named` and all that they need, each after what it depends on; all services if none is
/// named. The reverse is the order in which they end.
pub fn order(project: &Project, named: &[String]) -> Result<Vec<String>, Circle> {
    let mut visit = Visit { project, done: vec![], seen: BTreeSet::new(), way: vec![] };
    let all = || project.services.keys().cloned().collect();
    let first: Vec<String> = if named.is_empty() { all() } else { named.to_vec() };
    first.iter().try_for_each(|name| visit.service(name))?;
    Ok(visit.done)
}

struct Visit<'a> {
    project: &'a Project,
    done: Vec<String>,
    seen: BTreeSet<String>,
    way: Vec<String>,
}

impl Visit<'_> {
    fn service(&mut self, name: &str) -> Result<(), Circle> {
        if let Some(start) = self.way.iter().position(|before| before == name) {
            let mut circle = self.way[start..].to_vec();
            circle.push(name.to_owned());
            return Err(Circle(circle));
        }
        let Some(service) = self.project.services.get(name) else { return Ok(()) };
        if !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        self.way.push(name.to_owned());
        service.depends_on.keys().try_for_each(|other| self.service(other))?;
        self.way.pop();
        self.done.push(name.to_owned());
        Ok(())
    }
}
