//! `mote-sandboxd image`: list, import, remove and build, as an administrator does.
//!
//! It does not start the keeper that it works through: `main` does, as for the service.

use std::io::Write;
use std::path::PathBuf;

use mote_oci::reference::Reference;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::units;

use super::import::{failure, split_tag};
use super::record::{Config, Image, check_name};
use super::workshop::Workshop;
use super::{Images, recipe};

/// What is asked.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Lists images: name, size, id, where they came from
    List,
    /// Imports an image: a tarball, an OCI layout (`oci:PATH[:TAG]`), or an image of a registry (`HOST/REPO[:TAG]`)
    Import {
        /// `PATH.tar[.gz|.zst]`, `oci:PATH[:TAG]` or `HOST/REPO[:TAG|@DIGEST]`
        source: String,
        /// What the image is called; the source where absent
        #[arg(long)]
        name: Option<String>,
    },
    /// Builds an image from a recipe, in sandboxes; steps that were built before are not built again
    Build {
        /// The recipe's file, or a directory with a `recipe.yaml`
        recipe: PathBuf,
        /// Builds every step anew, as where packages have newer versions
        #[arg(long)]
        no_cache: bool,
    },
    /// Removes images by name
    #[command(name = "rm")]
    Remove {
        /// Names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Removes layers that nothing uses
    Collect {
        /// Also forgets the steps of recipes that were built
        #[arg(long)]
        cache: bool,
    },
}

/// Carries the command out and tells what came of it.
///
/// # Errors
/// What the store met; `internal` where nothing can be written to `out`.
pub async fn run(
    images: &Images,
    workshop: &Workshop,
    command: Command,
    now_ms: u64,
    out: &mut (impl Write + Send),
) -> Result<(), Failure> {
    let text = match command {
        Command::List => list(&images.list().await?),
        Command::Import { source, name } => {
            let image = import(images, &source, name.as_deref(), now_ms).await?;
            let owners = match image.unmapped_owners {
                0 => String::new(),
                count => format!("; {count} owners beyond 65535, the last id inside, became nobody"),
            };
            format!("imported {} ({}){owners}\n", name.unwrap_or(source), image.id)
        }
        Command::Build { recipe, no_cache } => {
            let loaded = recipe::load(&recipe)?;
            let (image, built) = images.build(workshop, &loaded, no_cache, now_ms, out).await?;
            let how = if built { "built" } else { "found, built before:" };
            format!("{how} {} ({})\n", loaded.recipe.name, image.id)
        }
        Command::Remove { names } => {
            for name in &names {
                images.remove(name).await?;
            }
            format!("removed {}\n", names.join(", "))
        }
        Command::Collect { cache } => {
            let steps = if cache { images.forget_steps().await? } else { 0 };
            let layers = images.collect().await?;
            if cache {
                format!("forgot {steps} steps, removed {layers} layers\n")
            } else {
                format!("removed {layers} layers\n")
            }
        }
    };
    out.write_all(text.as_bytes())
        .map_err(|error| Failure::new(Code::Internal, format!("failed to write to the terminal: {error}")))
}

async fn import(images: &Images, source: &str, name: Option<&str>, now_ms: u64) -> Result<Image, Failure> {
    if let Some(name) = name {
        check_name(name)?;
    }
    if let Some(layout) = source.strip_prefix("oci:") {
        let (folder, tag) = split_tag(layout);
        return images.import_layout(folder.into(), tag, name.unwrap_or(source), now_ms).await;
    }
    let path = source.strip_prefix("tarball:").unwrap_or(source);
    if path.len() != source.len() || path.starts_with(['/', '.']) || path.contains(".tar") {
        let kept = name.map_or_else(|| format!("tarball:{path}"), str::to_owned);
        return images.import_tarball(path.as_ref(), &kept, Config::default(), now_ms).await;
    }
    let reference = Reference::parse(source).map_err(|error| failure(&error))?;
    images.import_registry(&reference, name.unwrap_or(source), now_ms).await
}

fn list(images: &[(String, Image)]) -> String {
    let mut text = String::new();
    let width = images.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max("NAME".len());
    let mut row = |name: &str, size: &str, id: &str, source: &str| {
        text.push_str(&format!("{name:width$}  {size:>8}  {id:12}  {source}\n"));
    };
    row("NAME", "SIZE", "ID", "SOURCE");
    for (name, image) in images {
        let size = image.bytes.map_or_else(|| "-".to_owned(), |bytes| units::format_size((bytes >> 20).max(1) << 20));
        let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
        row(name, &size, &id[..id.len().min(12)], &image.source);
    }
    text
}
