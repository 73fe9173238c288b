//! Puts what templates stand on together: where they are built, what is uploaded for them, what they reach.

use std::sync::Arc;

use mote_sandbox_api::capability::ProfileName;
use rustls::pki_types::CertificateDer;

use super::{Error, folder, workshop_in};
use crate::clock::SharedClock;
use crate::config::Config;
use crate::image::Images;
use crate::image::workshop::{TEMPLATE_PREFIX, Workshop};
use crate::keeper::client::Client;
use crate::lifecycle::Sandboxes;
use crate::state::State;
use crate::template::files::Files;
use crate::template::{Parts, Templates};

/// The templates, their uploads and their boundary in the daemon's own folder.
pub(super) async fn open(
    config: &Config,
    keeper: &Client,
    store: &State,
    images: &Images,
    roots: Vec<CertificateDer<'static>>,
    sandboxes: &Sandboxes,
    clock: &SharedClock,
) -> Result<Templates, Error> {
    let folder = folder(config).join("templates");
    let workshop = workshop_in(keeper, config, folder.join("network"), roots)?;
    let profile = sandboxes.profiles().all().get(&ProfileName::Production);
    let parts = Parts {
        store: store.clone(),
        images: images.clone(),
        workshop: Workshop { prefix: TEMPLATE_PREFIX, ..workshop },
        files: Files::new(folder.join("files")),
        default_image: config.image.clone(),
        resources: profile.map(|profile| profile.resources.clone()).unwrap_or_default(),
    };
    let opened = Templates::open(parts, Arc::clone(clock)).await;
    opened.map_err(|failure| Error::Part("read the templates", failure))
}
