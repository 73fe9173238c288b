//! Limits of names that sandboxes ask for: questions, answers, and the resolver behind them.
//!
//! What an answer allows to connect to is bounded with the connections.

use std::time::Duration;

/// Queries a second that one sandbox may ask; what comes beyond is refused.
pub const DNS_QUERIES_PER_SECOND: u64 = 200;
/// Queries of one sandbox under way at once.
pub const DNS_QUERIES_AT_ONCE: usize = 64;
/// Questions of one sandbox that the resolver is at, at once; what comes beyond is answered SERVFAIL.
pub const DNS_LOOKUPS_AT_ONCE: usize = 32;
/// The same of all sandboxes, however many descriptors there are.
pub const DNS_LOOKUPS_ALL_MAX: usize = 1024;
/// TCP connections for DNS of one sandbox at once.
pub const DNS_CONNECTIONS_MAX: usize = 16;
/// Time that a TCP connection for DNS may be idle.
pub const DNS_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a DNS message that is read over UDP.
pub const DNS_MESSAGE_BYTES_MAX: usize = 4096;
/// Addresses told for one name.
pub const DNS_ADDRESSES_MAX: usize = 16;
/// Longest time to live that is told, seconds: so that a name is asked again soon after a policy changes.
pub const DNS_TTL_SECONDS_MAX: u32 = 60;
/// Time to live of what `/etc/hosts` says, and of what is replayed, seconds.
pub const DNS_TTL_SECONDS_DEFAULT: u32 = 30;
/// Time for one try of an upstream resolver.
pub const DNS_TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// Tries of an upstream resolver.
pub const DNS_TRIES: u32 = 3;
/// The longest such time that `/etc/resolv.conf` may ask for.
pub const DNS_TRY_TIMEOUT_MAX: Duration = Duration::from_secs(5);
/// Time for all tries of all servers together: clients ask again after 5 s.
pub const DNS_LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Servers of `/etc/resolv.conf` that are asked: as many as the C library does.
pub const DNS_SERVERS_MAX: usize = 3;
/// Bytes of `/etc/resolv.conf` and of `/etc/hosts` that are read.
pub const DNS_HOST_FILE_BYTES_MAX: u64 = 8 << 20;
/// How often it is looked whether one of them changed.
pub const DNS_HOST_FILES_LOOK: Duration = Duration::from_secs(1);
/// Answers of upstream resolvers kept by the daemon.
pub const DNS_CACHE_MAX: usize = 4096;
/// Of the descriptors that the daemon may have, hundredths for questions of all sandboxes to the resolver.
pub const DESCRIPTORS_LOOKUPS_PERCENT: usize = 5;
