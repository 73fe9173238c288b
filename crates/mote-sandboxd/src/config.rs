//! The configuration: a strict YAML file, or none; everything has a default.
//!
//! It reads no environment variable. What a field means stands with the field; `docs/sandbox-config.md` shows a whole file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use mote_sandbox_api::capability::ProfileName;
use mote_sandbox_api::network::{Policy, Rule, Verdict};
use mote_sandbox_api::spec::{ImageSource, Spec};
use mote_sandbox_api::units;
use serde::{Deserialize, Deserializer, de};

use crate::filesystem::Backend;
use crate::lifecycle::check;
use crate::lifecycle::pool::Entry;
use crate::limits::{IMPORT_BYTES_MAX, POOL_SIZE_MAX, SANDBOXES_MAX, TREE_BYTES_MAX, TREE_ENTRIES_MAX};
use crate::network::policy::Compiled;
use crate::tls::Tls;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("failed to read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be; the message names line and column.
    #[error("failed to read the configuration {}: {message}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A value cannot be used.
    #[error("failed to read the configuration: {field}: {message}")]
    Value {
        /// Which.
        field: String,
        /// What is wrong.
        message: String,
    },
}

/// What becomes of sandboxes when the daemon stops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStop {
    /// They live on, and the next daemon adopts them.
    #[default]
    Leave,
    /// They are removed.
    Remove,
}

/// The daemon's configuration, as the file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port of the API. Loopback unless the operator says otherwise.
    pub listen: SocketAddr,
    /// A certificate for `*.DOMAIN`: the API over TLS, on an address of its own or on the one above.
    pub tls: Option<Tls>,
    /// Where everything is kept that outlives the daemon.
    pub state: PathBuf,
    /// Where sockets and records of living sandboxes stand; a tmpfs.
    pub run: Option<PathBuf>,
    /// The static program that becomes the first process of every sandbox; beside the daemon's own program where absent.
    pub init: Option<PathBuf>,
    /// Domain of previews: `PORT-ID.DOMAIN`.
    pub domain: String,
    /// Who resolves the names that sandboxes ask for: `system`, or the address of a resolver.
    pub resolver: String,
    /// A file of authorities (PEM) that destinations may have beside the public ones, where TLS is terminated.
    pub authorities: Option<PathBuf>,
    /// Image of specifications that name none.
    pub image: ImageSource,
    /// Defaults of the profiles, laid over the built-in ones.
    pub profiles: BTreeMap<ProfileName, Spec>,
    /// What is kept warm.
    pub pool: Vec<Entry>,
    /// Sandboxes that are not gone, at most.
    pub sandboxes_max: usize,
    /// Bytes of an exported snapshot that is taken in.
    #[serde(deserialize_with = "bytes")]
    pub import_max: u64,
    /// Host directories that may be bound as data, and whose archives may be imported: what everybody may read there is read.
    pub directories: Vec<PathBuf>,
    /// Host directories that may be images: root inside reads what only the host's root may read there.
    pub image_directories: Vec<PathBuf>,
    /// Registries (`HOST`) that images may be pulled from; every one where absent.
    pub registries: Option<Vec<String>>,
    /// Bytes of the files of one image that is imported or pulled, over all its layers.
    #[serde(deserialize_with = "bytes")]
    pub image_max: u64,
    /// Files, directories and links of one such image.
    pub image_files_max: u64,
    /// Bytes of all images that are kept; as the disk has where absent.
    #[serde(deserialize_with = "size")]
    pub images_max: Option<u64>,
    /// The host's own programs may be an image: what `docs/sandbox.md` lists, and nothing else of the host.
    pub host_root: bool,
    /// How roots are kept; found by trying where absent: `btrfs` wherever the host can.
    pub filesystem: Option<Backend>,
    /// Bytes of the pool's file, where one is made: three quarters of what the disk has left, 64 GiB at most, where absent.
    #[serde(deserialize_with = "size")]
    pub disk: Option<u64>,
    /// Bytes that a volume may be charged with, where the pool keeps account.
    #[serde(deserialize_with = "size")]
    pub volume_disk: Option<u64>,
    /// Sandboxes made through E2B's API that do not say so reach every public destination, as E2B's own do; else nothing.
    pub open_egress_default: bool,
    /// What the steps of a recipe may reach while an image is built: every public destination unless this says otherwise.
    pub build_network: Policy,
    /// What becomes of sandboxes when the daemon stops.
    pub on_stop: OnStop,
    /// What is logged: a level, and `target=level` after commas.
    pub log: String,
    /// First host id of the sandboxes' user ranges; two daemons on one host need different ones.
    pub uid_base: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            tls: None,
            state: PathBuf::from("/var/lib/mote-sandbox"),
            run: None,
            init: None,
            domain: "sandbox.localhost".to_owned(),
            resolver: "system".to_owned(),
            authorities: None,
            image: ImageSource::Host,
            profiles: BTreeMap::new(),
            pool: Vec::new(),
            sandboxes_max: SANDBOXES_MAX,
            import_max: IMPORT_BYTES_MAX,
            directories: Vec::new(),
            image_directories: Vec::new(),
            registries: None,
            image_max: TREE_BYTES_MAX,
            image_files_max: TREE_ENTRIES_MAX,
            images_max: None,
            filesystem: None,
            disk: None,
            volume_disk: None,
            host_root: true,
            open_egress_default: true,
            build_network: everything_public(),
            on_stop: OnStop::Leave,
            log: "info".to_owned(),
            uid_base: None,
        }
    }
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| units::parse_size(&text).map_err(de::Error::custom)).transpose()
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    units::parse_size(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

fn everything_public() -> Policy {
    let to = "*".to_owned();
    let rule = Rule {
        verdict: Verdict::Allow,
        to,
        ports: Vec::new(),
        over_deny: false,
        inspect: false,
        headers: Vec::new(),
        plain_http: false,
    };
    Policy { rules: vec![rule], ..Policy::default() }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error`], naming the file, and line and column or the field.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|error| match error {
            Error::Yaml { message, .. } => Error::Yaml { path: path.to_owned(), message },
            error => error,
        })
    }

    fn parse(text: &str) -> Result<Self, Error> {
        let config: Self = serde_saphyr::from_str(text)
            .map_err(|error| Error::Yaml { path: PathBuf::new(), message: error.to_string() })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |field: &str, message: String| Err(Error::Value { field: field.to_owned(), message });
        if self.domain.is_empty() || self.domain.starts_with('.') || self.domain.contains(['/', ':']) {
            return wrong("domain", format!("{:?} is not a name", self.domain));
        }
        let files = self.tls.iter().flat_map(|tls| [&tls.certificate, &tls.key]);
        let directories = self.directories.iter().chain(&self.image_directories);
        for path in directories.chain([&self.state]).chain(&self.run).chain(&self.init).chain(files) {
            if !path.is_absolute() {
                return wrong("paths", format!("{} must be absolute", path.display()));
            }
        }
        for (name, spec) in &self.profiles {
            if let Err(failure) = check::spec(spec) {
                return wrong(&format!("profiles.{name:?}").to_lowercase(), failure.message);
            }
        }
        for (at, entry) in self.pool.iter().enumerate() {
            if entry.size > POOL_SIZE_MAX {
                return wrong(&format!("pool[{at}].size"), format!("it is more than {POOL_SIZE_MAX}"));
            }
            if let Err(failure) = check::spec(&entry.spec) {
                return wrong(&format!("pool[{at}].spec"), failure.message);
            }
        }
        if let Err(message) = crate::network::dns::upstream_of(&self.resolver) {
            return wrong("resolver", message);
        }
        if let Err(failure) = Compiled::new(&self.build_network) {
            return wrong("build_network", failure.message);
        }
        if self.import_max > IMPORT_BYTES_MAX {
            return wrong("import_max", format!("it is more than {IMPORT_BYTES_MAX} bytes"));
        }
        if self.image_max > TREE_BYTES_MAX {
            return wrong("image_max", format!("it is more than {TREE_BYTES_MAX} bytes"));
        }
        if self.image_files_max > TREE_ENTRIES_MAX {
            return wrong("image_files_max", format!("it is more than {TREE_ENTRIES_MAX}"));
        }
        if self.sandboxes_max == 0 {
            return wrong("sandboxes_max", "it must be at least 1".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_to_be_said() {
        let config = Config::parse("{}").unwrap();
        assert!(config.listen.ip().is_loopback());
    }

    #[test]
    fn a_field_that_is_not_known_is_named_with_its_line() {
        let error = Config::parse("listen: 127.0.0.1:1\nlisten_adress: x\n").unwrap_err().to_string();
        assert!(error.contains("listen_adress") && error.contains('2'), "{error}");
    }

    #[test]
    fn a_whole_file_reads() {
        let config = Config::parse(
            "
listen: 0.0.0.0:9000
state: /srv/sandboxes
domain: sandbox.example.com
image: {name: base}
profiles:
  training: {lease: 60s, resources: {memory: 1GiB}}
pool:
  - {spec: {profile: training}, size: 16}
on_stop: remove
filesystem: overlay
disk: 200GiB
volume_disk: 1TiB
directories: [/data]
tls: {listen: '0.0.0.0:443', certificate: /etc/mote/tls.crt, key: /etc/mote/tls.key}
",
        )
        .unwrap();
        assert_eq!(config.tls.unwrap().key, Path::new("/etc/mote/tls.key"));
        assert_eq!(config.pool[0].size, 16);
        assert_eq!(config.on_stop, OnStop::Remove);
        assert_eq!(config.filesystem, Some(Backend::Plain));
        assert_eq!((config.disk, config.volume_disk), (Some(200 << 30), Some(1 << 40)));
        assert_eq!(config.profiles[&ProfileName::Training].resources.memory, Some(1 << 30));
    }

    #[test]
    fn values_out_of_bounds_name_their_field() {
        for (text, field) in [
            ("state: relative", "paths"),
            ("tls: {certificate: tls.crt, key: /tls.key}", "paths"),
            ("tls: {certificate: /tls.crt}", "key"),
            ("tls: {certificate: /tls.crt, key: /tls.key, ca: /ca.crt}", "ca"),
            ("domain: a/b", "domain"),
            ("profiles: {training: {cwd: x}}", "profiles.training"),
            ("pool: [{size: 100000}]", "pool[0].size"),
            ("sandboxes_max: 0", "sandboxes_max"),
            ("disk: 64GB", "64GB"),
            ("import_max: 1TiB", "import_max"),
            ("image_max: 1TiB", "image_max"),
            ("image_files_max: 5000000", "image_files_max"),
            ("images_max: much", "much"),
            ("import_max: much", "much"),
            ("build_network: {private_ranges: [x]}", "build_network"),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }
}
