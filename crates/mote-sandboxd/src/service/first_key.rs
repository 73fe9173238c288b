//! The key of the first start.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::Error;
use crate::clock::Clock;
use crate::state::{Scopes, State};

/// In the daemon's folder, the key that is made at the first start, for the command line to find.
pub const KEY_FILE: &str = "admin.key";
/// Name of that key.
const KEY_NAME: &str = "admin";

/// Where there is no key, makes one: printed once, and left where root on this host finds it.
pub(super) async fn make(store: &State, folder: &Path, clock: &dyn Clock) -> Result<(), Error> {
    let failed = |failure| Error::Part("make the first key", failure);
    if !store.keys().await.map_err(failed)?.is_empty() {
        return Ok(());
    }
    let made = store.new_key(KEY_NAME, &Scopes::all(), clock.now_ms()).await.map_err(failed)?;
    let path = folder.join(KEY_FILE);
    let write = || {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        writeln!(file, "{}", made.key)?;
        let mut output = std::io::stdout().lock();
        writeln!(output, "API key, shown this once and kept in {}:\n{}", path.display(), made.key)
    };
    write().map_err(|error| Error::Io("keep the first key", error))
}
