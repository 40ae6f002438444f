//! Holds the binary at the entrance of every system call that changes a file of its run, and decides
//! there: go on, fail with an error, or die. By seccomp's user notification: it needs no tracer and no
//! package, counts over all threads, and reaches both runtimes, because files are written by ordinary
//! system calls on either.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Place, Run, Running, skip_outside_ci, spawn_with};

/// Longer than any path here.
const PATH_BYTES: usize = 4096;
/// How long the end of a process may go unnoticed.
const POLL_MS: i32 = 20;

/// Where a system call says which file it is about.
#[derive(Clone, Copy)]
enum Names {
    /// The descriptor in its first argument.
    Descriptor,
    /// The path in this argument.
    Path(usize),
    /// The path in this argument, if the flags in the one after it may create the file.
    IfCreated(usize),
}

const CALLS: &[(&str, libc::c_long, Names)] = &[
    ("pwrite64", libc::SYS_pwrite64, Names::Descriptor),
    ("write", libc::SYS_write, Names::Descriptor),
    ("fallocate", libc::SYS_fallocate, Names::Descriptor),
    ("ftruncate", libc::SYS_ftruncate, Names::Descriptor),
    ("fsync", libc::SYS_fsync, Names::Descriptor),
    ("fdatasync", libc::SYS_fdatasync, Names::Descriptor),
    ("fchmod", libc::SYS_fchmod, Names::Descriptor),
    ("flock", libc::SYS_flock, Names::Descriptor),
    ("openat", libc::SYS_openat, Names::IfCreated(1)),
    ("mkdirat", libc::SYS_mkdirat, Names::Path(1)),
    ("unlinkat", libc::SYS_unlinkat, Names::Path(1)),
    ("renameat", libc::SYS_renameat, Names::Path(1)),
    ("renameat2", libc::SYS_renameat2, Names::Path(1)),
    #[cfg(target_arch = "x86_64")]
    ("mkdir", libc::SYS_mkdir, Names::Path(0)),
    #[cfg(target_arch = "x86_64")]
    ("unlink", libc::SYS_unlink, Names::Path(0)),
    #[cfg(target_arch = "x86_64")]
    ("rmdir", libc::SYS_rmdir, Names::Path(0)),
    #[cfg(target_arch = "x86_64")]
    ("rename", libc::SYS_rename, Names::Path(0)),
];

/// A change that is about to be made.
#[derive(Clone, Debug)]
pub struct Change {
    /// The system call.
    pub call: &'static str,
    /// The file, absolute, by its old name if it is renamed; standard output's is `stdout`.
    pub path: PathBuf,
}

impl Change {
    /// The file's name without its folder.
    pub fn name(&self) -> &str {
        let name = self.path.file_name().and_then(|name| name.to_str());
        name.unwrap_or_default()
    }
}

/// What becomes of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    GoOn,
    /// It is not made; the process gets this error number.
    Fail(i32),
    /// It never returns; whoever says this sees to the end of the process.
    Hold,
    /// `kill -9` before it is made.
    Kill,
}

/// Whether processes can be held here; says so if not.
pub fn works() -> bool {
    let mut command = Command::new("true");
    match install(&mut command).and_then(|_| command.status()) {
        Ok(_) => true,
        Err(error) => {
            skip_outside_ci(&format!("seccomp notifications are refused: {error}"));
            false
        }
    }
}

/// Runs the command in `place` and asks `decide` before each change of a file in it.
pub fn supervise(
    place: &Place,
    args: &[impl AsRef<std::ffi::OsStr>],
    change: impl FnOnce(&mut Command),
    mut decide: impl FnMut(&Change, &Running) -> Verdict,
) -> Run {
    let mut received = None;
    let mut running = spawn_with(place, args, |command| {
        change(command);
        received = install(command).ok();
    });
    let listener = received.and_then(|socket| receive(&socket).ok());
    let listener = listener.expect("`works` was asked before");
    let root = std::fs::canonicalize(place.path("")).expect("the folder exists");
    while !running.has_ended() {
        let call = match next(&listener) {
            Next::Call(call) => call,
            Next::Nothing => continue,
            Next::Over => break,
        };
        let verdict = match read_change(&call, &root) {
            Some(change) => decide(&change, &running),
            None => Verdict::GoOn,
        };
        match verdict {
            Verdict::GoOn => answer(&listener, call.id, 0),
            Verdict::Fail(error) => answer(&listener, call.id, error),
            Verdict::Hold => {}
            Verdict::Kill => return running.kill(),
        }
    }
    running.wait()
}

/// Has the command install the filter before it becomes the binary. The socket gets the listener.
fn install(command: &mut Command) -> io::Result<UnixDatagram> {
    let (ours, theirs) = UnixDatagram::pair()?;
    let filter = filter();
    // SAFETY: only system calls between fork and exec, on memory that the closure owns.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog {
                len: filter.len() as u16,
                filter: filter.as_ptr().cast_mut(),
            };
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
            let listener = libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                &raw const program,
            );
            match RawFd::try_from(listener) {
                Ok(listener) if listener >= 0 => send(&theirs, listener),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    Ok(ours)
}

/// Notify for the calls of [`CALLS`], allow every other.
fn filter() -> Vec<libc::sock_filter> {
    const NUMBER_OFFSET: u32 = 0;
    const ARGUMENTS_OFFSET: u32 = 16;
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    // On a match go on with the next statement, else pass over `skipped` of them.
    let unless = |code: u32, k: u32, skipped: u8| libc::sock_filter {
        code: (libc::BPF_JMP | code | libc::BPF_K) as u16,
        jt: 0,
        jf: skipped,
        k,
    };
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let notify = statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_USER_NOTIF);
    let allow = statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW);
    let mut program = vec![load(NUMBER_OFFSET)];
    for (_, number, names) in CALLS {
        match names {
            Names::IfCreated(path) => {
                // The low half of a 64-bit argument on a little-endian machine.
                let flags = ARGUMENTS_OFFSET + 8 * (*path as u32 + 1);
                program.extend([
                    unless(libc::BPF_JEQ, *number as u32, 4),
                    load(flags),
                    unless(libc::BPF_JSET, libc::O_CREAT as u32, 1),
                    notify,
                    allow,
                ]);
            }
            _ => program.extend([unless(libc::BPF_JEQ, *number as u32, 1), notify]),
        }
    }
    program.push(allow);
    program
}

/// Room for one descriptor beside a message.
type Ancillary = [u64; 8];

/// A message of one byte with `control` beside it.
fn message(byte: &mut libc::iovec, control: &mut Ancillary) -> libc::msghdr {
    // SAFETY: all zeros is a valid `msghdr`, and the space is a constant.
    let (mut message, space) = unsafe {
        let descriptor = size_of::<RawFd>() as u32;
        (
            std::mem::zeroed::<libc::msghdr>(),
            libc::CMSG_SPACE(descriptor),
        )
    };
    message.msg_iov = byte;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = space as _;
    message
}

/// Between fork and exec: system calls only.
fn send(socket: &UnixDatagram, descriptor: RawFd) -> io::Result<()> {
    let mut byte = [0_u8];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = Ancillary::default();
    let message = message(&mut part, &mut control);
    // SAFETY: the header lies within `control`, which is large enough and aligned for it.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(header)
            .cast::<RawFd>()
            .write_unaligned(descriptor);
        libc::sendmsg(socket.as_raw_fd(), &raw const message, 0)
    };
    match sent {
        1 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn receive(socket: &UnixDatagram) -> io::Result<OwnedFd> {
    let mut byte = [0_u8];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = Ancillary::default();
    let mut message = message(&mut part, &mut control);
    // SAFETY: the buffers outlive the call; the kernel wrote a header if it says so.
    unsafe {
        let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        if libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) != 1 {
            return Err(io::Error::last_os_error());
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let descriptor = libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned();
        Ok(OwnedFd::from_raw_fd(descriptor))
    }
}

/// What was waited for.
enum Next {
    Call(Box<libc::seccomp_notif>),
    /// No call came for a while, or its caller is gone.
    Nothing,
    /// Nobody is left who could call.
    Over,
}

/// The next call that waits.
fn next(listener: &OwnedFd) -> Next {
    let mut poll = libc::pollfd {
        fd: listener.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid entry; the notification must be zeros before the kernel fills it.
    unsafe {
        if libc::poll(&raw mut poll, 1, POLL_MS) != 1 {
            return Next::Nothing;
        }
        if poll.revents & libc::POLLIN == 0 {
            return Next::Over;
        }
        let mut call = std::mem::zeroed::<libc::seccomp_notif>();
        let result = libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut call,
        );
        match result {
            0 => Next::Call(Box::new(call)),
            _ => Next::Nothing,
        }
    }
}

/// Lets the call happen (`error` 0), or fail. A caller that is gone meanwhile needs no answer.
fn answer(listener: &OwnedFd, id: u64, error: i32) {
    let mut response = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: -error,
        flags: 0,
    };
    if error == 0 {
        response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    }
    // SAFETY: the kernel only reads the response.
    unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw mut response,
        );
    }
}

/// Which file under `root` the call is about; `None`: another file.
fn read_change(call: &libc::seccomp_notif, root: &Path) -> Option<Change> {
    let number = libc::c_long::from(call.data.nr);
    let (name, _, names) = CALLS.iter().find(|(_, listed, _)| *listed == number)?;
    let path_at = |index: usize| {
        let path = read_text(call.pid, call.data.args[index])?;
        Some(root.join(path))
    };
    let path = match *names {
        Names::Descriptor if call.data.args[0] == 1 => root.join("stdout"),
        Names::Descriptor => {
            let link = format!("/proc/{}/fd/{}", call.pid, call.data.args[0]);
            std::fs::read_link(link).ok()?
        }
        Names::Path(index) | Names::IfCreated(index) => path_at(index)?,
    };
    path.starts_with(root)
        .then_some(Change { call: name, path })
}

/// The C string at `address` of another process.
fn read_text(thread: u32, address: u64) -> Option<PathBuf> {
    let memory = File::open(format!("/proc/{thread}/mem")).ok()?;
    let mut bytes = vec![0; PATH_BYTES];
    // The page after the string may not be mapped: what was read before is enough.
    let read = memory.read_at(&mut bytes, address).ok()?;
    let end = bytes[..read].iter().position(|byte| *byte == 0)?;
    bytes.truncate(end);
    Some(OsString::from_vec(bytes).into())
}
