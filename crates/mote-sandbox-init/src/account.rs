//! The users and groups of the image, read from its own `/etc/passwd` and `/etc/group` (`passwd(5)`, `group(5)`).
//!
//! It does not ask name services: what a static program inside any image can rely on is these two files.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use mote_sandbox_api::error::Failure;
use mote_sandbox_sys::identity::Identity;

use crate::failure::Result;
use crate::limits::{ACCOUNT_FILE_BYTES_MAX, GROUPS_MAX};

/// A user in whose name something is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) identity: Identity,
    pub(crate) home: String,
    pub(crate) shell: Option<String>,
}

/// Both files, as they stand now.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads both; one that is missing or is no regular file counts as empty.
    pub(crate) fn read() -> Self {
        Self { passwd: contents("/etc/passwd"), group: contents("/etc/group") }
    }

    /// The user that a text names, in the forms of an image's `User` (OCI image specification, "config"): `user`, `uid`,
    /// `user:group`, `uid:gid`, `uid:group`, `user:gid`. A number needs no account; digits are always a number. As with Docker,
    /// an id without an account has group 0, and a group that is named stands alone: no other group is added.
    pub(crate) fn user(&self, text: &str) -> Result<User> {
        let (name, group) = match text.split_once(':') {
            Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
            None => (text, None),
        };
        let mut user = self.user_alone(if name.is_empty() { "0" } else { name })?;
        if let Some(group) = group {
            let gid = self.group_id(group).ok_or_else(|| Failure::not_found("group", group))?;
            user.identity = Identity { gid, groups: vec![gid], ..user.identity };
        }
        Ok(user)
    }

    fn user_alone(&self, name: &str) -> Result<User> {
        let number = number(name);
        let line = self
            .passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .filter(|fields| fields.len() >= 4)
            .find(|fields| number.map_or(fields[0] == name, |number| fields[2].parse() == Ok(number)));
        let at =
            |fields: &[&str], index: usize| fields.get(index).filter(|text| !text.is_empty()).map(|t| (*t).to_owned());
        let user = match (line, number) {
            (Some(fields), _) => {
                let ids = fields[2].parse().ok().zip(fields[3].parse().ok());
                let (uid, gid) = ids.ok_or_else(|| Failure::not_found("user", name))?;
                let groups = self.groups_of(fields[0], gid);
                let home = at(&fields, 5).unwrap_or_else(|| "/".to_owned());
                let identity = Identity { uid, gid, groups };
                User { name: fields[0].to_owned(), identity, home, shell: at(&fields, 6) }
            }
            (None, Some(uid)) => {
                let identity = Identity { uid, gid: 0, groups: vec![0] };
                let home = if uid == 0 { "/root" } else { "/" };
                User { name: name.to_owned(), identity, home: home.to_owned(), shell: None }
            }
            (None, None) if name == "root" => return self.user("0").map(|user| User { name: name.to_owned(), ..user }),
            (None, None) => return Err(Failure::not_found("user", name)),
        };
        Ok(user)
    }

    /// Id of a group, by its name or number. A number needs no entry.
    fn group_id(&self, group: &str) -> Option<u32> {
        number(group).or_else(|| {
            let entry = self.group.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f[0] == group);
            entry?.get(2)?.parse().ok()
        })
    }

    fn groups_of(&self, user: &str, primary: u32) -> Vec<u32> {
        let mut groups = vec![primary];
        for line in self.group.lines() {
            let mut fields = line.split(':').skip(2);
            let (Some(gid), Some(members)) = (fields.next().and_then(|gid| gid.parse().ok()), fields.next()) else {
                continue;
            };
            if members.split(',').any(|member| member == user) && !groups.contains(&gid) && groups.len() < GROUPS_MAX {
                groups.push(gid);
            }
        }
        groups
    }

    /// Name of a user, or the number where it has none.
    pub(crate) fn user_name(&self, uid: u32) -> String {
        name_of(&self.passwd, uid)
    }

    /// Name of a group, or the number where it has none.
    pub(crate) fn group_name(&self, gid: u32) -> String {
        name_of(&self.group, gid)
    }
}

/// An id that is written as one. The highest number means "no change" to the kernel, so that it is nobody's.
fn number(text: &str) -> Option<u32> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| is_digits && *id != u32::MAX)
}

fn name_of(file: &str, id: u32) -> String {
    let found = file.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then_some(name)
    });
    found.map_or_else(|| id.to_string(), str::to_owned)
}

/// Opened so that a pipe or a device that an image put there cannot hold anything up.
fn contents(path: &str) -> String {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let Ok(file) = std::fs::File::options().read(true).custom_flags(flags).open(path) else { return String::new() };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return String::new();
    }
    let mut bytes = Vec::new();
    let _ = file.take(ACCOUNT_FILE_BYTES_MAX).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd:
                "root:x:0:0:root:/root:/bin/sh\nana:x:1000:1000::/home/ana:/bin/bash\nbad:x:one:1::/:\nbare:x:7:8\n"
                    .to_owned(),
            group: "root:x:0:\nana:x:1000:\naudio:x:29:ana,bob\nsudo:x:27:bob,ana\nother:x:30:anna\nodd\n".to_owned(),
        }
    }

    #[test]
    fn a_user_is_found_by_name_and_by_number_with_all_groups() {
        let ana = accounts().user("ana").unwrap();
        assert_eq!(ana.identity, Identity { uid: 1000, gid: 1000, groups: vec![1000, 29, 27] });
        assert_eq!((ana.home.as_str(), ana.shell.as_deref()), ("/home/ana", Some("/bin/bash")));
        assert_eq!(accounts().user("1000").unwrap(), ana);
    }

    #[test]
    fn a_number_needs_no_account_and_a_name_does() {
        assert_eq!(accounts().user("4242").unwrap().identity, Identity { uid: 4242, gid: 0, groups: vec![0] });
        assert_eq!(accounts().user("bare").unwrap().home, "/");
        assert_eq!(Accounts::default().user("root").unwrap().identity.uid, 0);
        assert!(accounts().user("eve").is_err_and(|failure| failure.context["kind"] == "user"));
        assert!(accounts().user("bad").is_err());
    }

    #[test]
    fn every_form_of_an_images_user_is_understood() {
        let of =
            |text: &str| accounts().user(text).map(|user| (user.identity.uid, user.identity.gid, user.identity.groups));
        assert_eq!(of("ana:audio"), Ok((1000, 29, vec![29])));
        assert_eq!(of("ana:77"), Ok((1000, 77, vec![77])));
        assert_eq!(of("1000:1000"), Ok((1000, 1000, vec![1000])));
        assert_eq!(of("4242:sudo"), Ok((4242, 27, vec![27])));
        assert_eq!(of("4242:4243"), Ok((4242, 4243, vec![4243])));
        assert_eq!(of(":audio"), Ok((0, 29, vec![29])));
        assert_eq!(of("ana:"), Ok((1000, 1000, vec![1000, 29, 27])));
        assert_eq!(accounts().user("ana:audio").unwrap().home, "/home/ana");
        let missing = |text: &str| accounts().user(text).unwrap_err().context["kind"].clone();
        assert_eq!((missing("ana:nobodies").as_str(), missing("eve:audio").as_str()), ("group", "user"));
        assert_eq!(missing("4294967295"), "user");
        assert_eq!(missing("+5"), "user");
        // Digits are a number, also where they are somebody's name.
        let accounts = Accounts { passwd: "7:x:9:9::/:\n".to_owned(), group: String::new() };
        assert_eq!(accounts.user("7").unwrap().identity.uid, 7);
    }

    #[test]
    fn an_id_without_a_name_is_shown_as_its_number() {
        assert_eq!((accounts().user_name(1000), accounts().user_name(5)), ("ana".to_owned(), "5".to_owned()));
        assert_eq!(accounts().group_name(29), "audio");
    }
}
