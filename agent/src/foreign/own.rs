//! Which cgroups the agent itself runs in: it meters them like any other service's, and never
//! limits them, or a rule that means every service would slow down the one that gives limits
//! back. Pure but for one read when the agent starts.

/// Its paths below the roots of the hierarchies, as the subjects' are. In a cgroup namespace
/// of its own they begin there, and so do the paths of whomever it sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own(Vec<String>);

impl Own {
    /// None if the kernel does not tell, which it does wherever there is `/proc`.
    pub fn read() -> Own {
        let text = std::fs::read_to_string("/proc/self/cgroup");
        Own::parse(
            &text.inspect_err(|error| tracing::warn!(%error, "own cgroup")).unwrap_or_default(),
        )
    }

    /// Lines `number:controllers:path` (cgroups(7)); the path may hold colons.
    fn parse(text: &str) -> Own {
        let path = |line: &str| line.splitn(3, ':').nth(2).map(str::to_owned);
        Own(text.lines().filter_map(path).collect())
    }

    /// Whether the agent runs in this cgroup or below it.
    pub fn is_in(&self, cgroup: &str) -> bool {
        let below = |path: &String| {
            path.strip_prefix(cgroup).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.0.iter().any(below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_cgroups_are_its_own_and_those_above_in_each_hierarchy() {
        let own = Own::parse(
            "12:cpu,cpuacct:/system.slice/tenantry.service\n\
             3:name=systemd:/system.slice/tenantry.service/a:b\n\
             0::/docker/c0ffee/system.slice/tenantry.service\n\nnonsense\n",
        );
        for cgroup in [
            "/system.slice/tenantry.service",
            "/system.slice/tenantry.service/a:b",
            "/system.slice",
            "/docker/c0ffee",
        ] {
            assert!(own.is_in(cgroup), "{cgroup}");
        }
        for cgroup in [
            "/system.slice/tenantry.service/other",
            "/system.slice/tenantry.servic",
            "/system.slice/other.service",
            "/docker/c0ffe",
        ] {
            assert!(!own.is_in(cgroup), "{cgroup}");
        }
        assert!(!Own::parse("").is_in("/system.slice/tenantry.service"));
    }

    #[test]
    fn the_kernel_tells_where_this_process_runs() {
        assert_ne!(Own::read(), Own::default());
    }
}
