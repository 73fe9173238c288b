//! Every limit of the client: what a stranger's registry or layout can make it hold.
//!
//! It does not bound what a layer holds once it is unpacked.

use std::time::Duration;

/// Bytes of a manifest, an index or a configuration.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Layers of an image.
pub const LAYERS_MAX: usize = 256;
/// Manifests of an index.
pub const MANIFESTS_MAX: usize = 256;
/// Bytes of one compressed layer.
pub const BLOB_BYTES_MAX: u64 = 32 << 30;
/// Bytes of a token service's answer.
pub const TOKEN_BYTES_MAX: u64 = 64 * 1024;
/// Redirects that are followed: blobs often lie with another host.
pub const REDIRECTS_MAX: usize = 5;
/// Time to make a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Silence of a registry after which a request fails.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Indexes that lead to another index.
pub const INDEX_DEPTH_MAX: usize = 2;
