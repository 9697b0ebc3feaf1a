//! Block devices by number: what the host calls them, and which stand on others.
//!
//! Reads sysfs; each device once per collection, as numbers are handed out again.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// `/dev/vda`, or `259:3` where the host has no name for it.
    pub name: String,
    /// A loop device or one made of others (dm, md): what it is asked for is done by
    /// a disk below, and counted there as well.
    pub stacked: bool,
}

#[derive(Debug, Default)]
pub struct DeviceNames {
    known: Mutex<HashMap<(u32, u32), Device>>,
}

impl DeviceNames {
    pub fn get(&self, major: u32, minor: u32) -> Device {
        // A panic while it was held left it whole: a device is entered when it is known.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let device = known.entry((major, minor)).or_insert_with(|| {
            let directory = format!("/sys/dev/block/{major}:{minor}");
            read(Path::new(&directory))
                .unwrap_or_else(|| Device { name: format!("{major}:{minor}"), stacked: false })
        });
        device.clone()
    }
}

/// `None` if there is no such device (any more).
fn read(directory: &Path) -> Option<Device> {
    let link = std::fs::read_link(directory).ok()?;
    let name = link.file_name()?.to_str()?;
    let has_slaves = || {
        let slaves = std::fs::read_dir(directory.join("slaves"));
        slaves.is_ok_and(|mut slaves| slaves.next().is_some())
    };
    let stacked = directory.join("loop").exists() || has_slaves();
    Some(Device { name: format!("/dev/{name}"), stacked })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_called_by_its_directory_and_stands_on_its_slaves() {
        let root = tempfile::tempdir().unwrap();
        let check = |name: &str, below: &[&str], stacked| {
            let directory = root.path().join("devices").join(name);
            std::fs::create_dir_all(&directory).unwrap();
            for path in below {
                std::fs::create_dir_all(directory.join(path)).unwrap();
            }
            let link = root.path().join(format!("link-{name}"));
            std::os::unix::fs::symlink(&directory, &link).unwrap();
            let expected = Device { name: format!("/dev/{name}"), stacked };
            assert_eq!(read(&link), Some(expected));
        };
        check("vda", &["slaves"], false);
        check("dm-0", &["slaves/vda"], true);
        check("loop0", &["slaves", "loop"], true);
        assert_eq!(read(&root.path().join("none")), None);
    }

    #[test]
    fn a_number_without_a_device_is_its_own_name() {
        let name = DeviceNames::default().get(4095, 77);
        assert_eq!(name, Device { name: "4095:77".into(), stacked: false });
    }
}
