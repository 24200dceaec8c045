//! Opening the addresses to serve on. All of it happens before the first thread starts, so that
//! an error ends the start, and so that the umask may be changed for a moment.

use std::fs;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use thiserror::Error;

use super::config::Listen;
use super::systemd;

/// Group whose members may use the admin socket.
const GROUP: &str = "rocmforge";

/// Why an address cannot be served on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Somebody else has it.
    #[error(
        "cannot listen on {0}: the address is in use (by another rocmforged?); stop that program, \
         or choose another address with {1}"
    )]
    InUse(String, &'static str),
    /// A file that is no socket is in the way.
    #[error("cannot listen on {0}: a file that is no socket is there; remove it, or choose another path with {1}")]
    NoSocket(String, &'static str),
    /// Anything else.
    #[error("cannot listen on {address}: {why}; check {key}")]
    System {
        /// The address.
        address: String,
        /// The flag and key that set it.
        key: &'static str,
        /// The system's reason.
        why: io::Error,
    },
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// Of the network.
    Tcp(TcpListener),
    /// In the file system, with the file to remove at the end if it is ours.
    Unix(UnixListener, Option<SocketFile>),
}

/// The file of a Unix socket that this process made; dropping it removes it, unless another
/// process has put its own there meanwhile.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            // If it cannot be removed, the next start finds it stale and replaces it.
            fs::remove_file(&self.path).ok();
        }
    }
}

impl Listener {
    /// The address it really has (a port 0 became one).
    pub fn address(&self) -> String {
        match self {
            Listener::Tcp(l) => l.local_addr().map_or_else(|e| e.to_string(), |a| a.to_string()),
            Listener::Unix(l, _) => {
                let address = l.local_addr().ok();
                let path = address.as_ref().and_then(|a| a.as_pathname());
                path.map_or("unix socket".to_owned(), |p| format!("unix:{}", p.display()))
            }
        }
    }
}

/// Opens a public address.
///
/// # Errors
/// [`ListenError`] names the address and what to do.
pub fn public(address: &Listen) -> Result<Vec<Listener>, ListenError> {
    const KEY: &str = "--listen or http.listen";
    match address {
        Listen::Unix(path) => Ok(vec![unix(path, 0o666, KEY)?]),
        Listen::Tcp(address) => {
            let fail = |source: io::Error| match source.kind() {
                io::ErrorKind::AddrInUse => ListenError::InUse(address.clone(), KEY),
                _ => ListenError::System { address: address.clone(), key: KEY, why: source },
            };
            // A name may stand for several addresses (localhost: 127.0.0.1 and ::1).
            let mut all: Vec<_> = address.to_socket_addrs().map_err(fail)?.collect();
            all.dedup();
            let mut open = Vec::new();
            let mut last = None;
            for a in all {
                match TcpListener::bind(a).and_then(|l| l.set_nonblocking(true).map(|()| l)) {
                    Ok(l) => open.push(Listener::Tcp(l)),
                    // A machine without IPv6 still resolves localhost to ::1.
                    Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => last = Some(e),
                    Err(e) => return Err(fail(e)),
                }
            }
            match (open.is_empty(), last) {
                (false, _) => Ok(open),
                (true, e) => Err(fail(e.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))),
            }
        }
    }
}

/// Opens the admin socket: the one that systemd passed, else `path` with mode 0660, for the group
/// `rocmforge` where there is one.
///
/// # Errors
/// [`ListenError`] names the path and what to do.
pub fn admin(path: &Path, passed: Vec<(OwnedFd, String)>) -> Result<Listener, ListenError> {
    const KEY: &str = "--admin-socket or admin.socket";
    let lone = passed.len() == 1;
    for (fd, name) in passed {
        if name != systemd::ADMIN_SOCKET_NAME && !lone {
            tracing::warn!(name, "systemd passed a socket that is not used");
            continue;
        }
        let system = |source| ListenError::System { address: name.clone(), key: KEY, why: source };
        if !systemd::is_unix_listener(&fd) {
            return Err(system(systemd::not_a_listener(&name)));
        }
        let listener = UnixListener::from(fd);
        listener.set_nonblocking(true).map_err(system)?;
        return Ok(Listener::Unix(listener, None));
    }
    let listener = unix(path, 0o660, KEY)?;
    if let Ok(Some(group)) = nix::unistd::Group::from_name(GROUP) {
        // Refused to a user who is not a member: the socket is then this user's alone.
        if let Err(e) = nix::unistd::chown(path, None, Some(group.gid)) {
            tracing::debug!(error = %e, "the admin socket is not for the group {GROUP}");
        }
    }
    Ok(listener)
}

fn unix(path: &Path, mode: u32, key: &'static str) -> Result<Listener, ListenError> {
    let address = format!("unix:{}", path.display());
    let system = |source| ListenError::System { address: address.clone(), key, why: source };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(system)?;
    }
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(system(e)),
        Ok(m) if !m.file_type().is_socket() => return Err(ListenError::NoSocket(address, key)),
        // Left behind by a process that was killed, unless somebody answers.
        Ok(_) => match UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(system)?,
            _ => return Err(ListenError::InUse(address, key)),
        },
    }
    // Nobody may connect between bind and chmod who may not connect afterwards.
    let before = umask(Mode::from_bits_truncate(0o777 & !mode));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse(address.clone(), key),
        _ => system(e),
    })?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(system)?;
    listener.set_nonblocking(true).map_err(system)?;
    let inode = fs::symlink_metadata(path).map_err(system)?.ino();
    Ok(Listener::Unix(listener, Some(SocketFile { path: path.to_owned(), inode })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_named() {
        let first = public(&Listen::Tcp("127.0.0.1:0".into())).expect("opened");
        let address = first[0].address();
        let e = public(&Listen::Tcp(address.clone())).expect_err("in use").to_string();
        assert!(e.contains(&address) && e.contains("in use") && e.contains("--listen"), "{e}");
        let e = public(&Listen::Tcp("192.0.2.1:80".into())).expect_err("not ours").to_string();
        assert!(e.contains("192.0.2.1:80"), "{e}");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("run/admin.sock");
        let live = admin(&path, Vec::new()).expect("opened");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o660);
        let e = admin(&path, Vec::new()).expect_err("in use").to_string();
        assert!(e.contains("admin.sock") && e.contains("in use"), "{e}");
        // As kill -9 leaves it: the socket is closed, its file is there.
        let Listener::Unix(socket, file) = live else { panic!("a Unix socket") };
        std::mem::forget(file);
        drop(socket);
        assert!(path.exists());
        let again = admin(&path, Vec::new()).expect("replaced");
        drop(again);
        assert!(!path.exists(), "its file goes with it");
        fs::write(&path, "precious").expect("written");
        let e = admin(&path, Vec::new()).expect_err("no socket").to_string();
        assert!(e.contains("no socket"), "{e}");
        assert_eq!(fs::read_to_string(&path).expect("kept"), "precious");
    }

    #[test]
    fn a_socket_that_systemd_passed_is_used_and_its_file_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a.sock");
        let passed = UnixListener::bind(&path).expect("bound");
        let l = admin(Path::new("/none/x.sock"), vec![(passed.into(), "admin".into())]).expect("taken");
        assert_eq!(l.address(), format!("unix:{}", path.display()));
        drop(l);
        assert!(path.exists());
        let (tcp, _) = (TcpListener::bind("127.0.0.1:0").expect("bound"), ());
        let e = admin(Path::new("/none/x.sock"), vec![(tcp.into(), "admin".into())]).expect_err("TCP").to_string();
        assert!(e.contains("no listening Unix socket"), "{e}");
    }
}
