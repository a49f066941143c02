//! Certificates of a test: an authority, what it has signed, and an authority that nobody trusts.

use crate::groups;
use crate::process::Directory;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files in PEM, in a directory that lives as long as the value.
#[derive(Debug)]
pub struct Certificates {
    directory: Directory,
}

impl Certificates {
    /// Makes an authority, a server's certificate for `127.0.0.1` (and for no name), a client's, and another authority; or leaves
    /// the group of tests out when there is no `openssl`.
    ///
    /// # Panics
    /// If it is missing while everything is required, or fails.
    #[must_use]
    pub fn make(group: &str) -> Option<Self> {
        groups::program_for(group, "openssl")?;
        let certificates = Self { directory: Directory::new() };
        for authority in ["ca", "other-ca"] {
            let (key, file) = (format!("{authority}.key"), format!("{authority}.pem"));
            let name = format!("/CN={authority} of a test");
            certificates.openssl(&format!("req -x509 -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {key} -out {file} -subj"), &name);
        }
        certificates.sign("server", "subjectAltName=IP:127.0.0.1");
        certificates.sign("client", "extendedKeyUsage=clientAuth");
        Some(certificates)
    }

    /// One of `ca.pem`, `other-ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Copies what a server needs into its directory: `ca.pem`, `server.pem`, `server.key`.
    ///
    /// # Panics
    /// If the directory cannot be written.
    pub fn install(&self, directory: &Path) {
        for name in ["ca.pem", "server.pem", "server.key"] {
            let path = directory.join(name);
            fs::copy(self.path(name), &path).expect("the directory is ours");
            // PostgreSQL refuses a key that others can read.
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        }
    }

    fn sign(&self, name: &str, extension: &str) {
        fs::write(self.path("extension"), format!("basicConstraints=CA:FALSE\n{extension}\n"))
            .expect("the directory is ours");
        self.openssl(
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key -out {name}.csr -subj"
            ),
            &format!("/CN={name}"),
        );
        self.openssl(
            &format!(
                "x509 -req -days 2 -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -extfile"
            ),
            "extension",
        );
    }

    fn openssl(&self, arguments: &str, last: &str) {
        let mut command = Command::new("openssl");
        command.current_dir(self.directory.path()).args(arguments.split(' ')).arg(last);
        let output = command.output().expect("the program was found before");
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
