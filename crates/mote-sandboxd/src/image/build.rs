//! Building an image from a recipe, with Debian's mmdebstrap: packages first, then pip, npm, files and lines for the shell.
//!
//! The build is the administrator's command: what packages, requirements and lines run, runs in a chroot as the user who
//! builds. A recipe whose digest was built before is not built again.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use mote_sandbox_api::error::{Code, Failure};
use tokio::process::Command;

use super::Images;
use super::recipe::{Loaded, octal};
use super::record::{Config, Image, check_name};

impl Images {
    /// Builds what the recipe says, or finds that it was built, and gives it the recipe's name. Answers whether it was built.
    ///
    /// # Errors
    /// `unsupported` where mmdebstrap is missing; `internal` with its last words where it failed.
    pub async fn build(&self, loaded: &Loaded, now_ms: u64) -> Result<(Image, bool), Failure> {
        let recipe = &loaded.recipe;
        check_name(&recipe.name)?;
        let built = format!("recipe:{}", loaded.digest.hex());
        if let Some(image) = self.find(&built).await? {
            self.keep(&image, &recipe.name).await?;
            return Ok((image, false));
        }
        let folder = self.options.scratch.join(format!("build.{}", loaded.digest.hex()));
        let result = self.build_in(&folder, loaded, &built, now_ms).await;
        let _ = fs::remove_dir_all(&folder);
        let image = result?;
        self.keep(&image, &recipe.name).await?;
        Ok((image, true))
    }

    async fn build_in(&self, folder: &Path, loaded: &Loaded, built: &str, now_ms: u64) -> Result<Image, Failure> {
        let what = |error: std::io::Error| Failure::new(Code::Internal, format!("failed to prepare a build: {error}"));
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder).map_err(what)?;
        for (number, content) in loaded.contents.iter().enumerate() {
            fs::write(folder.join(format!("file{number}")), content).map_err(what)?;
        }
        let tarball = folder.join("root.tar");
        let output = Command::new("mmdebstrap")
            .args(arguments(loaded, folder))
            .arg(&loaded.suite)
            .arg(&tarball)
            .env("SOURCE_DATE_EPOCH", "0")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| {
                Failure::new(Code::Unsupported, format!("failed to start mmdebstrap: {error}"))
                    .remedy("install the package mmdebstrap")
            })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<&str> = said.lines().collect();
            let last = lines[lines.len().saturating_sub(20)..].join("\n");
            return Err(Failure::new(Code::Internal, format!("failed to build the image: mmdebstrap: {last}")));
        }
        let recipe = &loaded.recipe;
        let config = Config {
            env: recipe.env.clone(),
            user: recipe.user.clone(),
            cwd: recipe.cwd.clone(),
            entrypoint: Vec::new(),
        };
        self.import_tarball(&tarball, built, config, now_ms).await
    }
}

fn arguments(loaded: &Loaded, folder: &Path) -> Vec<String> {
    let recipe = &loaded.recipe;
    let mut packages: Vec<&str> = recipe.packages.iter().map(String::as_str).collect();
    if !recipe.pip.is_empty() {
        packages.push("python3-pip");
    }
    if !recipe.npm.is_empty() {
        packages.push("npm");
    }
    let mut arguments = vec!["--variant=minbase".to_owned(), "--quiet".to_owned()];
    if !packages.is_empty() {
        arguments.push(format!("--include={}", packages.join(",")));
    }
    let mut hook = |line: String| arguments.push(format!("--customize-hook={line}"));
    let words = |words: &[String]| words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
    if !recipe.pip.is_empty() {
        let line = "pip install --no-input --no-cache-dir --break-system-packages --root-user-action=ignore";
        hook(format!("chroot \"$1\" {line} {}", words(&recipe.pip)));
    }
    if !recipe.npm.is_empty() {
        hook(format!("chroot \"$1\" npm install --global --no-audit --no-fund {}", words(&recipe.npm)));
    }
    for (number, file) in recipe.files.iter().enumerate() {
        let path = quote(&file.path);
        let source = quote(&folder.join(format!("file{number}")).display().to_string());
        let mode = file.mode.as_deref().and_then(octal).unwrap_or(0o644);
        // By a program inside: a link in the image then leads nowhere else.
        hook(format!("chroot \"$1\" install -D -m {mode:o} /dev/stdin {path} < {source}"));
    }
    for line in &recipe.run {
        hook(format!("chroot \"$1\" /bin/sh -euc {}", quote(line)));
    }
    arguments
}

/// A word of the shell that stands for exactly this text.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word_for_the_shell() {
        for text in ["a b", "it's", "$(id)", "`id`", "a\nb", "'"] {
            let output =
                std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quote(text))]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }
}
