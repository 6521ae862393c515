//! The one ioctl a new network namespace needs.
#![expect(unsafe_code, reason = "interface flags have no safe wrapper in the crates")]

use std::{io, os::fd::AsRawFd as _};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Brings up `lo` in the network namespace of this process (netdevice(7)).
pub fn bring_up_loopback() -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(io::Error::other)?;
    // SAFETY: all zeroes is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: the descriptor is open, and the kernel reads one ifreq, which is initialised and outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
