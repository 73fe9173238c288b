//! A keeper behind its socket, as the daemon sees it: calls are served by a thread until the handle is dropped.

use std::os::fd::AsFd;

use mote_sandboxd::filesystem::Filesystem;
use mote_sandboxd::filesystem::keeper::{Keeper, Options};
use mote_sandboxd::keeper::client::Client;
use mote_sandboxd::keeper::wire::{self, Answer, Call};
use mote_sandboxd::keeper::{Outcome, Verb};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Must be called inside a runtime. The thread ends, and the pool is released, when every clone of the handle is dropped
/// and the runtime with it.
pub(crate) fn serve(options: Options) -> Filesystem {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    std::thread::spawn(move || {
        let mut keeper = Keeper::open(options).unwrap();
        while let Ok((Call { number, verb }, descriptors)) = wire::receive::<Call>(&theirs) {
            let Verb::Filesystem(verb) = verb else { panic!("another part's verb") };
            let (result, descriptors) = match keeper.carry_out(verb, descriptors) {
                Ok((outcome, descriptors)) => (Ok(Outcome::Filesystem(outcome)), descriptors),
                Err(failure) => (Err(failure), Vec::new()),
            };
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            if wire::send(&theirs, &Answer { number, result }, &borrowed).is_err() {
                return;
            }
        }
    });
    Filesystem::new(Client::start(ours).unwrap())
}
