//! File systems of their own in an image on a loop device: their power can be cut, which is a copy of the
//! image, and their disk can be full behind their back.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::{NamedTempFile, TempDir};

use crate::support::{WATCHDOG, skip};

/// How a kind of file system is made and mounted.
#[derive(Debug)]
pub struct Kind {
    pub name: &'static str,
    /// Sparse: what is used of it is a part.
    bytes: u64,
    make: &'static [&'static str],
    options: &'static str,
}

pub const EXT4: Kind = Kind {
    name: "ext4",
    bytes: 24 << 20,
    make: &["mkfs.ext4", "-q", "-F", "-m", "0"],
    options: "loop,errors=remount-ro",
};
pub const XFS: Kind = Kind {
    name: "xfs",
    bytes: 320 << 20,
    make: &["mkfs.xfs", "-q", "-f"],
    // A copy has the identity of the original.
    options: "loop,nouuid",
};
pub const BTRFS: Kind = Kind {
    name: "btrfs",
    bytes: 128 << 20,
    make: &["mkfs.btrfs", "-q", "-f"],
    options: "loop",
};

/// One that is mounted; unmounted when dropped, also by a panic. The device goes with the mount.
pub struct Image {
    at: PathBuf,
    kind: &'static Kind,
    file: NamedTempFile,
}

/// What a power cut leaves.
pub struct Cut {
    kind: &'static Kind,
    file: NamedTempFile,
}

/// Images are in memory where the system has a place for them: a sync of a loop device is one of its file.
fn scratch() -> NamedTempFile {
    let file = NamedTempFile::new_in("/dev/shm").or_else(|_| NamedTempFile::new());
    file.expect("a temporary file")
}

impl Image {
    /// A new one; says so where that is not possible.
    pub fn mount(at: &Path, kind: &'static Kind) -> Option<Self> {
        Self::make(at, kind, scratch())
    }

    /// One whose image is this file.
    pub fn make(at: &Path, kind: &'static Kind, file: NamedTempFile) -> Option<Self> {
        file.as_file().set_len(kind.bytes).expect("a sparse file");
        let (program, usual) = kind.make.split_first().expect("a program");
        let image = Self {
            at: fs::canonicalize(at).expect("the folder exists"),
            kind,
            file,
        };
        let is_made = tool(program, usual, Some(image.path())) && image.mount_again();
        if !is_made {
            let kind = kind.name;
            skip(&format!(
                "an image of {kind} cannot be made and mounted here (mkfs.{kind}, loop devices, root)"
            ));
            return None;
        }
        Some(image)
    }

    pub fn mount_again(&self) -> bool {
        let options = ["-t", self.kind.name, "-o", self.kind.options];
        let image = self.path().to_str().expect("a UTF-8 path");
        tool("mount", &[&options[..], &[image]].concat(), Some(&self.at))
    }

    /// Waits for what is left of processes that have ended: the kernel closes files of a ring behind them, and
    /// what another test forks has everybody's files until it executes.
    pub fn unmount(&self) -> bool {
        let started = Instant::now();
        while !self.unmount_now() {
            if started.elapsed() > WATCHDOG {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
        true
    }

    fn unmount_now(&self) -> bool {
        tool("umount", &[], Some(&self.at))
    }

    /// Takes the space for all of it.
    pub fn allocate(&self) {
        let length = self.kind.bytes.to_string();
        assert!(
            tool("fallocate", &["-l", &length], Some(self.path())),
            "there is space"
        );
    }

    /// Where it is mounted.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// The file that is its disk.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The disk as it is now: what a cut of the power at this instant would leave. Whoever writes to it
    /// meanwhile would tear it, but processes of the test, which wait, and the kernel's own writing out,
    /// which comes seconds after what it writes.
    pub fn cut(&self) -> Cut {
        let file = scratch();
        let sparse = ["--sparse=always", "--reflink=auto"];
        let from = self.path().to_str().expect("a UTF-8 path");
        assert!(
            tool("cp", &[&sparse[..], &[from]].concat(), Some(file.path())),
            "the image is copied"
        );
        Cut {
            kind: self.kind,
            file,
        }
    }
}

impl Cut {
    /// The power is back: mounted, and with that its journal replayed. The original may not be mounted.
    pub fn mount(self, at: &Path) -> Image {
        let image = Image {
            at: fs::canonicalize(at).expect("the folder exists"),
            kind: self.kind,
            file: self.file,
        };
        assert!(image.mount_again(), "a copy of {} mounts", self.kind.name);
        image
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Lazily if a child that was killed a moment ago is still there.
        let _ = self.unmount_now() || tool("umount", &["-l"], Some(&self.at));
    }
}

/// A tmpfs of a few megabytes, for images of which it cannot hold all.
pub struct SmallDisk {
    at: TempDir,
}

impl SmallDisk {
    pub fn mount(size: &str) -> Option<Self> {
        let at = tempfile::tempdir().expect("a temporary folder");
        let options = ["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"];
        if !tool("mount", &options, Some(at.path())) {
            skip("mounting a small file system is not permitted here");
            return None;
        }
        Some(Self { at })
    }

    pub fn file(&self) -> NamedTempFile {
        NamedTempFile::new_in(self.at.path()).expect("a temporary file")
    }

    /// Takes all the space but this many bytes.
    pub fn fill(&self, left: u64) {
        use std::io::Write as _;
        let path = self.filler();
        let mut filler = File::create(&path).expect("a file");
        while filler.write_all(&[0; 4096]).is_ok() {}
        let length = filler.metadata().expect("metadata").len() & !4095;
        filler
            .set_len(length.checked_sub(left).expect("it was not full before"))
            .expect("a shorter file");
    }

    pub fn make_room(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    fn filler(&self) -> PathBuf {
        self.at.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = tool("umount", &["-l"], Some(self.at.path()));
    }
}

pub fn tool(name: &str, options: &[&str], path: Option<&Path>) -> bool {
    let output = Command::new(name).args(options).args(path).output();
    output.is_ok_and(|output| output.status.success())
}
