//! Where sandboxes start from, as their users meet it: the image that needs nothing, images built from recipes, imported
//! ones, the account inside, and data of the host.

use std::collections::BTreeSet;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use system_tests::process::binary;

use crate::fixture::Daemon;

/// Runs a line in a shell as whoever the sandbox's default user is; what it printed.
async fn as_default(daemon: &Daemon, id: &str, line: &str) -> String {
    let path = format!("/v1/sandboxes/{id}/exec");
    let result = daemon.done(Method::POST, &path, json!({ "command": line, "timeout": "300s" })).await;
    assert_eq!(result["exit"], json!({"code": 0}), "{line}: {result}");
    result["stdout"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_first_sandbox_needs_no_configuration_and_shows_no_more_of_the_host_than_its_programs() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    assert_eq!(
        as_default(&daemon, &id, "id -un; id -u; pwd; echo $HOME").await,
        "user\n1000\n/home/user\n/home/user\n"
    );
    assert_eq!(daemon.run(&id, "id -u").await, "0\n", "root is there for who asks for it");
    assert_eq!(as_default(&daemon, &id, "sudo -n id -u").await, "0\n");
    let programs = "bash -c 'echo bash'; git --version | cut -d' ' -f1; python3 -c 'print(\"python\")'";
    assert_eq!(as_default(&daemon, &id, programs).await, "bash\ngit\npython\n");
    let state = daemon.state().display().to_string();
    let kept = tempfile::Builder::new().prefix("mote-test-").tempfile_in("/var/tmp").unwrap();
    for hidden in
        [state.as_str(), &kept.path().display().to_string(), "/etc/ssh", "/etc/ssl/private", "/var/lib/mote-sandbox"]
    {
        let seen = daemon.exec(&id, &format!("ls -d {hidden}")).await;
        assert_ne!(seen["exit"], json!({"code": 0}), "{hidden}: {seen}");
    }
    // What is written stays inside, and programs cannot be.
    let refused = daemon.exec(&id, "touch /usr/bin/made").await;
    assert!(refused["stderr"].as_str().unwrap().contains("Read-only file system"), "{refused}");
    assert_eq!(as_default(&daemon, &id, "echo x > ~/file; cat ~/file").await, "x\n");
}

/// Files of the image and files that are made later are told apart by device and inode: `cp`, `diff` and `cat` rely on that.
#[tokio::test]
async fn no_two_files_inside_have_the_same_number() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    daemon
        .run(
            &id,
            "mkdir /opt/new && cd /opt/new && for n in $(seq 2000); do echo $n > $n; done; chmod 600 /etc/services",
        )
        .await;
    let twice = "find /etc /home /opt -type f -links 1 -printf '%D %i\\n' | sort | uniq -d | wc -l";
    assert_eq!(daemon.run(&id, twice).await, "0\n");
    let snapshot = daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/snapshots"), json!({})).await;
    let copy = daemon.create(json!({ "image": { "snapshot": snapshot["id"] } })).await;
    daemon.run(&copy, "for n in $(seq 2000); do echo $n > /opt/$n; done").await;
    assert_eq!(daemon.run(&copy, twice).await, "0\n");
    assert_eq!(daemon.run(&copy, "stat -c %a /etc/services; cat /opt/new/7").await, "600\n7\n");
}

#[tokio::test]
async fn an_operator_can_take_the_host_back() {
    let daemon = Daemon::configured("host_root: false").await;
    let (status, refused) = daemon.ask(Method::POST, "/v1/sandboxes", json!({ "spec": {} })).await;
    assert_eq!((status, refused["code"].as_str()), (StatusCode::FORBIDDEN, Some("forbidden")), "{refused}");
    assert!(refused["remediation"].as_str().unwrap().contains("host_root"), "{refused}");
}

/// An image with no account but root's, of the host's own programs: only what they need to run.
fn bare_image(folder: &Path) -> std::path::PathBuf {
    let image = folder.join("bare");
    for name in ["bin", "etc", "tmp"] {
        std::fs::create_dir_all(image.join(name)).unwrap();
    }
    let init = binary::mote_sandbox_init().unwrap();
    std::fs::copy(init, image.join("bin/any")).unwrap();
    std::fs::write(image.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000::/:/bin/sh\n").unwrap();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    image
}

#[tokio::test]
async fn an_image_without_the_default_user_gets_it_and_one_with_its_id_keeps_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let image = bare_image(folder.path());
    let daemon = Daemon::configured(&format!("image_directories: [{}]", folder.path().display())).await;
    let id = daemon.create(json!({ "image": { "directory": image } })).await;
    let file = |path: &str| format!("/v1/sandboxes/{id}/files?path={path}");
    // A file of the default user: no program is needed.
    let wrote = daemon.request(Method::PUT, &file("made")).body("content").send().await.unwrap();
    assert!(wrote.status().is_success(), "{}", wrote.text().await.unwrap());
    let passwd = daemon.request(Method::GET, &file("/etc/passwd")).send().await.unwrap().text().await.unwrap();
    assert!(passwd.ends_with("node:x:1000:1000::/:/bin/sh\nuser:x:1001:1001::/home/user:/bin/sh\n"), "{passwd}");
    let made = daemon.request(Method::GET, &file("/home/user/made")).send().await.unwrap();
    assert_eq!(made.text().await.unwrap(), "content");
    let before = std::fs::read_to_string(image.join("etc/passwd")).unwrap();
    assert!(!before.contains("user:"), "the image itself is not touched");
}

#[tokio::test]
async fn data_of_the_host_is_bound_not_copied_and_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let (file, secret) = (data.join("large"), data.join("secret"));
    std::fs::write(&file, vec![7; 64 << 20]).unwrap();
    std::fs::write(&secret, "of its owner").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let daemon = Daemon::configured(&format!("directories: [{}]", data.display())).await;
    let spec = |source: &Path| json!({ "data": [{ "source": source, "path": "/data" }] });
    let id = daemon.create(spec(&data)).await;
    let found = std::fs::metadata(&file).unwrap();
    let same = format!("{} {} {}\n", found.dev(), found.ino(), found.len());
    assert_eq!(as_default(&daemon, &id, "stat -c '%d %i %s' /data/large").await, same, "it is the host's own file");
    let usage = daemon.done(Method::GET, &format!("/v1/sandboxes/{id}/usage"), Value::Null).await;
    assert!(usage["disk_bytes"].as_u64().is_none_or(|bytes| bytes < 16 << 20), "{usage}");
    for line in ["echo x > /data/large", "touch /data/new", "rm /data/large", "chmod 666 /data/large"] {
        let refused = daemon.exec(&id, line).await;
        assert!(refused["stderr"].as_str().unwrap().contains("Read-only file system"), "{line}: {refused}");
    }
    let unread = daemon.exec(&id, "cat /data/secret").await;
    assert_ne!(unread["exit"], json!({"code": 0}), "what only its owner may read stays so: {unread}");
    // Nor does it become readable by another name: as an image, whose root-only files are root's inside.
    let image = json!({ "image": { "directory": data } });
    let (status, refused) = daemon.ask(Method::POST, "/v1/sandboxes", json!({ "spec": image })).await;
    assert_eq!((status, &refused["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")), "{refused}");
    // What the host changes is seen: there is no copy.
    std::fs::write(data.join("later"), "now").unwrap();
    assert_eq!(as_default(&daemon, &id, "cat /data/later").await, "now");
    for (source, code) in [(Path::new("/etc"), "forbidden"), (&data.join("absent"), "not_found"), (&file, "invalid")] {
        let (_, refused) = daemon.ask(Method::POST, "/v1/sandboxes", json!({ "spec": spec(source) })).await;
        assert_eq!(refused["code"], code, "{}: {refused}", source.display());
        assert!(refused["message"].as_str().unwrap().contains(&source.display().to_string()), "{refused}");
    }
}

#[tokio::test]
async fn images_are_imported_listed_and_removed_and_wrong_ones_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let image = bare_image(folder.path());
    let (tarball, wrong) = (folder.path().join("root.tar"), folder.path().join("wrong.tar"));
    let made = std::process::Command::new("tar").arg("-cf").arg(&tarball).arg("-C").arg(&image).arg(".").status();
    assert!(made.unwrap().success());
    std::fs::write(&wrong, vec![b'x'; 4096]).unwrap();
    let daemon = Daemon::configured(&format!("directories: [{}]", folder.path().display())).await;
    let import = |source: Value| daemon.ask(Method::POST, "/v1/images", json!({ "source": source }));
    let (status, imported) = import(json!({ "tarball": tarball })).await;
    assert_eq!(status, StatusCode::CREATED, "{imported}");
    let listed = daemon.done(Method::GET, "/v1/images", Value::Null).await;
    let name = listed["items"][0]["name"].as_str().unwrap().to_owned();
    assert_eq!(listed["items"][0]["id"], imported["id"]);
    assert_eq!(daemon.state_of(&daemon.create(json!({ "image": { "name": name } })).await).await, "running");
    let outside = "/etc/passwd".to_owned();
    for (source, status, says) in [
        (json!({ "tarball": wrong }), StatusCode::BAD_REQUEST, "archive"),
        (json!({ "tarball": folder.path().join("absent.tar") }), StatusCode::NOT_FOUND, "absent.tar"),
        (json!({ "tarball": outside }), StatusCode::FORBIDDEN, "/etc/passwd"),
        (json!({ "oci_layout": image }), StatusCode::NOT_FOUND, "index.json"),
        (json!({ "registry": "UPPER case" }), StatusCode::BAD_REQUEST, "UPPER case"),
        (json!({ "name": "absent" }), StatusCode::NOT_FOUND, "absent"),
    ] {
        let (answered, refused) = import(source.clone()).await;
        assert_eq!(answered, status, "{source}: {refused}");
        assert!(refused["message"].as_str().unwrap().contains(says), "{source}: {refused}");
    }
    let (status, refused) = daemon.ask(Method::POST, "/v1/images", json!({ "sauce": "host" })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}");
    let path = |name: &str| format!("/v1/images/{}", name.replace('/', "%2F"));
    daemon.done(Method::DELETE, &path(&name), Value::Null).await;
    let (status, refused) = daemon.ask(Method::DELETE, &path(&name), Value::Null).await;
    assert_eq!((status, refused["code"].as_str()), (StatusCode::NOT_FOUND, Some("not_found")));
    let listed = daemon.done(Method::GET, "/v1/images", Value::Null).await;
    assert_eq!(listed["items"], json!([]));
}

/// Registries of packages, beside the host's own sources.
const REGISTRIES: [&str; 4] = ["deb.debian.org", "pypi.org", "files.pythonhosted.org", "registry.npmjs.org"];

/// The policy for builds where package registries are mirrors at special addresses: what they and the host's own package
/// sources resolve to may be reached.
fn build_network() -> String {
    let sources =
        std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut ranges = BTreeSet::new();
    let mut hosts = BTreeSet::from(REGISTRIES.map(str::to_owned));
    for file in sources.chain(["/etc/apt/sources.list".into()]) {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let named = text.split("://").skip(1).filter_map(|rest| rest.split(['/', ' ', '\n', ':']).next());
        hosts.extend(named.map(str::to_owned));
    }
    for host in hosts {
        for address in (host.as_str(), 80).to_socket_addrs().into_iter().flatten() {
            if let IpAddr::V4(address) = address.ip() {
                let [a, b, c, _] = address.octets();
                ranges.insert(format!("\"{a}.{b}.{c}.0/24\""));
            }
        }
    }
    let ranges = ranges.into_iter().collect::<Vec<_>>().join(", ");
    format!("build_network: {{rules: [{{verdict: allow, to: \"*\"}}], private_ranges: [{ranges}]}}")
}

/// Runs `mote-sandboxd image …` beside the daemon; whether it succeeded, and what it said.
fn image(daemon: &Daemon, arguments: &[&str]) -> (bool, String) {
    let mut command = std::process::Command::new(binary::mote_sandboxd().unwrap());
    command.arg("image").args(arguments).arg("--config").arg(daemon.config());
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Whether each step of a build was cached.
fn told(said: &str) -> Vec<bool> {
    let steps = said.lines().filter(|line| line.starts_with('['));
    steps.map(|line| line.ends_with(": cached")).collect()
}

const RECIPE: &str = "\
name: small
from: debian:bookworm
packages:
  - python3-pip
  - sudo
pip:
  - idna
files:
  - path: /srv/told
    source: told
    mode: \"0640\"
run:
  - id -u > /srv/one
  - test -c /dev/null && cat /srv/told > /srv/two
env: {GREETING: hello}
";

#[tokio::test]
async fn a_recipe_becomes_an_image_step_by_step_and_its_user_is_root_when_it_has_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("recipe.yaml");
    let write = |text: &str| std::fs::write(&recipe, text).unwrap();
    let at = folder.path().display().to_string();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(folder.path().join("told"), "told\n").unwrap();
    write(RECIPE);
    let daemon = Daemon::configured(&build_network()).await;
    let build = || image(&daemon, &["build", &at]);

    let (built, said) = build();
    assert!(built, "{said}");
    assert_eq!(told(&said), [false; 6], "{said}");
    let (built, said) = build();
    assert!(built && said.contains("found, built before: small"), "{said}");
    assert_eq!(told(&said), [true; 6], "{said}");
    std::fs::write(folder.path().join("told"), "told anew\n").unwrap();
    let (_, said) = build();
    assert_eq!(told(&said), [true, true, true, false, false, false], "{said}");

    for (text, says) in [
        (RECIPE.replace("  - idna\n", "  - idna\n  - --index-url=x\n"), format!("{at}/recipe.yaml:8: ")),
        (RECIPE.replace("pip:", "pipp:"), format!("{at}/recipe.yaml:6")),
        (RECIPE.replace("source: told", "source: absent"), format!("{at}/recipe.yaml:9: files: failed to read")),
        (
            RECIPE.replace("id -u > /srv/one", "echo why >&2; exit 3"),
            format!("{at}/recipe.yaml:13: run: it ended with code 3\n  why"),
        ),
    ] {
        write(&text);
        let (built, said) = build();
        assert!(!built && said.contains(&says), "{says}: {said}");
        assert_eq!(build().1.lines().last(), said.lines().last(), "the same mistake is told the same way");
    }
    let (listed, names) = image(&daemon, &["list"]);
    assert!(listed && names.contains("small") && !names.contains("step:"), "{names}");

    let id = daemon.create(json!({ "image": { "name": "small" } })).await;
    let seen =
        "id -un; cat /srv/one; echo $GREETING; python3 -c 'import idna; print(idna.encode(\"ü.example\").decode())'";
    assert_eq!(as_default(&daemon, &id, seen).await, "user\n0\nhello\nxn--tda.example\n");
    assert_eq!(daemon.run(&id, "cat /srv/two; stat -c %a /srv/told").await, "told anew\n640\n");
    packages_are_installed(&daemon, &id).await;
    // What the build left of itself: nothing.
    assert_eq!(daemon.run(&id, "ls -A /run/mote-build /usr/sbin/policy-rc.d 2>/dev/null | wc -l").await, "0\n");
    assert!(image(&daemon, &["rm", "small"]).0);
    let (collected, said) = image(&daemon, &["collect", "--cache"]);
    assert!(collected && said.starts_with("forgot "), "{said}");
}

/// The default user installs a package, from a repository of its own and from a file: apt's own user reads the lists, the
/// package's script runs as root, and files get other owners.
async fn packages_are_installed(daemon: &Daemon, id: &str) {
    let make = r#"
set -e
mkdir -p ~/made/DEBIAN ~/made/opt/made ~/repository && cd
printf 'Package: made\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: made\n' > made/DEBIAN/control
printf '#!/bin/sh\nset -e\nchown www-data:shadow /opt/made/file\nchmod 2750 /opt/made/file\nid -u > /opt/made/script\nid made || useradd --system made\n' > made/DEBIAN/postinst
chmod 755 made/DEBIAN/postinst made/DEBIAN
echo content > made/opt/made/file
dpkg-deb --root-owner-group --build made repository/made.deb >/dev/null
cd repository
{ cat ../made/DEBIAN/control; echo "Filename: ./made.deb"; echo "Size: $(stat -c %s made.deb)"; echo "SHA256: $(sha256sum made.deb | cut -d' ' -f1)"; } > Packages
chmod 755 ~
echo "deb [trusted=yes] copy:$HOME/repository ./" | sudo tee /etc/apt/sources.list > /dev/null
sudo rm -f /etc/apt/sources.list.d/*
sudo -n id -u
"#;
    assert_eq!(as_default(daemon, id, make).await, "0\n");
    as_default(daemon, id, "sudo apt-get update --error-on=any 2>&1").await;
    as_default(daemon, id, "sudo DEBIAN_FRONTEND=noninteractive apt-get install --yes made 2>&1").await;
    let seen = "stat -c '%U:%G %a' /opt/made/file; cat /opt/made/script; id -un made; dpkg-query -W made";
    assert_eq!(daemon.run(id, seen).await, "www-data:shadow 2750\n0\nmade\nmade\t1\n");
    as_default(daemon, id, "sudo apt-get purge --yes made 2>&1").await;
    let again = as_default(daemon, id, "sudo apt-get install --yes ./repository/made.deb 2>&1").await;
    assert!(again.contains("Setting up made"), "{again}");
    as_default(daemon, id, "su -c true 2>/dev/null && exit 1; exit 0").await;
}

/// `images/base` as it is, by the one command of the documentation, and what is promised to be in it, used by its own user.
#[tokio::test]
async fn the_base_image_is_built_by_one_command_and_has_a_shell_git_python_and_node() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/base");
    let daemon = Daemon::configured(&build_network()).await;
    let (built, said) = image(&daemon, &["build", &base.display().to_string()]);
    assert!(built, "{said}");
    assert_eq!(told(&said), [false; 5], "{said}");
    let (built, said) = image(&daemon, &["build", &base.display().to_string()]);
    assert!(built && said.contains("found, built before: base"), "{said}");
    assert_eq!(told(&said), [true; 5], "{said}");

    let id = daemon.create(json!({ "image": { "name": "base" } })).await;
    for (line, says) in [
        ("id -un; pwd; echo $0 $HOME $LANG; sudo -n id -u", "user\n/home/user\n/bin/sh /home/user C.UTF-8\n0\n"),
        ("bash -lc 'a=(x y); echo ${#a[@]} $BASH'", "2 /usr/bin/bash\n"),
        (
            "seq 3 | tac | sort -n | head -2 | wc -l; printf x | sha256sum | cut -c1-8; date -u -d @0 +%F",
            "2\n2d711642\n1970-01-01\n",
        ),
        (
            "git init -q made && cd made && echo x > f && git add f && \
             git -c user.name=a -c user.email=a@example commit -qm one && git log --format=%s",
            "one\n",
        ),
        (
            "python3 -m venv v && v/bin/python -c 'import json, ssl, sqlite3, sys; print(sys.prefix)' && v/bin/pip --version | cut -d' ' -f1",
            "/home/user/v\npip\n",
        ),
        ("node -e 'console.log([1, 2].map(n => n * 2).join(), typeof fetch)'", "2,4 function\n"),
        // A package of its own, run by npx and through a script: nothing of it is fetched.
        (
            "mkdir -p dep app && cd dep && npm init -y > /dev/null && npm pkg set bin.greet=greet.js && \
             printf '#!/usr/bin/env node\nconsole.log(\"hello\")\n' > greet.js && cd ../app && npm init -y > /dev/null && \
             npm install --offline --no-audit ../dep > /dev/null && npx greet && npm pkg set scripts.x=greet && npm run --silent x",
            "hello\nhello\n",
        ),
        ("npm prefix --global; command -v npm; command -v npx", "/usr/local\n/usr/local/bin/npm\n/usr/local/bin/npx\n"),
    ] {
        assert_eq!(as_default(&daemon, &id, line).await, says, "{line}");
    }
    let more =
        daemon.exec(&id, "curl --version && jq --version && rg --version && ssh -V && ip -V && make --version").await;
    assert_eq!(more["exit"], json!({"code": 0}), "{more}");
    packages_of_npm(&daemon, &base).await;
}

/// A recipe that begins as the base image takes its steps as they are; what it has of npm is there for all users.
async fn packages_of_npm(daemon: &Daemon, base: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("recipe.yaml");
    let text = std::fs::read_to_string(base.join("recipe.yaml")).unwrap();
    let text = text.replace("name: base", "name: more");
    std::fs::write(&recipe, text.replace("  - npm\n", "  - npm\n  - mime@3.0.0\n")).unwrap();
    let build = || image(daemon, &["build", &recipe.display().to_string()]);
    let (built, said) = build();
    assert!(built, "{said}");
    assert_eq!(told(&said), [true, true, false, false, false], "{said}");
    let id = daemon.create(json!({ "image": { "name": "more" } })).await;
    assert_eq!(
        as_default(daemon, &id, "mime picture.png; npm --version > /dev/null && echo npm").await,
        "image/png\nnpm\n"
    );
    assert_eq!(daemon.run(&id, "ls -A /tmp").await, "", "what was fetched is not kept");
    std::fs::write(&recipe, text.replace("  - npm\n", "  - npm\n  - mime@0.0.0-absent\n")).unwrap();
    let line = text.lines().position(|line| line == "  - npm").unwrap() + 2;
    let (built, said) = build();
    assert!(!built && said.contains(&format!("recipe.yaml:{line}: npm: it ended with code 1")), "{said}");
}

/// A registry of one image, over TLS; `ask` is one that answers nothing but an error, `private/app` the same image for `me` with the
/// password `open`.
const REGISTRY: &str = r#"
import hashlib, http.server, io, json, ssl, sys, tarfile
certificate, key, program = sys.argv[1:4]
layer = io.BytesIO()
with tarfile.open(fileobj=layer, mode="w") as tar:
    for name in ("bin", "etc", "tmp"):
        entry = tarfile.TarInfo(name); entry.type = tarfile.DIRTYPE; entry.mode = 0o755; tar.addfile(entry)
    tar.add(program, "bin/any")
    entry = tarfile.TarInfo("etc/passwd"); text = b"app:x:77:78::/srv/app:/bin/sh\n"; entry.size = len(text); tar.addfile(entry, io.BytesIO(text))
    entry = tarfile.TarInfo("etc/group"); text = b"staff:x:50:\n"; entry.size = len(text); tar.addfile(entry, io.BytesIO(text))
blobs = {}
def blob(data, kind):
    digest = "sha256:" + hashlib.sha256(data).hexdigest(); blobs[digest] = data
    return {"mediaType": kind, "digest": digest, "size": len(data)}
layer = blob(layer.getvalue(), "application/vnd.oci.image.layer.v1.tar")
config = {"architecture": {"x86_64": "amd64", "aarch64": "arm64"}[sys.argv[4]], "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
          "config": {"User": "app:staff", "WorkingDir": "/srv/work"}}
config = blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json")
kind = "application/vnd.oci.image.manifest.v1+json"
manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]}).encode()
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self):
        found = manifest if self.path in ("/v2/app/manifests/latest", "/v2/private/app/manifests/latest") else blobs.get(self.path.rsplit("/", 1)[1])
        status = 503 if "/ask/" in self.path else 404 if found is None else 200
        if "/private/" in self.path and self.headers.get("authorization") != "Basic bWU6b3Blbg==": status = 401
        self.send_response(status); self.send_header("content-type", kind)
        if status == 401: self.send_header("www-authenticate", "Basic realm=\"private\"")
        self.send_header("content-length", str(len(found or b"") if status == 200 else 0)); self.end_headers()
        if status == 200: self.wfile.write(found)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True); server.serve_forever()
"#;

/// A registry that runs, its address, and the file of its authority. It ends with the test.
pub(super) struct Registry {
    server: std::process::Child,
    pub(super) host: String,
    pub(super) authority: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl Registry {
    pub(super) fn start() -> Self {
        use std::io::BufRead as _;

        let folder = tempfile::tempdir().unwrap();
        crate::agent::certified(folder.path());
        let (authority, key) = (folder.path().join("ca.pem"), folder.path().join("tls.key"));
        let mut server = std::process::Command::new("python3");
        server
            .args(["-c", REGISTRY])
            .arg(&authority)
            .arg(&key)
            .arg(binary::mote_sandbox_init().unwrap())
            .arg(std::env::consts::ARCH);
        let mut server = server.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        std::io::BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { server, host: format!("127.0.0.1:{}", port.trim()), authority, _folder: folder }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[tokio::test]
async fn a_registry_with_a_private_authority_is_trusted_where_that_is_named() {
    let registry = Registry::start();
    let host = &registry.host;
    let import = async |daemon: &Daemon, name: &str| {
        let source = json!({ "source": { "registry": format!("{host}/{name}") } });
        daemon.ask(Method::POST, "/v1/images", source).await
    };
    let stranger = Daemon::start().await;
    let (status, refused) = import(&stranger, "app").await;
    assert_eq!((status, &refused["code"]), (StatusCode::BAD_GATEWAY, &json!("unreachable")), "{refused}");
    assert!(refused["remediation"].as_str().unwrap().contains("authorities"), "{refused}");
    assert_eq!(refused["context"]["registry"], host.as_str(), "{refused}");
    let daemon = Daemon::configured(&format!("authorities: {}", registry.authority.display())).await;
    let (status, imported) = import(&daemon, "app").await;
    assert_eq!(status, StatusCode::CREATED, "{imported}");
    let (status, refused) = import(&daemon, "ask").await;
    assert_eq!((status, &refused["context"]["status"]), (StatusCode::BAD_GATEWAY, &json!("503")), "{refused}");
    let (status, _) = import(&daemon, "absent").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // Its user and its working directory are Docker's: a name with a group, and a directory that no layer has.
    let name = daemon.done(Method::GET, "/v1/images", Value::Null).await["items"][0]["name"].clone();
    let id = daemon.create(json!({ "image": { "name": name } })).await;
    let body = json!({ "command": ["/bin/any", "--version"] });
    let (status, ran) = daemon.ask(Method::POST, &format!("/v1/sandboxes/{id}/exec"), body).await;
    assert_eq!(status, StatusCode::OK, "{ran}");
    let stat = |path: &str| format!("/v1/sandboxes/{id}/files/stat?path={path}");
    let made = daemon.done(Method::GET, &stat("/srv/work"), Value::Null).await;
    assert_eq!((&made["kind"], &made["owner"]), (&json!("directory"), &json!("0")), "{made}");
}
