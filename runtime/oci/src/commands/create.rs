//! `create`, `start` and `run`.

use std::fs;

use tenantry_cgroupfs::Group;
use tenantry_container::SeccompChoice;
use tenantry_container::seccomp::Cache;
use tenantry_shim::cgroup::Placement;
use tenantry_shim::{launch, sys};

use super::{
    Bundle, Runtime, no_further_descriptors, placement, read_bundle, wait_for, write_pid_file,
};
use crate::birth::{self, Born, Circumstances};
use crate::command_line::{Create, Run};
use crate::config::{self, OWN_PARENT, Plan};
use crate::error::{Error, failed};
use crate::gate;
use crate::record::{Place, Record, Status, start_ticks};
use crate::{hooks, host_nodes};

/// To make a cgroup below a parent that others remove.
const MOST_ATTEMPTS: usize = 20;

impl Runtime {
    pub fn create(&self, arguments: &Create) -> Result<Born, Error> {
        no_further_descriptors(arguments.preserve_fds)?;
        if arguments.no_pivot {
            let why = "a root that is not changed can be left";
            return Err(Error::unsupported("--no-pivot", why));
        }
        let Bundle { place: bundle, spec, raw, unknown_capabilities } =
            read_bundle(&arguments.bundle)?;
        self.warn_of_capabilities(&unknown_capabilities);
        let linux = spec.linux().as_ref();
        let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
        let cgroup = config::cgroup_path(path, &arguments.id)?;
        let group = self.hierarchy.group(&cgroup);
        let nodes = host_nodes::look(&spec);
        let plan = config::plan(&spec, &raw, &bundle, &placement(&group), &nodes)?;
        check_console(arguments, &plan)?;
        let record = Record {
            oci_version: spec.version().clone(),
            id: arguments.id.clone(),
            bundle,
            rootfs: plan.root.clone(),
            pid: 0,
            start_ticks: 0,
            created: jiff::Timestamp::now().to_string(),
            cgroup,
            user_namespace: plan.namespaces.new_user,
            annotations: spec.annotations().clone().unwrap_or_default(),
            hooks: plan.hooks.clone(),
        };
        let place = self.store.create(&arguments.id)?;
        let born = self.make(arguments, &place, record, &plan);
        if born.is_err() {
            // What was there before us is not ours: a cgroup that could not be made.
            let _ = place.remove();
        }
        born
    }

    /// Cgroup, process, and what is remembered of them; or nothing.
    fn make(
        &self,
        arguments: &Create,
        place: &Place,
        mut record: Record,
        plan: &Plan,
    ) -> Result<Born, Error> {
        place.write(&record)?;
        let seccomp = self.seccomp(place, plan)?;
        let gate = gate::open(place)?;
        let group = self.make_group(&record)?;
        let limited = group.apply(&plan.resources).map_err(Error::from);
        let ruled = limited.and_then(|_| Ok(group.rule_devices(&plan.device_rules)?));
        let born = ruled.and_then(|_| {
            let placement = Placement::of(&placement(&group));
            let circumstances = Circumstances {
                placement: &placement,
                gate,
                seccomp,
                console: arguments.console_socket.clone(),
                state: record.state(Status::Creating),
            };
            let born = birth::birth(plan, circumstances, |pid| {
                record.pid = pid;
                record.start_ticks = start_ticks(pid).unwrap_or(0);
                place.write(&record)
            })?;
            if let Some(path) = &arguments.pid_file
                && let Err(error) = write_pid_file(path, born.pid)
            {
                use std::os::fd::AsFd as _;
                launch::kill_and_reap(born.pidfd.as_fd());
                return Err(error);
            }
            Ok(born)
        });
        if born.is_err() {
            // A hook may have left something in it.
            let _ = group.kill();
            let _ = group.remove();
            let _ = self.hierarchy.remove_parent(OWN_PARENT);
        }
        born
    }

    /// Who deletes the last container of a parent removes the parent, too, maybe between
    /// our two steps: then both are taken again.
    fn make_group(&self, record: &Record) -> Result<Group, Error> {
        let group = self.group(record);
        let make = || {
            if let Some((parent, _)) = record.cgroup.rsplit_once('/') {
                self.hierarchy.prepare_parent(parent)?;
            }
            group.create()
        };
        let mut made = make();
        for _ in 0..MOST_ATTEMPTS {
            if !made.as_ref().is_err_and(|error| error.is_gone()) {
                break;
            }
            made = make();
        }
        made?;
        Ok(group)
    }

    /// Compiled once and kept, for further processes.
    fn seccomp(&self, place: &Place, plan: &Plan) -> Result<Option<Vec<u8>>, Error> {
        let Some(profile) = &plan.seccomp else { return Ok(None) };
        let choice = SeccompChoice::Profile(profile.clone());
        let program = Cache::default().program(&choice, plan.process.sets.bounding);
        let Some(program) = program.map_err(Error::Seccomp)? else { return Ok(None) };
        use std::os::fd::AsFd as _;
        let file = program.reopen().map_err(Error::Seccomp)?;
        let bytes = launch::read_all(file.as_fd()).map_err(failed("read", "seccomp program"))?;
        let path = place.path().join("seccomp");
        fs::write(&path, &bytes).map_err(failed("write", path.display()))?;
        Ok(Some(bytes))
    }

    pub fn start(&self, id: &str) -> Result<(), Error> {
        let place = self.store.open(id)?;
        let record = place.read()?;
        match self.status(&place, &record) {
            Status::Created => {}
            status => {
                let (operation, allowed) = ("start", "created");
                return Err(Error::Status { operation, id: id.to_owned(), status, allowed });
            }
        }
        let passed = gate::pass(&place);
        let gate = place.path().join(gate::NAME);
        fs::remove_file(&gate).map_err(failed("remove", gate.display()))?;
        passed?;
        let state = record.state(Status::Running).to_string();
        if let Err(error) = hooks::run(&record.hooks.poststart, &state) {
            self.warn(&error.chain());
        }
        Ok(())
    }

    pub fn run(&self, arguments: &Run) -> Result<u8, Error> {
        let born = self.create(&arguments.create)?;
        let id = &arguments.create.id;
        if let Err(error) = self.start(id) {
            // What could not be started is gone, as if it had never been created.
            self.reap_and_delete(id, &born);
            return Err(error);
        }
        if arguments.detach {
            return Ok(0);
        }
        let code = wait_for(&born)?;
        self.delete(id, true)?;
        Ok(code)
    }

    fn reap_and_delete(&self, id: &str, born: &Born) {
        use std::os::fd::AsFd as _;
        let _ = sys::send_signal(born.pidfd.as_fd(), libc::SIGKILL);
        let _ = wait_for(born);
        if let Err(error) = self.delete(id, true) {
            self.warn(&error.chain());
        }
    }
}

/// A terminal and who gets it: both, or neither.
fn check_console(arguments: &Create, plan: &Plan) -> Result<(), Error> {
    let terminal = plan.process.process.terminal.is_some();
    match (&arguments.console_socket, terminal) {
        (None, true) => {
            let allowed = "a unix socket, where process.terminal is true";
            Err(Error::invalid("--console-socket", "", allowed))
        }
        (Some(socket), false) => {
            let allowed = "none, where process.terminal is false";
            Err(Error::invalid("--console-socket", socket.display(), allowed))
        }
        _ => Ok(()),
    }
}
