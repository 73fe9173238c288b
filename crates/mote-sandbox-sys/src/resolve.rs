//! Asking the system's resolver (`getaddrinfo(3)`), with its errors by type: the standard library keeps their text alone, which
//! differs from one C library to the next.
//!
//! It blocks for as long as the resolver takes, and caches nothing.

use std::ffi::CStr;
use std::net::Ipv4Addr;
use std::ptr;

/// `EAI_NODATA` of glibc and of musl: the name is there and has no address. Not every C library still declares it.
const NO_DATA: libc::c_int = -5;
/// `EAI_ADDRFAMILY` of glibc: it has none of this family.
const NO_FAMILY: libc::c_int = -9;

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such name, or it has no address of IPv4.
    #[error("there is no such name")]
    NoName,
    /// The resolver could not be asked, or failed; it may answer later.
    #[error("the resolver does not answer, or failed")]
    Again,
    /// Another error of the resolver, by its number (`EAI_*` of `netdb.h`).
    #[error("the resolver failed with {0}")]
    Other(i32),
}

impl Error {
    const fn of(code: libc::c_int) -> Self {
        match code {
            libc::EAI_NONAME | NO_DATA | NO_FAMILY => Self::NoName,
            libc::EAI_AGAIN => Self::Again,
            code => Self::Other(code),
        }
    }
}

/// The IPv4 addresses of a name, each once, in the resolver's order.
///
/// # Errors
/// [`Error`].
pub fn addresses(name: &CStr) -> Result<Vec<Ipv4Addr>, Error> {
    // SAFETY: all zeros are a valid `addrinfo`: numbers, and null pointers.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_family = libc::AF_INET;
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut list: *mut libc::addrinfo = ptr::null_mut();
    // SAFETY: the name is a string, the hints are whole, and the list is written only where the call succeeds.
    let code = unsafe { libc::getaddrinfo(name.as_ptr(), ptr::null(), &raw const hints, &raw mut list) };
    if code != 0 {
        return Err(Error::of(code));
    }
    let mut found = Vec::new();
    let mut next = list;
    // SAFETY: the call made a list that ends with a null pointer, and nothing frees it before the end of this function.
    while let Some(entry) = unsafe { next.as_ref() } {
        if entry.ai_family == libc::AF_INET && !entry.ai_addr.is_null() {
            // SAFETY: an address of this family is a `sockaddr_in`, which the pointer need not be aligned for.
            let address = unsafe { ptr::read_unaligned(entry.ai_addr.cast::<libc::sockaddr_in>()) };
            let address = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            if !found.contains(&address) {
                found.push(address);
            }
        }
        next = entry.ai_next;
    }
    // SAFETY: the list is the one that the call made, and is not used any more.
    unsafe { libc::freeaddrinfo(list) };
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_hosts_file_has_its_addresses_once() {
        assert_eq!(addresses(c"localhost").unwrap(), [Ipv4Addr::LOCALHOST]);
        assert_eq!(addresses(c"198.51.100.7").unwrap(), [Ipv4Addr::new(198, 51, 100, 7)]);
    }

    #[test]
    fn an_error_is_told_by_its_number() {
        // No name may have two dots beside one another: nobody is asked.
        assert_eq!(addresses(c"a..b"), Err(Error::NoName));
        assert_eq!(Error::of(libc::EAI_AGAIN), Error::Again);
        assert_eq!(Error::of(libc::EAI_FAIL), Error::Other(libc::EAI_FAIL));
        assert_eq!(Error::of(NO_DATA), Error::NoName);
    }
}
