//! How TLS is spoken with a host: certificates as bytes, so that two hosts with the same settings share a client and a
//! changed file makes a new one.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// TLS settings of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Any certificate will do. For testing.
    pub skip_verify: bool,
    /// Trusted beside the system's, PEM bundles.
    pub ca: Vec<Vec<u8>>,
    /// Certificate and key shown to the host, PEM.
    pub client: Option<Vec<u8>>,
}

impl Tls {
    /// The same trust without the client's key: for a host that another one redirects to.
    pub fn anonymous(&self) -> Self {
        Self { client: None, ..self.clone() }
    }

    /// Docker's layout: every `*.crt` is trusted, `NAME.cert` with `NAME.key` is shown.
    pub(super) fn of_folder(folder: &Path) -> Result<Self> {
        let mut tls = Self::default();
        let entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        files.sort();
        for file in files {
            match file.extension().and_then(|e| e.to_str()) {
                Some("crt") => tls.add_ca(&file)?,
                Some("cert") => tls.add_client(&[file.clone(), file.with_extension("key")])?,
                _ => {}
            }
        }
        Ok(tls)
    }

    pub(super) fn add_ca(&mut self, file: &Path) -> Result<()> {
        self.ca.push(read(file)?);
        Ok(())
    }

    /// One file that holds both, or a certificate and its key. Of several clients the first is used: a host that asks
    /// for a certificate does not say for which.
    pub(super) fn add_client(&mut self, files: &[PathBuf]) -> Result<()> {
        if files.is_empty() || files.len() > 2 {
            return Err(Error::invalid("client", "one file, or a certificate and its key"));
        }
        let mut pem = Vec::new();
        for file in files {
            pem.extend(read(file)?);
        }
        match self.client {
            Some(_) => {
                tracing::warn!(file = %files[0].display(), "more than one client certificate: the first is used")
            }
            None => self.client = Some(pem),
        }
        Ok(())
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(Error::io("read", file))
}
