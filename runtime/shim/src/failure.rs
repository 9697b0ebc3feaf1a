//! How an errno becomes a [`Failure`] that names its operation and object.
//!
//! Every step of the shim ends in `.map_err(at("mount_setattr", path))`.

use std::fmt::Display;

use rustix::io::Errno;
use tenantry_shim::protocol::Failure;

pub fn at(operation: &'static str, object: impl Display) -> impl FnOnce(Errno) -> Failure {
    move |errno| failure(operation, object, errno)
}

pub fn failure(operation: &str, object: impl Display, errno: Errno) -> Failure {
    Failure {
        operation: operation.to_owned(),
        object: object.to_string(),
        errno: errno.raw_os_error(),
    }
}

/// For the standard library's errors, which may carry no errno.
pub fn io_at(
    operation: &'static str,
    object: impl Display,
) -> impl FnOnce(std::io::Error) -> Failure {
    move |error| failure(operation, object, Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
