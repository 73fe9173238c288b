//! What a step does in its sandbox, and how what follows is run.
//!
//! It knows no layers: [`super::build`] keeps what a step has written.

use std::path::Path;

use futures_util::StreamExt as _;
use mote_sandbox_api::error::{Code, Failure};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::files::Upload;
use super::log::Level;
use super::plan::{Copy, Work};
use super::process::{self, Output, done, environment, fault, root, script, user};
use crate::guest::Guest;
use crate::image::record::Config;
use crate::image::workshop::FOLDER;
use crate::limits::TEMPLATE_ENVIRONMENT_BYTES_MAX;

/// Unpacks an upload, gives what it holds its owner and mode, and merges it into its place: directories into those that are
/// there, which keep owner and mode, files over them. A link is moved as a link.
const COPY: &str = r#"
archive=$1 flag=$2 folder=$3 source=$4 target=$5 owner=$6 mode=$7
command -v tar >/dev/null || { echo "the image has no tar, which COPY needs" >&2; exit 1; }
mkdir -p "$folder"
tar "-x${flag}of" "$archive" -C "$folder"
entry=$folder/$source
if [ ! -e "$entry" ] && [ ! -L "$entry" ]; then
    echo "source path does not exist: $source" >&2
    exit 1
fi
case $owner in
*:*) chown -hR "$owner" "$entry" ;;
*) chown -hR "$owner:" "$entry" 2>/dev/null || chown -hR "$owner" "$entry" ;;
esac
[ -z "$mode" ] || [ -L "$entry" ] || chmod -R "$mode" "$entry"
if [ -d "$entry" ] && [ ! -L "$entry" ]; then
    keep=
    [ ! -d "$target" ] || keep=--no-overwrite-dir
    mkdir -p "$target"
    if tar --keep-directory-symlink --version >/dev/null 2>&1; then
        (cd "$entry" && tar -cf - .) | tar -xpf - -C "$target" --keep-directory-symlink $keep
    else
        cp -a "$entry/." "$target/"
    fi
else
    case $target in
    */) mkdir -p "$target" ;;
    *) mkdir -p "$(dirname "$target")" ;;
    esac
    mv -f "$entry" "$target"
fi
rm -rf "$folder" "$archive"
"#;

/// Makes a directory and those above it; the new ones become the user's.
const WORKDIR: &str = r#"
target=$1 owner=$2 first=
[ ! -d "$target" ] || exit 0
check=$target
while [ ! -d "$check" ]; do
    first=$check
    check=$(dirname "$check")
done
mkdir -p "$target"
chown -R "$owner:" "$first" 2>/dev/null || chown -R "$owner" "$first"
"#;

/// Makes a user where there is none of that name.
const ADD_USER: &str = r#"
name=$1 sudo=$2
if ! id -u "$name" >/dev/null 2>&1; then
    if command -v useradd >/dev/null; then
        shell=/bin/bash
        [ -x "$shell" ] || shell=/bin/sh
        useradd --create-home --shell "$shell" "$name"
    elif command -v adduser >/dev/null; then
        adduser -D "$name"
    else
        id=1001
        while grep -q "^[^:]*:[^:]*:$id:" /etc/passwd /etc/group; do id=$((id + 1)); done
        echo "$name:x:$id:" >> /etc/group
        echo "$name:x:$id:$id::/home/$name:/bin/sh" >> /etc/passwd
        mkdir -p "/home/$name"
        chown "$id:$id" "/home/$name"
    fi
fi
if [ "$sudo" = true ]; then
    mkdir -p /etc/sudoers.d
    printf '%s ALL=(ALL:ALL) NOPASSWD: ALL\n' "$name" > "/etc/sudoers.d/$name"
    chmod 440 "/etc/sudoers.d/$name"
fi
"#;

/// A step at work.
pub(super) struct Working<'a> {
    pub(super) guest: &'a Guest,
    pub(super) output: Output<'a>,
    /// What was uploaded for it.
    pub(super) upload: Option<&'a Upload>,
}

impl Working<'_> {
    /// Does what a step says, in what holds so far; what holds from now on.
    ///
    /// # Errors
    /// `invalid` with what a program said; `timeout`; `gone`.
    pub(super) async fn work(&self, work: &Work, context: &Config) -> Result<Config, Failure> {
        let mut next = context.clone();
        match work {
            Work::Run { command, user } => {
                let mut whose = context.clone();
                whose.user = user.clone().or(whose.user);
                let start = process::shell(self.guest, command, &whose).await;
                let ended = process::run(self.guest, start, Some(self.output)).await;
                let how = match ended {
                    Ok(ended) => fault(ended.exit),
                    Err(failure) => Some(failure.message),
                };
                if let Some(how) = how {
                    return Err(Failure::new(Code::Invalid, format!("failed to run command '{command}': {how}")));
                }
            }
            Work::Copy(copy) => self.copy(copy, context).await?,
            Work::Env(pairs) => {
                for (name, value) in pairs {
                    let value = self.expand(value, &next).await?;
                    next.env.insert(name.clone(), value);
                }
                let bytes: usize = next.env.iter().map(|(name, value)| name.len() + value.len()).sum();
                if bytes > TEMPLATE_ENVIRONMENT_BYTES_MAX {
                    let message = format!("the environment is longer than {TEMPLATE_ENVIRONMENT_BYTES_MAX} bytes");
                    return Err(Failure::new(Code::Invalid, message).with("limit", TEMPLATE_ENVIRONMENT_BYTES_MAX));
                }
            }
            Work::Workdir(path) => {
                let path = self.expand(path, context).await?;
                let path = joined(context.cwd.as_deref().unwrap_or("/"), &path);
                let start = script(WORKDIR, &[&path, &user(context)], environment(context));
                done(self.guest, start, Some(self.output)).await.map_err(|failure| told("create workdir", &failure))?;
                next.cwd = Some(path);
            }
            Work::User { name, sudo } => {
                // A number needs no account, and a group is not made.
                if name.parse::<u32>().is_err() && !name.contains(':') {
                    let sudo = if *sudo { "true" } else { "false" };
                    let start = script(ADD_USER, &[name, sudo], environment(context));
                    done(self.guest, start, Some(self.output))
                        .await
                        .map_err(|failure| told("create user", &failure))?;
                }
                next.user = Some(name.clone());
            }
        }
        Ok(next)
    }

    async fn copy(&self, copy: &Copy, context: &Config) -> Result<(), Failure> {
        let Some(upload) = self.upload else {
            let message = format!("failed to copy '{}': its files were not uploaded", copy.source);
            return Err(Failure::new(Code::Invalid, message));
        };
        let what = format!("copy '{}' to '{}'", copy.source, copy.target);
        let (archive, folder) = (format!("{FOLDER}/files.tar"), format!("{FOLDER}/files"));
        let failed = |error: std::io::Error| {
            Failure::new(Code::Internal, format!("failed to {what}: failed to read what was uploaded: {error}"))
        };
        let mut file = tokio::fs::File::open(&upload.path).await.map_err(failed)?;
        let flag = if is_gzip(&upload.path).await.map_err(failed)? { "z" } else { "" };
        file.set_max_buf_size(1 << 18);
        let bytes = ReaderStream::with_capacity(&mut file, 1 << 18).map(|chunk| chunk.map_err(failed));
        self.guest.write(root(&archive), Some(0o600), bytes).await.map_err(|failure| told(&what, &failure))?;
        let target = self.expand(&copy.target, context).await?;
        let target = self.place(&target, context).await;
        let owner = copy.owner.clone().unwrap_or_else(|| user(context));
        let mode = copy.mode.as_deref().unwrap_or_default();
        let words = [archive.as_str(), flag, &folder, &copy.source, &target, &owner, mode];
        let output = Output { level: Level::Debug, prefix: "unpack", ..self.output };
        let start = script(COPY, &words, environment(context));
        done(self.guest, start, Some(output)).await.map(drop).map_err(|failure| told(&what, &failure))
    }

    /// An absolute path: of the working directory, or of the user's home where there is none. A slash at the end stays.
    async fn place(&self, target: &str, context: &Config) -> String {
        if target.starts_with('/') {
            return target.to_owned();
        }
        let below = process::directory(self.guest, context).await;
        format!("{}/{target}", below.trim_end_matches('/'))
    }

    /// A value with the variables that it names. Nothing else of the shell's language is meant.
    async fn expand(&self, value: &str, context: &Config) -> Result<String, Failure> {
        if !value.contains('$') {
            return Ok(value.to_owned());
        }
        let quoted = value.replace('\\', "\\\\").replace('"', "\\\"").replace('`', "\\`").replace("$(", "\\$(");
        let start = script(&format!("set +u; printf %s \"{quoted}\""), &[], environment(context));
        done(self.guest, start, None).await.map_err(|failure| told(&format!("evaluate {value:?}"), &failure))
    }
}

fn told(what: &str, failure: &Failure) -> Failure {
    let mut told = failure.clone();
    told.message = format!("failed to {what}: {}", failure.message);
    told
}

async fn is_gzip(path: &Path) -> std::io::Result<bool> {
    let mut magic = [0; 2];
    let mut file = tokio::fs::File::open(path).await?;
    Ok(file.read(&mut magic).await? == 2 && magic == [0x1f, 0x8b])
}

/// A path, absolute or of a directory, without `.` and `..`.
fn joined(directory: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{directory}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_the_one_before_joined_with_the_path() {
        for (directory, path, whole) in [
            ("/", "app", "/app"),
            ("/app", "src/../x", "/app/x"),
            ("/app", "/srv//y/", "/srv/y"),
            ("/app", "../..", "/"),
        ] {
            assert_eq!(joined(directory, path), whole);
        }
    }
}
