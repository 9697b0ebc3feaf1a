//! The v1 devices controller: which device nodes a group's processes may open or make.
//!
//! v2 has no files for that, so there is nothing to write there.

use crate::error::Error;
use crate::file::write_value;
use crate::group::Group;

/// One rule, as the controller's files take it (`c 1:3 rwm`, `a`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    pub allow: bool,
    pub text: String,
}

impl Group {
    /// Writes `rules` in their order; a new group has what its parent may do. `false` where
    /// there is no such controller: nothing was written.
    ///
    /// # Errors
    /// [`Error::Io`] with the first rule that the kernel refused: EPERM where the parent may
    /// not do what is allowed.
    pub fn rule_devices(&self, rules: &[DeviceRule]) -> Result<bool, Error> {
        self.check_path("rule the devices of")?;
        let Some(dir) = self.v1_dir("devices") else { return Ok(false) };
        for rule in rules {
            let path = dir.join(if rule.allow { "devices.allow" } else { "devices.deny" });
            write_value(&path, &rule.text)
                .map_err(|errno| Error::write(&path, &rule.text, errno))?;
        }
        Ok(true)
    }
}
