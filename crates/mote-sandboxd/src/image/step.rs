//! The steps by which a recipe becomes an image, and the key of each: of all that it and those before it are made from.
//!
//! A step whose key was built before is not built again; one that changed changes the keys of those that follow. It runs
//! nothing.

use mote_oci::digest::Digest;

use super::recipe::{Loaded, octal};
use crate::limits::IMAGE_STEPS_VERSION;

/// Mode of a file whose recipe names none.
const FILE_MODE: u32 = 0o644;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The recipe's field.
    pub(super) field: &'static str,
    /// Line of the recipe, from 1; where there are several items, the first one's.
    pub(super) line: usize,
    /// What is done, for people.
    pub(super) title: String,
    /// Digest of what it and those before it are made from, in hexadecimal digits.
    pub(super) key: String,
    /// What is done.
    pub(super) work: Work,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Makes a root of Debian's essential packages and apt, of this suite.
    Debian(String),
    /// Runs a script of the shell with these arguments, as root.
    Script(&'static str, Vec<String>),
    /// Runs a line of the recipe in the shell, as root.
    Line(String),
    /// Writes files: path, mode, content.
    Files(Vec<(String, u32, Vec<u8>)>),
}

/// Installs its arguments. No service is started by it, and what it fetched is not kept.
const PACKAGES: &str = "\
export DEBIAN_FRONTEND=noninteractive
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get update --quiet --error-on=any
apt-get install --quiet --yes --no-install-recommends \
    --option Dpkg::Options::=--force-unsafe-io --option Dpkg::Use-Pty=0 -- \"$@\"
rm -f /usr/sbin/policy-rc.d
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt/* /var/log/dpkg.log /var/cache/debconf/*-old
";
/// Installs its arguments for all users, beside Debian's own modules.
const PIP: &str = "\
export PIP_NO_INPUT=1 PIP_NO_CACHE_DIR=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore
export PIP_DISABLE_PIP_VERSION_CHECK=1
exec python3 -m pip install --quiet -- \"$@\"
";
/// npm itself where no package brought it, then its other arguments for all users. The first two are where npm lies and its
/// digest, as registries write it; `npm` among the others names what is there by then.
const NPM: &str = "\
export npm_config_cache=/tmp/npm-cache npm_config_update_notifier=false
url=$1 integrity=$2 home=/usr/local/lib/node_modules/npm
shift 2
if ! command -v npm >/dev/null; then
    node -e '
        if (parseInt(process.versions.node) < 18) throw `npm needs Node 18, here is ${process.version}: name the package npm`
        const [url, integrity, path] = process.argv.slice(1)
        fetch(url).then(async answer => {
            if (!answer.ok) throw `failed to fetch ${url}: status ${answer.status}`
            const bytes = Buffer.from(await answer.arrayBuffer())
            const found = `sha512-${require(\"crypto\").createHash(\"sha512\").update(bytes).digest(\"base64\")}`
            if (found !== integrity) throw `${url} is not what it has to be: its digest is ${found}`
            require(\"fs\").writeFileSync(path, bytes)
        }).catch(error => { console.error(error.cause ?? error); process.exit(1) })
    ' \"$url\" \"$integrity\" /tmp/npm.tgz
    mkdir -p \"$home\" /usr/local/bin
    tar -xzf /tmp/npm.tgz -C \"$home\" --strip-components=1 --no-same-owner
    echo prefix=/usr/local > \"$home/npmrc\"
    ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
    ln -s ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx
    rm /tmp/npm.tgz
fi
for name; do
    shift
    [ \"$name\" = npm ] || set -- \"$@\" \"$name\"
done
[ $# = 0 ] || npm install --global --no-audit --no-fund --loglevel=error -- \"$@\"
rm -rf /tmp/npm-cache
";
/// npm, as its registry has it: one package of 3 MB, where Debian's stands on some 350 others. The newest that the Node of
/// Debian 12 runs. Its digest is the registry's `dist.integrity`.
const NPM_URL: &str = "https://registry.npmjs.org/npm/-/npm-10.9.9.tgz";
const NPM_INTEGRITY: &str =
    "sha512-1g+6jLQvaIuB4zwvHL7yrXuXcWZwDsCtBX8bbWDqbvJSSr9nPiDDWTHNgwXR27iIcTTW7v3A57hDW9RYv2W4Yg==";

/// The steps of a recipe, in their order.
pub(super) fn of(loaded: &Loaded) -> Vec<Step> {
    let recipe = &loaded.recipe;
    let mut steps = Steps { loaded, made: Vec::new() };
    steps.add("from", 0, recipe.from.clone(), Work::Debian(loaded.suite.clone()));
    let mut packages = recipe.packages.clone();
    for (needs, package) in [(!recipe.pip.is_empty(), "python3-pip"), (!recipe.npm.is_empty(), "nodejs")] {
        if needs && !packages.iter().any(|name| name == package) {
            packages.push(package.to_owned());
        }
    }
    let npm: &[&str] = &[NPM_URL, NPM_INTEGRITY];
    for (field, script, first, words) in
        [("packages", PACKAGES, &[][..], &packages), ("pip", PIP, &[], &recipe.pip), ("npm", NPM, npm, &recipe.npm)]
    {
        if !words.is_empty() {
            let all = first.iter().map(|word| (*word).to_owned()).chain(words.iter().cloned());
            steps.add(field, 0, words.join(" "), Work::Script(script, all.collect()));
        }
    }
    if !recipe.files.is_empty() {
        let files = recipe.files.iter().zip(&loaded.contents).map(|(file, content)| {
            (file.path.clone(), file.mode.as_deref().and_then(octal).unwrap_or(FILE_MODE), content.clone())
        });
        let title = recipe.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>().join(" ");
        steps.add("files", 0, title, Work::Files(files.collect()));
    }
    for (at, line) in recipe.run.iter().enumerate() {
        steps.add("run", at, line.lines().next().unwrap_or_default().to_owned(), Work::Line(line.clone()));
    }
    steps.made
}

struct Steps<'a> {
    loaded: &'a Loaded,
    made: Vec<Step>,
}

impl Steps<'_> {
    fn add(&mut self, field: &'static str, item: usize, title: String, work: Work) {
        let before = self.made.last().map_or("", |step| step.key.as_str());
        let key = key(before, &work);
        self.made.push(Step { field, line: self.loaded.lines.of(field, item), title, key, work });
    }
}

/// Each part with its length before it: two different steps never give the same bytes.
fn key(before: &str, work: &Work) -> String {
    let mut made_from = Vec::new();
    let mut add = |part: &[u8]| {
        made_from.extend_from_slice(&(part.len() as u64).to_le_bytes());
        made_from.extend_from_slice(part);
    };
    add(&IMAGE_STEPS_VERSION.to_le_bytes());
    add(std::env::consts::ARCH.as_bytes());
    add(before.as_bytes());
    match work {
        Work::Debian(suite) => {
            add(b"debian");
            add(suite.as_bytes());
        }
        Work::Script(script, words) => {
            add(b"script");
            add(script.as_bytes());
            for word in words {
                add(word.as_bytes());
            }
        }
        Work::Line(line) => {
            add(b"line");
            add(line.as_bytes());
        }
        Work::Files(files) => {
            add(b"files");
            for (path, mode, content) in files {
                add(path.as_bytes());
                add(&mode.to_le_bytes());
                add(Digest::of(content).hex().as_bytes());
            }
        }
    }
    Digest::of(&made_from).hex().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::recipe;

    const RECIPE: &str = "\
name: a
from: debian:bookworm
packages: [git]
files:
- path: /etc/x
  source: x
run:
- echo one
- |
  echo two
  echo three
";

    fn keys(change: impl Fn(&str) -> String, file: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("r.yaml"), change(RECIPE)).unwrap();
        std::fs::write(folder.path().join("x"), file).unwrap();
        of(&recipe::load(&folder.path().join("r.yaml")).unwrap()).into_iter().map(|step| step.key).collect()
    }

    #[test]
    fn a_change_changes_its_own_step_and_those_that_follow() {
        let before = keys(str::to_owned, "x");
        assert_eq!(before.len(), 5);
        let check = |after: Vec<String>, same: usize| {
            let kept = before.iter().zip(&after).take_while(|(before, after)| before == after).count();
            assert_eq!(kept, same);
            assert!(before.iter().zip(&after).skip(same).all(|(before, after)| before != after));
        };
        check(keys(str::to_owned, "x"), 5);
        check(keys(|text| text.replace("name: a", "name: b") + "env: {A: b}\n", "x"), 5);
        check(keys(|text| text.replace("echo two", "echo 2"), "x"), 4);
        check(keys(str::to_owned, "y"), 2);
        check(keys(|text| text.replace("  source: x", "  source: x\n  mode: \"0600\""), "x"), 2);
        check(keys(|text| text.replace("[git]", "[git, curl]"), "x"), 1);
        check(keys(|text| text.replace("bookworm", "trixie"), "x"), 0);
    }

    #[test]
    fn a_step_knows_its_line() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("r.yaml"), RECIPE).unwrap();
        std::fs::write(folder.path().join("x"), "").unwrap();
        let steps = of(&recipe::load(&folder.path().join("r.yaml")).unwrap());
        let lines: Vec<_> = steps.iter().map(|step| (step.field, step.line)).collect();
        assert_eq!(lines, [("from", 2), ("packages", 3), ("files", 5), ("run", 8), ("run", 9)]);
    }
}
