//! The packet filter's rules as the kernel takes them: read once from a namespace in which `nft` applied them, and then
//! written to each new one in a single message, without a process.
//!
//! It does not know what the rules say; [`super::keeper`] does. Formats: `linux/netfilter/nf_tables.h`, `nfnetlink.h`.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::netlink::{attribute, verdict};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
/// `NFNL_MSG_BATCH_BEGIN` and `END`.
const BATCH: [u16; 2] = [16, 17];
/// `NFNL_SUBSYS_NFTABLES`, as the high byte of a message's type and as the resource of a batch.
const NF_TABLES: u8 = 10;
/// Bytes of a netlink header, and of that with netfilter's own behind it.
const HEADER: usize = 16;
const HEADERS: usize = HEADER + 4;
/// Bytes read at once: more than the kernel sends.
const READ_BYTES: usize = 64 * 1024;
/// Lowest 14 bits: an attribute's type, without what says that it is nested or big-endian.
const KIND: u16 = 0x3fff;

/// A kind of thing in a ruleset: how it is asked for, how it is made, and which attributes say what it is. The others are
/// the kernel's own: handles, positions, counts of users.
struct Thing {
    get: u16,
    new: u16,
    flags: u16,
    kept: &'static [u16],
}

const TABLE: Thing = Thing { get: 1, new: 0, flags: NLM_F_CREATE, kept: &[1, 2] };
/// Table, name, hook, policy, type.
const CHAIN: Thing = Thing { get: 4, new: 3, flags: NLM_F_CREATE, kept: &[1, 3, 4, 5, 7] };
/// Table, name, flags, types and lengths of keys and data, policy, description, what `nft` notes for itself.
const SET: Thing = Thing { get: 10, new: 9, flags: NLM_F_CREATE, kept: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 13] };
/// Table, set, elements.
const ELEMENTS: Thing = Thing { get: 13, new: 12, flags: NLM_F_CREATE, kept: &[1, 2, 3] };
/// Table, chain, expressions, what `nft` notes for itself.
const RULE: Thing = Thing { get: 7, new: 6, flags: NLM_F_CREATE | NLM_F_APPEND, kept: &[1, 2, 4, 7] };
/// Of a set: the number by which a batch knows it.
const SET_ID: u16 = 10;
/// Of a set and of its elements: the table and the set.
const TABLE_AND_SET: [u16; 2] = [1, 2];

/// A ruleset, as one batch of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset(Vec<u8>);

impl Ruleset {
    /// Reads every rule of the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel answers; `PROTO` for what is not understood.
    pub fn read() -> Result<Self, Errno> {
        let socket = open()?;
        let all = [0; 4];
        let mut batch = Batch::begin();
        for table in dump(&socket, &TABLE, &all)? {
            batch.add(&TABLE, &kept(&table, TABLE.kept)?);
        }
        for chain in dump(&socket, &CHAIN, &all)? {
            batch.add(&CHAIN, &kept(&chain, CHAIN.kept)?);
        }
        for (set, number) in dump(&socket, &SET, &all)?.iter().zip(1_u32..) {
            let mut body = kept(set, SET.kept)?;
            attribute(&mut body, SET_ID, &number.to_be_bytes());
            batch.add(&SET, &body);
            for elements in dump(&socket, &ELEMENTS, &kept(set, &TABLE_AND_SET)?)? {
                batch.add(&ELEMENTS, &kept(&elements, ELEMENTS.kept)?);
            }
        }
        for rule in dump(&socket, &RULE, &all)? {
            batch.add(&RULE, &kept(&rule, RULE.kept)?);
        }
        batch.end().map(Self)
    }

    /// Writes the rules to the calling thread's network namespace, which has none: all of them or, with an error, none.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn write(&self) -> Result<(), Errno> {
        let socket = open()?;
        rustix::net::sendto(&socket, &self.0, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = vec![0; READ_BYTES];
        let (length, _) = rustix::net::recv(&socket, answer.as_mut_slice(), RecvFlags::empty())?;
        verdict(&answer[..length])
    }

    /// As [`Self::from_bytes`] takes it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A ruleset that another process read.
    #[must_use]
    pub const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

fn open() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))
}

/// Messages that the kernel carries out together.
struct Batch {
    bytes: Vec<u8>,
    number: u32,
    /// Where the last message begins.
    last: usize,
}

impl Batch {
    fn begin() -> Self {
        let mut batch = Self { bytes: Vec::new(), number: 0, last: 0 };
        batch.push(BATCH[0], 0, &[0, 0, 0, NF_TABLES]);
        batch
    }

    fn add(&mut self, thing: &Thing, body: &[u8]) {
        self.push(u16::from(NF_TABLES) << 8 | thing.new, thing.flags, body);
    }

    fn push(&mut self, kind: u16, flags: u16, body: &[u8]) {
        self.last = self.bytes.len();
        self.number += 1;
        self.bytes.extend(message(kind, flags, self.number, body));
    }

    /// The batch, its last message to be acknowledged.
    fn end(mut self) -> Result<Vec<u8>, Errno> {
        // There is nothing to write but the beginning: not a ruleset.
        let flags = self.bytes.get_mut(self.last + 6).filter(|_| self.last > 0).ok_or(Errno::PROTO)?;
        *flags |= u8::try_from(NLM_F_ACK).unwrap_or_default();
        self.push(BATCH[1], 0, &[0, 0, 0, NF_TABLES]);
        Ok(self.bytes)
    }
}

fn message(kind: u16, flags: u16, number: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend(number.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(body);
    message
}

/// Bodies of all messages that tell of a kind of thing.
fn dump(socket: &OwnedFd, thing: &Thing, body: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let asked = message(u16::from(NF_TABLES) << 8 | thing.get, NLM_F_DUMP, 1, body);
    rustix::net::sendto(socket, &asked, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let (mut told, mut buffer) = (Vec::new(), vec![0; READ_BYTES]);
    loop {
        let (length, _) = rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut left = &buffer[..length];
        while !left.is_empty() {
            let size = number(left, 0).ok_or(Errno::PROTO)? as usize;
            let one = left.get(..size).filter(|one| one.len() >= HEADERS).ok_or(Errno::PROTO)?;
            match u16::from_ne_bytes([one[4], one[5]]) {
                NLMSG_DONE => return Ok(told),
                NLMSG_ERROR => return Err(verdict(one).err().unwrap_or(Errno::PROTO)),
                _ => told.push(one[HEADER..].to_vec()),
            }
            left = left.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// The body with those of its attributes that are wanted.
fn kept(body: &[u8], wanted: &[u16]) -> Result<Vec<u8>, Errno> {
    let (head, mut left) = body.split_at_checked(HEADERS - HEADER).ok_or(Errno::PROTO)?;
    let mut kept = head.to_vec();
    while !left.is_empty() {
        let &[low, high, kind_low, kind_high, ..] = left else { return Err(Errno::PROTO) };
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let kind = u16::from_ne_bytes([kind_low, kind_high]);
        let value = left.get(4..length).ok_or(Errno::PROTO)?;
        if wanted.contains(&(kind & KIND)) {
            attribute(&mut kept, kind, value);
        }
        left = left.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(kept)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_kernels_own_is_left_out_and_what_is_cut_short_is_refused() {
        let mut body = vec![1, 0, 0, 0];
        attribute(&mut body, 1, b"mote\0");
        attribute(&mut body, 3, &7_u64.to_be_bytes());
        attribute(&mut body, 4 | 0x8000, &[1, 2, 3, 4]);
        let mut expected = vec![1, 0, 0, 0];
        attribute(&mut expected, 1, b"mote\0");
        attribute(&mut expected, 4 | 0x8000, &[1, 2, 3, 4]);
        assert_eq!(kept(&body, RULE.kept), Ok(expected));
        assert_eq!(kept(&body[..7], RULE.kept), Err(Errno::PROTO));
        assert_eq!(kept(&[1, 0], RULE.kept), Err(Errno::PROTO));
    }

    #[test]
    fn a_batch_of_nothing_is_no_ruleset() {
        assert_eq!(Batch::begin().end(), Err(Errno::PROTO));
    }
}
