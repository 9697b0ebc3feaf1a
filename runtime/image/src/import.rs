//! `image import`: a root filesystem becomes an image of one layer.
//!
//! Owns what the image's documents say. The layer is kept as it came.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use oci_spec::image::{
    ConfigBuilder, HistoryBuilder, ImageConfigurationBuilder, Os, RootFsBuilder,
};

use crate::error::{Error, Result};
use crate::reference::Name;
use crate::refs::ImageRecord;
use crate::session::{NewImage, Session};
use crate::store::{Loaded, Store};
use crate::{docker, document};

/// What the image's configuration says; empty or `None` leaves it out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    pub cmd: Vec<String>,
    pub entrypoint: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute.
    pub working_dir: Option<String>,
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// A signal's name or number.
    pub stop_signal: Option<String>,
    /// RFC 3339; `None` is now. Given, the same input makes the same image.
    pub created: Option<String>,
    /// What the history says of it; `None` says that it was imported.
    pub comment: Option<String>,
}

impl Store {
    /// Makes `rootfs`, a tar stream (plain, gzip or zstd), an image named `name`.
    pub fn import(&self, name: &str, rootfs: impl Read, changes: ImportOptions) -> Result<Loaded> {
        self.reached.count(self.import_uncounted(name, rootfs, changes))
    }

    fn import_uncounted(
        &self,
        name: &str,
        rootfs: impl Read,
        changes: ImportOptions,
    ) -> Result<Loaded> {
        let name: Name = name.parse()?;
        changes.check()?;
        let mut session = Session::new(self)?;
        let spooled = session.spool_reader("root filesystem", rootfs)?;
        let (blob, bytes) = (spooled.digest, spooled.bytes);
        session.add_blob(spooled);
        let layer = session.unpack_layer(blob, None)?;

        let created = changes.created.clone().unwrap_or_else(|| jiff::Timestamp::now().to_string());
        let config = changes.render(&created, layer.diff_id.to_string())?;
        let config = session.spool_bytes(&config)?;
        let media_type = session.compression(&blob)?.layer_media_type();
        let layers = vec![docker::descriptor(media_type, bytes, &blob)?];
        let manifest = docker::manifest(&config.digest, config.bytes, layers)?;
        let manifest = session.spool_bytes(&manifest)?;
        let (id, digest) = (config.digest, manifest.digest);
        session.add_blob(config);
        session.add_blob(manifest);

        let record = ImageRecord { created: Some(created), ..ImageRecord::new(id, vec![layer]) };
        let short = name.to_string();
        session.commit(vec![NewImage { manifest: digest, record, names: vec![name] }])?;
        Ok(Loaded { name: Some(short), digest, id })
    }
}

impl ImportOptions {
    fn check(&self) -> Result<()> {
        let wrong = |option, value: &str, allowed| {
            Err(Error::InvalidOption { option, value: value.to_owned(), allowed })
        };
        let is_assignment =
            |text: &&String| text.find('=').is_some_and(|at| at > 0) && !text.contains('\0');
        if let Some(env) = self.env.iter().find(|text| !is_assignment(text)) {
            return wrong("env", env, "NAME=value");
        }
        if let Some(dir) = self.working_dir.as_ref().filter(|dir| !dir.starts_with('/')) {
            return wrong("working_dir", dir, "an absolute path");
        }
        let is_port = |text: &&String| {
            let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            port.parse::<u16>().is_ok_and(|port| port > 0)
                && matches!(protocol, "tcp" | "udp" | "sctp")
        };
        if let Some(port) = self.exposed_ports.iter().find(|text| !is_port(text)) {
            return wrong("exposed_ports", port, "1 to 65535, then /tcp, /udp, /sctp or nothing");
        }
        match &self.created {
            Some(time) if time.parse::<jiff::Timestamp>().is_err() => {
                wrong("created", time, "a time as in RFC 3339, such as 2024-01-31T12:00:00Z")
            }
            _ => Ok(()),
        }
    }

    fn render(&self, created: &str, diff_id: String) -> Result<Vec<u8>> {
        let given = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        let mut config = ConfigBuilder::default().build().map_err(wrong)?;
        config.set_cmd(given(&self.cmd));
        config.set_entrypoint(given(&self.entrypoint));
        config.set_env(given(&self.env));
        config.set_exposed_ports(given(&self.exposed_ports));
        config.set_working_dir(self.working_dir.clone());
        config.set_user(self.user.clone());
        config.set_stop_signal(self.stop_signal.clone());
        let labels: HashMap<_, _> = self.labels.clone().into_iter().collect();
        config.set_labels((!labels.is_empty()).then_some(labels));

        let comment = self.comment.as_deref().unwrap_or("imported by tenantry");
        let rootfs = RootFsBuilder::default().typ("layers").diff_ids(vec![diff_id]).build();
        let history = HistoryBuilder::default().created(created).comment(comment).build();
        let document = ImageConfigurationBuilder::default()
            .created(created)
            .os(Os::Linux)
            .config(config)
            .rootfs(rootfs.map_err(wrong)?)
            .history(vec![history.map_err(wrong)?])
            .build()
            .map_err(wrong)?;
        document::render("configuration", &document)
    }
}

fn wrong(error: oci_spec::OciSpecError) -> Error {
    Error::Document { what: "configuration".into(), reason: error.to_string() }
}
