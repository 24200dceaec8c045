//! The socket between the daemon and a worker: JSON messages, each whole, some with descriptors.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::mailbox::Shape;
use super::selftest::Tested;
use crate::base::limits::{MODEL_PARTS_MAX, WORKER_MESSAGE_BYTES};

/// A device as its worker found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// `Radeon RX 7900 XTX`.
    pub name: String,
    /// `gfx1100`.
    pub arch: String,
    /// `0000:03:00.0`.
    pub pci: Option<String>,
    /// Bytes of memory in all.
    pub total: u64,
    /// Bytes that were free when the worker started.
    pub free: u64,
    /// Compute units.
    pub compute_units: u32,
    /// Whether its memory is the machine's.
    pub integrated: bool,
    /// Bytes a second at which it fills its memory, where that was measured.
    pub bandwidth: Option<u64>,
    /// The runtime's library.
    pub library: String,
    /// Version of the runtime as HIP packs it.
    pub runtime_version: i32,
    /// Devices that the runtime shows, this one among them.
    pub count: u32,
    /// Environment variables that hide or renumber devices.
    pub visibility: Option<String>,
}

#[cfg(test)]
impl DeviceInfo {
    /// The device that a script in a test says it is.
    pub(crate) fn of_script(pci: Option<&str>) -> Self {
        Self {
            name: "script".into(),
            arch: "gfx0".into(),
            pci: pci.map(str::to_owned),
            total: 1,
            free: 1,
            compute_units: 1,
            integrated: false,
            bandwidth: None,
            library: "none".into(),
            runtime_version: 0,
            count: 1,
            visibility: None,
        }
    }
}

/// A model to load. Its descriptors are, in order: the mailbox, the doorbell, the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadOrder {
    /// Number of this load.
    pub id: u64,
    /// The model's id, for logs.
    pub model: String,
    /// Names of the files, for messages.
    pub files: Vec<String>,
    /// Element type of the caches: `f16`, `f32`.
    pub kv_type: String,
    /// The layers from this one on, where the CPU has those before; all of the model otherwise.
    pub first_layer: Option<usize>,
    /// Layout of the mailbox and bounds of a step.
    pub shape: Shape,
}

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Load a model.
    Load(LoadOrder),
    /// Give a load up.
    Cancel {
        /// Its number.
        id: u64,
    },
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
    /// The self-test runs a kernel: if that is the last that is heard, it was this one.
    Testing {
        /// The kernel.
        kernel: String,
    },
    /// What came of the self-test.
    Tested {
        /// Which kernels are not used.
        result: Tested,
        /// It was done now, not at an earlier start.
        fresh: bool,
    },
    /// The device can be used: models may be loaded.
    Ready(DeviceInfo),
    /// Last message: it cannot.
    Unusable(NotUsable),
    /// How far a load is.
    Progress {
        /// Number of the load.
        id: u64,
        /// Bytes copied.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A load went well: the model answers its doorbell.
    Loaded {
        /// Number of the load.
        id: u64,
        /// What the model runs on, as users read it.
        device: String,
    },
    /// A load failed; nothing of it stays.
    Failed {
        /// Number of the load.
        id: u64,
        /// Why.
        why: LoadFailure,
    },
}

/// Why a device cannot be used, with what is known of it all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotUsable {
    /// Why.
    pub reason: String,
    /// `0000:03:00.0`
    pub pci: Option<String>,
    /// Devices that the runtime shows, this one among them; 0 if it was not asked.
    pub count: u32,
}

impl From<String> for NotUsable {
    fn from(reason: String) -> Self {
        Self { reason, ..Self::default() }
    }
}

/// Why a load failed in the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadFailure {
    /// Given up on request.
    Cancelled,
    /// This device cannot compute it; another may.
    Unsupported(String),
    /// The device has less memory than the ledger said.
    OutOfMemory(String),
    /// The file.
    Invalid(String),
    /// The device, or its worker, failed.
    Device(String),
    /// The device, or its worker, is lost; another worker may do.
    Lost(String),
}

/// One end of the socket.
#[derive(Debug)]
pub struct Wire(OwnedFd);

impl Wire {
    /// Two ends.
    ///
    /// # Errors
    /// The system's.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self(a), Self(b)))
    }

    /// An end that was inherited.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The descriptor, for a child.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends a message; one that the other side has no room for yet waits.
    ///
    /// # Errors
    /// The system's; the other side is gone; the message is too long.
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > WORKER_MESSAGE_BYTES || descriptors.len() > MODEL_PARTS_MAX + 2 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message to or from a worker is too long"));
        }
        let raw: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        loop {
            match sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None) {
                Ok(_) => return Ok(()),
                Err(nix::Error::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The next message; `None` when the other side is gone.
    ///
    /// # Errors
    /// The system's; a message that is none.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<File>)>> {
        let mut bytes = vec![0; WORKER_MESSAGE_BYTES];
        let mut control = nix::cmsg_space!([i32; MODEL_PARTS_MAX + 2]);
        let (n, files) = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                Ok(got) => {
                    let mut files = Vec::new();
                    for message in got.cmsgs()? {
                        if let ControlMessageOwned::ScmRights(raw) = message {
                            files.extend(raw.into_iter().map(super::process::adopt));
                        }
                    }
                    break (got.bytes, files);
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::ECONNRESET) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        };
        if n == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&bytes[..n])?, files)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn messages_and_descriptors_arrive_whole() {
        let (a, b) = Wire::pair().expect("a pair");
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"hello").expect("written");
        let failed = FromWorker::Failed { id: 3, why: LoadFailure::OutOfMemory("none".into()) };
        a.send(&failed, &[file.as_fd()]).expect("sent");
        a.send(&FromWorker::Progress { id: 3, done: 1, total: 2 }, &[]).expect("sent");
        let (got, mut files) = b.receive::<FromWorker>().expect("good").expect("there");
        assert_eq!(got, failed);
        let mut text = String::new();
        files[0].rewind().expect("a file");
        files[0].read_to_string(&mut text).expect("a file");
        assert_eq!(text, "hello");
        assert!(
            matches!(b.receive::<FromWorker>(), Ok(Some((FromWorker::Progress { .. }, files))) if files.is_empty())
        );
        let long = FromWorker::Unusable(NotUsable::from("x".repeat(WORKER_MESSAGE_BYTES)));
        assert!(a.send(&long, &[]).is_err());
        drop(a);
        assert!(b.receive::<FromWorker>().expect("no error").is_none());
    }
}
