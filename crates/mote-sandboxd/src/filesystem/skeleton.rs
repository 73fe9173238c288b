//! What an image of the host shows beside the host's programs: a small tree of its own, with the few settings of the host
//! that programs need to run, and accounts that are the image's own.
//!
//! It is a list of what is shown: what it does not name is not there, whatever the host keeps and wherever. It does not
//! hold programs: those are bound ([`super::host`]).

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::limits::{HOST_SETTING_BYTES_MAX, HOST_SETTINGS_MAX};

/// Settings of the host that are shown, below `/etc`; a name that ends in `*` stands for all that begin so. None of them
/// holds secrets or tells of other services, and what not everybody may read is left out even so.
const SETTINGS: [&str; 51] = [
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "debian_version",
    "emacs",
    "fonts",
    "gai.conf",
    "groff",
    "host.conf",
    "inputrc",
    "issue",
    "java*",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "login.defs",
    "lsb-release",
    "magic",
    "magic.mime",
    "manpath.config",
    "mime.types",
    "nanorc",
    "networks",
    "os-release",
    "pam.conf",
    "pam.d",
    "papersize",
    "perl",
    "php*",
    "postgresql-common",
    "profile",
    "protocols",
    "python*",
    "R",
    "rpc",
    "security",
    "services",
    "sgml",
    "shells",
    "skel",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
    "vim",
    "xattr.conf",
    "xml",
];

/// Directories, with their modes.
const FOLDERS: [(&str, u32); 33] = [
    ("boot", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("etc/ssl", 0o755),
    ("etc/sudoers.d", 0o750),
    ("home", 0o755),
    ("home/user", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("run/lock", 0o1777),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
    ("var/backups", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/lib/dpkg", 0o755),
    ("var/lib/dpkg/info", 0o755),
    ("var/lib/dpkg/updates", 0o755),
    ("var/local", 0o755),
    ("var/log", 0o755),
    ("var/mail", 0o755),
    ("var/opt", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
    ("run/user", 0o755),
    ("etc/opt", 0o755),
];

/// Accounts of every Debian system (`base-passwd`), and the one that sandboxes use.
const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sys:x:3:3:sys:/dev:/usr/sbin/nologin
sync:x:4:65534:sync:/bin:/bin/sync
games:x:5:60:games:/usr/games:/usr/sbin/nologin
man:x:6:12:man:/var/cache/man:/usr/sbin/nologin
mail:x:8:8:mail:/var/mail:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
backup:x:34:34:backup:/var/backups:/usr/sbin/nologin
_apt:x:42:65534::/nonexistent:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
user:x:1000:1000::/home/user:/bin/bash
";
const GROUP: &str = "\
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
man:x:12:
sudo:x:27:user
audio:x:29:
www-data:x:33:
backup:x:34:
shadow:x:42:
utmp:x:43:
video:x:44:
staff:x:50:
games:x:60:
users:x:100:
nogroup:x:65534:
user:x:1000:
";
/// Root inside is nobody outside.
const SUDOERS: &str = "\
Defaults env_reset
Defaults secure_path=\"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"
root ALL=(ALL:ALL) ALL
user ALL=(ALL:ALL) NOPASSWD: ALL
@includedir /etc/sudoers.d
";
const NSSWITCH: &str = "\
passwd: files
group: files
shadow: files
gshadow: files
hosts: files dns
networks: files
protocols: files
services: files
rpc: files
";

/// Files that are the image's own: mode, group, content. Those that every sandbox gets in a version of its own are empty.
const FILES: [(&str, u32, u32, &str); 10] = [
    ("etc/passwd", 0o644, 0, PASSWD),
    ("etc/group", 0o644, 0, GROUP),
    ("etc/sudoers", 0o440, 0, SUDOERS),
    ("etc/nsswitch.conf", 0o644, 0, NSSWITCH),
    ("etc/hosts", 0o644, 0, ""),
    ("etc/hostname", 0o644, 0, ""),
    ("etc/resolv.conf", 0o644, 0, ""),
    ("etc/fstab", 0o644, 0, ""),
    ("etc/machine-id", 0o444, 0, ""),
    ("var/lib/dpkg/status", 0o644, 0, ""),
];
const LINKS: [(&str, &str); 3] = [("var/run", "/run"), ("var/lock", "/run/lock"), ("etc/mtab", "/proc/self/mounts")];

/// Group of those who may read `etc/shadow`.
const SHADOW: u32 = 42;
/// Id of the account that sandboxes use.
const USER: u32 = 1000;

/// One name of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) node: Node,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Folder,
    File(Vec<u8>),
    Link(Vec<u8>),
}

/// The tree, by path: what is above comes before what is below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Skeleton {
    pub(super) entries: BTreeMap<String, Entry>,
}

impl Skeleton {
    /// The tree for a host whose root is `host`. `programs` are directories on which the host's programs will be bound, and
    /// `links` what leads to them.
    ///
    /// # Errors
    /// Where the host's settings cannot be read, or are more than the limits.
    pub(super) fn of(host: &Path, programs: &[String], links: &[(String, Vec<u8>)]) -> std::io::Result<Self> {
        let mut tree = Self::default();
        for (path, mode) in FOLDERS {
            tree.add(path, Node::Folder, mode);
        }
        for path in programs {
            tree.add(path, Node::Folder, 0o755);
        }
        for (path, to) in links {
            tree.add(path, Node::Link(to.clone()), 0o777);
        }
        for (path, to) in LINKS {
            tree.add(path, Node::Link(to.into()), 0o777);
        }
        let etc = host.join("etc");
        for setting in SETTINGS {
            match setting.strip_suffix('*') {
                Some(beginning) => {
                    for name in names(&etc)?.into_iter().filter(|name| name.starts_with(beginning)) {
                        tree.take(&etc.join(&name), &format!("etc/{name}"))?;
                    }
                }
                None => tree.take(&etc.join(setting), &format!("etc/{setting}"))?,
            }
        }
        for name in names(&etc.join("skel")).unwrap_or_default() {
            tree.take(&etc.join("skel").join(&name), &format!("home/user/{name}"))?;
        }
        for (path, mode, gid, text) in FILES {
            tree.entries.insert(path.to_owned(), Entry { node: Node::File(text.into()), mode, uid: 0, gid });
        }
        let shadow = Node::File(shadow().into());
        tree.entries.insert("etc/shadow".to_owned(), Entry { node: shadow, mode: 0o640, uid: 0, gid: SHADOW });
        let own = |path: &str| path == "home/user" || path.starts_with("home/user/");
        for (_, entry) in tree.entries.iter_mut().filter(|(path, _)| own(path)) {
            (entry.uid, entry.gid) = (USER, USER);
        }
        Ok(tree)
    }

    /// The same tree has the same digest, in hexadecimal digits.
    pub(super) fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for (path, entry) in &self.entries {
            add(path.as_bytes());
            let (kind, bytes) = match &entry.node {
                Node::Folder => (0u32, [].as_slice()),
                Node::File(bytes) => (1, bytes.as_slice()),
                Node::Link(to) => (2, to.as_slice()),
            };
            for number in [kind, entry.mode, entry.uid, entry.gid] {
                add(&number.to_le_bytes());
            }
            add(bytes);
        }
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn add(&mut self, path: &str, node: Node, mode: u32) {
        self.entries.insert(path.to_owned(), Entry { node, mode, uid: 0, gid: 0 });
    }

    /// Takes a file, a link, or a directory with all below it from the host. What is not there, or not for everybody to read,
    /// is left out.
    fn take(&mut self, from: &Path, path: &str) -> std::io::Result<()> {
        let Ok(found) = fs::symlink_metadata(from) else { return Ok(()) };
        if self.entries.len() >= HOST_SETTINGS_MAX {
            return Err(std::io::Error::other(format!("there are more than {HOST_SETTINGS_MAX} of them")));
        }
        let mode = found.permissions().mode() & 0o7777;
        if found.is_symlink() {
            let to = std::os::unix::ffi::OsStringExt::into_vec(fs::read_link(from)?.into_os_string());
            self.add(path, Node::Link(to), 0o777);
        } else if found.is_dir() && mode & 0o005 == 0o005 {
            self.add(path, Node::Folder, 0o755);
            for name in names(from)? {
                self.take(&from.join(&name), &format!("{path}/{name}"))?;
            }
        } else if found.is_file() && mode & 0o004 != 0 && found.len() <= HOST_SETTING_BYTES_MAX {
            let mut bytes = Vec::new();
            fs::File::open(from)?.take(HOST_SETTING_BYTES_MAX).read_to_end(&mut bytes)?;
            self.add(path, Node::File(bytes), if mode & 0o111 == 0 { 0o644 } else { 0o755 });
        }
        Ok(())
    }
}

/// `shadow(5)` of the accounts: nobody has a password, and nobody needs one.
fn shadow() -> String {
    let names = PASSWD.lines().filter_map(|line| line.split(':').next());
    names.map(|name| format!("{name}:*:19000:0:99999:7:::\n")).collect()
}

/// Names in a directory; those that are not text are left out.
fn names(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_and_everybody_may_read_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let etc = folder.path().join("etc");
        fs::create_dir_all(etc.join("ssl/certs")).unwrap();
        fs::create_dir_all(etc.join("ssl/private")).unwrap();
        fs::create_dir_all(etc.join("python3")).unwrap();
        for (path, mode) in [
            ("services", 0o644),
            ("shadow", 0o640),
            ("passwd", 0o644),
            ("secret.conf", 0o644),
            ("profile", 0o600),
            ("ssl/certs/one.pem", 0o644),
            ("ssl/private/key.pem", 0o644),
            ("python3/debian_config", 0o644),
        ] {
            fs::write(etc.join(path), "of the host").unwrap();
            fs::set_permissions(etc.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        let tree = Skeleton::of(folder.path(), &["usr".to_owned()], &[]).unwrap();
        let content = |path: &str| match &tree.entries.get(path)?.node {
            Node::File(bytes) => Some(String::from_utf8(bytes.clone()).unwrap()),
            _ => None,
        };
        for taken in ["etc/services", "etc/ssl/certs/one.pem", "etc/python3/debian_config"] {
            assert_eq!(content(taken).as_deref(), Some("of the host"), "{taken}");
        }
        for left in ["etc/secret.conf", "etc/profile", "etc/ssl/private", "etc/ssl/private/key.pem"] {
            assert!(!tree.entries.contains_key(left), "{left}");
        }
        for own in ["etc/passwd", "etc/shadow"] {
            assert!(!content(own).unwrap().contains("of the host"), "{own}");
        }
        assert_eq!(tree.digest(), Skeleton::of(folder.path(), &["usr".to_owned()], &[]).unwrap().digest());
        fs::write(etc.join("services"), "changed").unwrap();
        assert_ne!(tree.digest(), Skeleton::of(folder.path(), &["usr".to_owned()], &[]).unwrap().digest());
    }
}
