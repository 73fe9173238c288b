//! Images: from a real registry and from an OCI layout (Debian's docker-registry, skopeo and umoci), from tarballs; commits,
//! names, and the collection of what nothing uses.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use mote_sandbox_api::error::Code;
use mote_sandbox_api::spec::ImageSource;
use mote_sandboxd::filesystem::Filesystem;
use mote_sandboxd::filesystem::keeper::Origin;
use mote_sandboxd::image::quota::Quota;
use mote_sandboxd::image::record::Config;
use mote_sandboxd::image::{Images, Options};

use crate::stage::{BACKENDS, Stage};
use crate::trees::with_served;

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An image of two layers, the second of which removes a file of the first.
fn layout(folder: &Path) -> String {
    let files = folder.join("files");
    fs::create_dir_all(&files).unwrap();
    fs::write(files.join("hello"), "from the image").unwrap();
    fs::write(files.join("gone"), "from the first layer").unwrap();
    let layout = folder.join("layout").display().to_string();
    let image = format!("{layout}:v1");
    run("umoci", &["init", "--layout", &layout]);
    run("umoci", &["new", "--image", &image]);
    run("umoci", &["insert", "--image", &image, &files.display().to_string(), "/srv"]);
    run("umoci", &["insert", "--image", &image, "--whiteout", "/srv/gone"]);
    run(
        "umoci",
        &[
            "config",
            "--image",
            &image,
            "--config.env",
            "GREETING=hello",
            "--config.user",
            "1000",
            "--config.workingdir",
            "/srv",
        ],
    );
    image
}

struct Service {
    child: Child,
    address: String,
}

impl Service {
    /// Debian's registry on a free port of the loopback.
    fn start(folder: &Path) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let config = folder.join("registry.yml");
        let storage = folder.join("registry");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n",
                storage.display()
            ),
        )
        .unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", &config.display().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(&address).is_err() {
            std::thread::yield_now();
        }
        Self { child, address }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn store(filesystem: Filesystem, folder: &Path, plain: Option<&str>) -> Images {
    store_with(filesystem, folder, plain, Quota::default())
}

fn store_with(filesystem: Filesystem, folder: &Path, plain: Option<&str>, quota: Quota) -> Images {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let registry = mote_oci::registry::Options {
        plain: plain.map(str::to_owned).into_iter().collect::<BTreeSet<_>>(),
        ..mote_oci::registry::Options::default()
    };
    let (scratch, imports) = (folder.join("scratch"), vec![folder.join("offered")]);
    let options = Options { scratch, imports, registry, registries: None, quota };
    Images::new(filesystem, &tls, options).unwrap()
}

#[test]
fn an_image_of_a_registry_and_of_a_layout_is_the_same_tree() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        let folder = stage.folder.path().to_path_buf();
        let image = layout(&folder);
        let service = Service::start(&folder);
        let name = format!("{}/test/image:v1", service.address);
        run("skopeo", &["copy", "--dest-tls-verify=false", &format!("oci:{image}"), &format!("docker://{name}")]);
        with_served(&mut stage, async |filesystem| {
            let images = store(filesystem.clone(), &folder, Some(&service.address));
            let pulled = images.resolve(&ImageSource::Registry(name.clone()), 1).await.unwrap();
            assert_eq!(pulled.config.env["GREETING"], "hello");
            assert_eq!((pulled.config.user.as_deref(), pulled.config.cwd.as_deref()), (Some("1000"), Some("/srv")));
            let (path, tag) = image.rsplit_once(':').unwrap();
            let imported = images.import_layout(path.into(), Some(tag), "mine", 2).await.unwrap();
            assert_eq!(imported.id, pulled.id, "{backend:?}: the same content is the same image");
            // What was pulled once is not pulled again, even where the registry is gone.
            drop(service);
            assert_eq!(images.resolve(&ImageSource::Registry(name.clone()), 3).await.unwrap().id, pulled.id);
            let origin = Origin::Image(images.get("mine").await.unwrap().lower);
            filesystem.root_new("one", origin, None).await.unwrap();
        });
        let at = stage.mount("one");
        assert_eq!(fs::read_to_string(at.join("srv/hello")).unwrap(), "from the image");
        assert!(!at.join("srv/gone").exists(), "{backend:?}: a later layer's whiteout counts");
    }
}

#[test]
fn a_layer_that_is_not_what_its_digest_says_is_refused_and_leaves_nothing() {
    let mut stage = Stage::new(BACKENDS[0]);
    let folder = stage.folder.path().to_path_buf();
    let image = layout(&folder);
    let (path, tag) = image.rsplit_once(':').unwrap();
    // The largest blob is a layer.
    let blobs = fs::read_dir(Path::new(path).join("blobs/sha256")).unwrap().flatten();
    let layer = blobs.max_by_key(|entry| entry.metadata().unwrap().len()).unwrap().path();
    fs::OpenOptions::new().append(true).open(layer).unwrap().write_all(b"more").unwrap();
    with_served(&mut stage, async |filesystem| {
        let images = store(filesystem, &folder, None);
        let refused = images.import_layout(path.into(), Some(tag), "mine", 1).await.unwrap_err();
        assert_eq!(refused.code, Code::Invalid);
        assert!(refused.message.contains("digest"), "{}", refused.message);
        assert_eq!(images.get("mine").await.unwrap_err().code, Code::NotFound);
        assert!(images.list().await.unwrap().is_empty());
    });
}

#[test]
fn a_caller_imports_only_from_where_the_operator_allows() {
    let mut stage = Stage::new(BACKENDS[1]);
    let folder = stage.folder.path().to_path_buf();
    for place in ["offered", "private"] {
        fs::create_dir(folder.join(place)).unwrap();
        let tarball = folder.join(place).join("root.tar").display().to_string();
        run("tar", &["-C", &folder.join("image").display().to_string(), "-cf", &tarball, "."]);
    }
    std::os::unix::fs::symlink(folder.join("private"), folder.join("offered/way")).unwrap();
    with_served(&mut stage, async |filesystem| {
        let images = store(filesystem, &folder, None);
        let tarball = |path: &str| ImageSource::Tarball(folder.join(path).display().to_string());
        images.resolve(&tarball("offered/root.tar"), 1).await.unwrap();
        for refused in ["private/root.tar", "offered/way/root.tar", "offered/../private/root.tar"] {
            assert_eq!(images.resolve(&tarball(refused), 1).await.unwrap_err().code, Code::Forbidden, "{refused}");
        }
    });
}

/// A tarball with files of these sizes, all of them zeros: small as an archive, large as a tree.
fn tarball(folder: &Path, name: &str, sizes: &[u64]) -> std::path::PathBuf {
    let path = folder.join(name);
    let gzip = flate2::write::GzEncoder::new(fs::File::create(&path).unwrap(), flate2::Compression::best());
    let mut tar = tar::Builder::new(gzip);
    for (number, size) in sizes.iter().enumerate() {
        let mut header = tar::Header::new_gnu();
        header.set_size(*size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(name.len() as u64);
        tar.append_data(&mut header, format!("{name}-{number}"), std::io::Read::take(std::io::repeat(0), *size))
            .unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
    path
}

#[test]
fn a_bomb_is_refused_with_the_bound_of_one_image_and_leaves_nothing() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        let folder = stage.folder.path().to_path_buf();
        let image = layout(&folder);
        let bytes = tarball(&folder, "bytes.tar.gz", &[600 << 10, 600 << 10]);
        let files = tarball(&folder, "files.tar.gz", &[0; 40]);
        let good = tarball(&folder, "good.tar.gz", &[1 << 20]);
        assert!(fs::metadata(&bytes).unwrap().len() < 64 << 10, "it is a bomb");
        with_served(&mut stage, async |filesystem| {
            let quota = Quota { image_bytes: 1 << 20, image_files: 32, all_bytes: None };
            let images = store_with(filesystem.clone(), &folder, None, quota);
            for (bomb, what) in [(&bytes, "more than 1048576 bytes"), (&files, "more than 32 entries")] {
                let refused = images.import_tarball(bomb, "bomb", Config::default(), 1).await.unwrap_err();
                assert_eq!(refused.code, Code::TooLarge, "{refused:?}");
                assert!(refused.message.contains(what), "{refused:?}");
                assert!(format!("{refused:?}").contains("image_max"), "{refused:?}");
            }
            images.import_tarball(&good, "good", Config::default(), 1).await.unwrap();
            // All layers of an image count together, and what was sent counts before it is fetched.
            let (path, tag) = image.rsplit_once(':').unwrap();
            let quota = Quota { image_bytes: 20, image_files: 32, all_bytes: None };
            let images = store_with(filesystem.clone(), &folder, None, quota);
            let refused = images.import_layout(path.into(), Some(tag), "mine", 2).await.unwrap_err();
            assert!(refused.code == Code::TooLarge && refused.message.contains("compressed"), "{refused:?}");
            let quota = Quota { image_bytes: 1 << 20, image_files: 3, all_bytes: None };
            let images = store_with(filesystem, &folder, None, quota);
            let refused = images.import_layout(path.into(), Some(tag), "mine", 2).await.unwrap_err();
            assert!(refused.code == Code::TooLarge && refused.message.contains("3 entries"), "{refused:?}");
            assert_eq!(images.list().await.unwrap().len(), 1);
        });
        assert_eq!(fs::read_dir(stage.pool().join("layers")).unwrap().count(), 1, "{backend:?}");
    }
}

#[test]
fn all_images_together_take_no_more_than_their_share() {
    let mut stage = Stage::new(BACKENDS[1]);
    let folder = stage.folder.path().to_path_buf();
    let tarballs = ["a.tar.gz", "bb.tar.gz", "ccc.tar.gz"].map(|name| tarball(&folder, name, &[400 << 10]));
    with_served(&mut stage, async |filesystem| {
        let quota = Quota { all_bytes: Some(1 << 20), ..Quota::default() };
        let images = store_with(filesystem, &folder, None, quota);
        images.import_tarball(&tarballs[0], "a", Config::default(), 1).await.unwrap();
        // Two at once, of which only one finds room.
        let (one, other) = tokio::join!(
            images.import_tarball(&tarballs[1], "b", Config::default(), 2),
            images.import_tarball(&tarballs[2], "c", Config::default(), 2)
        );
        let refused = match (one, other) {
            (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => refused,
            both => panic!("{both:?}"),
        };
        assert!(refused.code == Code::NoSpace && format!("{refused:?}").contains("images_max"), "{refused:?}");
        // Another name for what is there takes nothing; what is removed makes room.
        images.import_tarball(&tarballs[0], "again", Config::default(), 3).await.unwrap();
        for name in ["a", "again"] {
            assert_eq!(images.get(name).await.unwrap().bytes, Some(400 << 10), "{name}");
            images.remove(name).await.unwrap();
        }
        for (number, tarball) in tarballs[1..].iter().enumerate() {
            images.import_tarball(tarball, &format!("last{number}"), Config::default(), 4).await.unwrap();
        }
    });
}

#[test]
fn layers_go_when_neither_a_name_nor_a_root_uses_them() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        let folder = stage.folder.path().to_path_buf();
        let tarball = folder.join("root.tar");
        run("tar", &["-C", &folder.join("image").display().to_string(), "-cf", &tarball.display().to_string(), "."]);
        let layers = stage.pool().join("layers");
        with_served(&mut stage, async |filesystem| {
            let images = store(filesystem.clone(), &folder, None);
            let count = || fs::read_dir(&layers).unwrap().count();
            let image = images.import_tarball(&tarball, "one", Config::default(), 1).await.unwrap();
            images.import_tarball(&tarball, "other-name", Config::default(), 2).await.unwrap();
            assert_eq!(count(), 1);
            images.remove("one").await.unwrap();
            assert_eq!(count(), 1, "another name holds it");
            filesystem.root_new("root", Origin::Image(image.lower), None).await.unwrap();
            images.remove("other-name").await.unwrap();
            assert_eq!(count(), 1, "a root holds it");
            assert!(images.list().await.unwrap().is_empty());
            filesystem.remove("root").await.unwrap();
            assert_eq!(images.collect().await.unwrap(), 1, "{backend:?}");
            assert_eq!(count(), 0);
        });
    }
}

#[test]
fn an_image_that_lost_its_names_stays_for_what_was_made_of_it_and_then_goes() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        let folder = stage.folder.path().to_path_buf();
        let pool = stage.pool();
        let records = |text: &str| {
            let names = fs::read_dir(pool.join("images")).unwrap();
            names.filter(|name| name.as_ref().unwrap().file_name().to_string_lossy().starts_with(text)).count()
        };
        let below = stage.image();
        with_served(&mut stage, async |filesystem| {
            let images = store(filesystem.clone(), &folder, None);
            let config = Config { cwd: Some("/srv".to_owned()), ..Config::default() };
            let mut made = Vec::new();
            for number in 1..=2 {
                let sandbox = format!("from{number}");
                filesystem.root_new(&sandbox, Origin::Image(below.clone()), None).await.unwrap();
                fs::write(pool.join("roots").join(&sandbox).join("upper/file"), number.to_string()).unwrap();
                made.push(images.commit(&sandbox, "work", &config, true, number).await.unwrap().0);
                filesystem.remove(&sandbox).await.unwrap();
            }
            assert_eq!(images.get("work").await.unwrap(), made[1], "the name stands for the later one");
            filesystem.root_new("root", Origin::Image(made[0].lower.clone()), None).await.unwrap();
            images.collect().await.unwrap();
            assert_eq!(images.get(&made[0].id).await.unwrap().config.cwd.as_deref(), Some("/srv"), "a root is of it");
            filesystem.snapshot("root", "kept", true).await.unwrap();
            filesystem.remove("root").await.unwrap();
            images.collect().await.unwrap();
            assert!(images.get(&made[0].id).await.is_ok(), "a snapshot is of it");
            filesystem.remove_snapshot("kept").await.unwrap();
            images.collect().await.unwrap();
            assert_eq!(images.get(&made[0].id).await.unwrap_err().code, Code::NotFound);
            images.remove("work").await.unwrap();
            assert_eq!((records("image-"), records("name-")), (0, 0), "{backend:?}");
            assert_eq!(fs::read_dir(pool.join("layers")).unwrap().count(), 0, "{backend:?}");
        });
    }
}

#[test]
fn a_long_chain_of_commits_is_flattened_and_holds_the_same() {
    let mut stage = Stage::new(BACKENDS[0]);
    let folder = stage.folder.path().to_path_buf();
    let commits = mote_sandboxd::limits::LOWER_TREES_MAX + 2;
    let tarball = folder.join("root.tar");
    run("tar", &["-C", &folder.join("image").display().to_string(), "-cf", &tarball.display().to_string(), "."]);
    let pool = stage.pool();
    with_served(&mut stage, async |filesystem| {
        let images = store(filesystem.clone(), &folder, None);
        images.import_tarball(&tarball, "chain", Config::default(), 0).await.unwrap();
        for number in 1..=commits {
            let sandbox = format!("sandbox{number}");
            let image = images.get("chain").await.unwrap();
            filesystem.root_new(&sandbox, Origin::Image(image.lower), None).await.unwrap();
            fs::write(pool.join("roots").join(&sandbox).join("upper").join(format!("file{number}")), "kept").unwrap();
            images.commit(&sandbox, "chain", &Config::default(), true, number as u64).await.unwrap();
        }
        let image = images.get("chain").await.unwrap();
        assert!(image.lower.len() < mote_sandboxd::limits::LOWER_TREES_MAX, "{}", image.lower.len());
        filesystem.root_new("last", Origin::Image(image.lower), None).await.unwrap();
    });
    let at = stage.mount("last");
    for number in 1..=commits {
        assert_eq!(fs::read_to_string(at.join(format!("file{number}"))).unwrap(), "kept");
    }
}
