//! What the host says of names: the servers of `/etc/resolv.conf` and the addresses of `/etc/hosts`, read again where a file
//! changed.
//!
//! It asks no server. `nsswitch.conf` and the list of domains to search are not for names that come from a sandbox: those are
//! whole, and DNS and the two files are all that a name inside can mean.

use std::collections::HashMap;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::limits::{
    DNS_HOST_FILE_BYTES_MAX, DNS_HOST_FILES_LOOK, DNS_SERVERS_MAX, DNS_TRIES, DNS_TRY_TIMEOUT, DNS_TRY_TIMEOUT_MAX,
};
use crate::network::keeper::DNS_PORT;
use crate::network::name::Name;

/// What the files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// Servers in the order in which they are asked.
    pub(super) servers: Vec<SocketAddr>,
    /// How often all of them are asked.
    pub(super) tries: u32,
    /// How long one of them may take.
    pub(super) patience: Duration,
    /// Names that are known without asking.
    pub(super) hosts: HashMap<Name, Vec<Ipv4Addr>>,
}

/// The two files.
#[derive(Debug)]
pub(super) struct Files {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    /// Held while they are looked at, so that one looks for all who wait.
    known: Mutex<Option<Known>>,
}

#[derive(Clone, Debug)]
struct Known {
    looked: Instant,
    stamps: [Stamp; 2],
    said: Arc<Said>,
}

/// What changes where a file does: its number, size and time of change; none where there is no file.
type Stamp = Option<(u64, u64, i64, i64)>;

impl Files {
    pub(super) fn of_the_host() -> Self {
        Self::new(Path::new("/etc/resolv.conf"), Path::new("/etc/hosts"))
    }

    pub(super) fn new(resolv_conf: &Path, hosts: &Path) -> Self {
        Self { resolv_conf: resolv_conf.to_owned(), hosts: hosts.to_owned(), known: Mutex::default() }
    }

    /// What they say now, or said [`DNS_HOST_FILES_LOOK`] ago at most.
    pub(super) async fn said(&self) -> Arc<Said> {
        let mut known = self.known.lock().await;
        let now = Instant::now();
        if let Some(known) = &*known
            && now < known.looked + DNS_HOST_FILES_LOOK
        {
            return Arc::clone(&known.said);
        }
        let before = known.clone();
        let paths = [self.resolv_conf.clone(), self.hosts.clone()];
        let looking = tokio::task::spawn_blocking(move || {
            let stamps = [stamp(&paths[0]), stamp(&paths[1])];
            match before {
                Some(before) if before.stamps == stamps => (stamps, before.said),
                _ => (stamps, Arc::new(Said::read(&text(&paths[0]), &text(&paths[1])))),
            }
        });
        let (stamps, said) = match looking.await {
            Ok(looked) => looked,
            // The runtime ends.
            Err(_) => ([None, None], Arc::new(Said::read("", ""))),
        };
        *known = Some(Known { looked: now, stamps, said: Arc::clone(&said) });
        said
    }
}

fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
}

/// A file that is not there, or cannot be read, says nothing: as the C library takes it.
fn text(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(DNS_HOST_FILE_BYTES_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Said {
    /// Reads resolv.conf(5) and hosts(5). What is not understood is passed over, as the C library does.
    pub(super) fn read(resolv_conf: &str, hosts: &str) -> Self {
        let mut said = Self { servers: Vec::new(), tries: DNS_TRIES, patience: DNS_TRY_TIMEOUT, hosts: HashMap::new() };
        for line in resolv_conf.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    said.servers.extend(address.map(|address| SocketAddr::new(address, DNS_PORT)));
                }
                Some("options") => words.for_each(|option| said.option(option)),
                _ => {}
            }
        }
        said.servers.truncate(DNS_SERVERS_MAX);
        if said.servers.is_empty() {
            said.servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT)));
        }
        for line in hosts.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            // Addresses of IPv6 lead nowhere: no sandbox has a way out over it.
            let Some(Ok(address)) = words.next().map(str::parse::<Ipv4Addr>) else { continue };
            for name in words.filter_map(|word| Name::parse(word).ok()) {
                let addresses = said.hosts.entry(name).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        said
    }

    fn option(&mut self, option: &str) {
        match option.split_once(':').map(|(name, value)| (name, value.parse::<u32>())) {
            Some(("timeout", Ok(seconds))) => {
                self.patience = Duration::from_secs(u64::from(seconds.max(1))).min(DNS_TRY_TIMEOUT_MAX);
            }
            Some(("attempts", Ok(tries))) => self.tries = tries.clamp(1, DNS_TRIES),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_files_are_read_as_the_c_library_reads_them() {
        let said = Said::read(
            "# nameserver 192.0.2.9\n;nameserver 192.0.2.8\ndomain example.com\nsearch a.example b.example\n\
             nameserver 192.0.2.1\nnameserver\t2001:db8::1 # a comment\nnameserver nonsense\n\
             nameserver 192.0.2.3\nnameserver 192.0.2.4\noptions ndots:5 timeout:1 attempts:2 edns0\noptions rotate\n",
            "127.0.0.1 localhost\n192.0.2.7\tDB.example db # the old one\n::1 six.example\nnonsense\n\
             192.0.2.8 db.example\n192.0.2.7 db.example\n# 192.0.2.9 none.example\n",
        );
        let servers: Vec<_> = said.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.3:53"], "the first three");
        assert_eq!((said.tries, said.patience), (2, Duration::from_secs(1)));
        let known = |name: &str| said.hosts.get(&Name::parse(name).unwrap()).cloned().unwrap_or_default();
        assert_eq!(known("db.example"), [Ipv4Addr::new(192, 0, 2, 7), Ipv4Addr::new(192, 0, 2, 8)]);
        assert_eq!(known("db"), [Ipv4Addr::new(192, 0, 2, 7)]);
        assert!(known("six.example").is_empty() && known("none.example").is_empty());
        // Where there is no server, the one on this host is meant.
        assert_eq!(Said::read("", "").servers, ["127.0.0.1:53".parse().unwrap()]);
        let bounded = Said::read("options timeout:3600 attempts:1000\n", "");
        assert_eq!((bounded.tries, bounded.patience), (DNS_TRIES, DNS_TRY_TIMEOUT_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_changed_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (conf, hosts) = (folder.path().join("resolv.conf"), folder.path().join("hosts"));
        let files = Files::new(&conf, &hosts);
        assert_eq!(*files.said().await, Said::read("", ""), "none of them has to be there");
        std::fs::write(&conf, "nameserver 192.0.2.1\n").unwrap();
        std::fs::write(&hosts, "192.0.2.7 db\n").unwrap();
        tokio::time::advance(DNS_HOST_FILES_LOOK).await;
        let first = files.said().await;
        assert_eq!(*first, Said::read("nameserver 192.0.2.1\n", "192.0.2.7 db\n"));
        tokio::time::advance(DNS_HOST_FILES_LOOK).await;
        assert!(Arc::ptr_eq(&first, &files.said().await), "nothing changed");
        std::fs::write(&conf, "nameserver 192.0.2.2 # another\n").unwrap();
        tokio::time::advance(DNS_HOST_FILES_LOOK).await;
        assert_eq!(files.said().await.servers, ["192.0.2.2:53".parse().unwrap()]);
    }
}
