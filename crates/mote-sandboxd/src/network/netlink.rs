//! The few messages of rtnetlink that a sandbox's network needs: a link up, an address, a route.
//!
//! It does not watch for changes and it lists nothing. Formats: `rtnetlink(7)`, `linux/rtnetlink.h`, `linux/if_addr.h`.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const HEADER_BYTES: usize = 16;

/// Index of `lo`: the first link of every network namespace.
pub(super) const LOOPBACK: u32 = 1;

/// A socket to the kernel's routing tables, of the namespace that it was opened in.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) fn open() -> Result<Self, Errno> {
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self(socket))
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(super) fn set_up(&self, link: u32) -> Result<(), Errno> {
        let mut body = vec![0; 4];
        body.extend(link.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        self.ask(RTM_NEWLINK, 0, &body)
    }

    /// Gives a link an address.
    ///
    /// # Errors
    /// What the kernel answers; `EXIST` where it has the address.
    pub(super) fn add_address(&self, link: u32, address: Ipv4Addr, prefix: u8) -> Result<(), Errno> {
        let mut body = vec![AF_INET, prefix, 0, RT_SCOPE_UNIVERSE];
        body.extend(link.to_ne_bytes());
        attribute(&mut body, IFA_LOCAL, &address.octets());
        attribute(&mut body, IFA_ADDRESS, &address.octets());
        self.ask(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &body)
    }

    /// Makes a link the default route, with the address that connections then come from.
    ///
    /// # Errors
    /// What the kernel answers; `EXIST` where there is a default route.
    pub(super) fn add_default_route(&self, link: u32, source: Ipv4Addr) -> Result<(), Errno> {
        let mut body = vec![AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_LINK, RTN_UNICAST, 0, 0, 0, 0];
        attribute(&mut body, RTA_OIF, &link.to_ne_bytes());
        attribute(&mut body, RTA_PREFSRC, &source.octets());
        self.ask(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &body)
    }

    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> Result<(), Errno> {
        let length = u32::try_from(HEADER_BYTES + body.len()).map_err(|_| Errno::INVAL)?;
        let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        rustix::net::sendto(&self.0, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = [0; 1024];
        let (length, _) = rustix::net::recv(&self.0, &mut answer, RecvFlags::empty())?;
        verdict(&answer[..length])
    }
}

/// What an acknowledgement says: a header, then a negated error number, 0 for success.
pub(super) fn verdict(answer: &[u8]) -> Result<(), Errno> {
    let (Some(kind), Some(code)) = (answer.get(4..6), answer.get(HEADER_BYTES..HEADER_BYTES + 4)) else {
        return Err(Errno::PROTO);
    };
    if kind != NLMSG_ERROR.to_ne_bytes() {
        return Err(Errno::PROTO);
    }
    match i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
        0 => Ok(()),
        code => Err(Errno::from_raw_os_error(code.wrapping_neg())),
    }
}

/// Appends an attribute: length, type, value, filled up to four bytes.
pub(super) fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_is_read_and_anything_else_is_not_taken_for_success() {
        let mut answer = vec![0; 20];
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        assert_eq!(verdict(&answer), Ok(()));
        answer[16..20].copy_from_slice(&(-17_i32).to_ne_bytes());
        assert_eq!(verdict(&answer), Err(Errno::EXIST));
        answer[4] = 99;
        assert_eq!(verdict(&answer), Err(Errno::PROTO));
        assert_eq!(verdict(&answer[..10]), Err(Errno::PROTO));
    }
}
