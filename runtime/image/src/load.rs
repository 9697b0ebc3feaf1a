//! `image load`: archives and directories that hold whole images.
//!
//! Owns the order of interpretation. All images of an archive appear, or none.

use std::io::Read;
use std::path::Path;

use crate::compression::Decoder;
use crate::docker;
use crate::error::{Error, Result};
use crate::members::Members;
use crate::oci;
use crate::session::Session;
use crate::store::{Loaded, Store};

impl Store {
    /// Loads every image of an OCI-layout or `docker save` archive, plain, gzip or
    /// zstd, that fits this platform. Names that other images had move over.
    pub fn load(&self, archive: impl Read) -> Result<Vec<Loaded>> {
        let load = || {
            let mut session = Session::new(self)?;
            let stream = Decoder::new("archive", archive)?;
            let members = Members::spool(&mut session, stream)?;
            take(session, members)
        };
        self.reached.count(load())
    }

    /// The same for a directory that holds what such an archive would.
    pub fn load_dir(&self, dir: &Path) -> Result<Vec<Loaded>> {
        let load = || take(Session::new(self)?, Members::open_directory(dir)?);
        self.reached.count(load())
    }
}

fn take(mut session: Session<'_>, members: Members) -> Result<Vec<Loaded>> {
    let images = match oci::images(&mut session, &members)? {
        Some(mut images) => {
            for (id, names) in docker::names(&mut session, &members)? {
                for image in
                    images.iter_mut().filter(|image| image.record.id == id && !names.is_empty())
                {
                    image.names.clone_from(&names);
                }
            }
            images
        }
        None => docker::images(&mut session, &members)?.ok_or(Error::NotAnImageArchive)?,
    };
    let images = images.into_iter().map(|mut image| {
        image.names.sort();
        image.names.dedup();
        image
    });
    let images = images.collect();
    session.commit(images)
}
