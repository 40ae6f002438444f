//! What a run needs of files beyond the standard library: space reserved ahead, private files,
//! positioned writes, mappings whose pages can be let go, and whether two paths are one file.

#[cfg(unix)]
#[path = "unix.rs"]
mod platform;
#[cfg(windows)]
#[path = "windows.rs"]
mod platform;

#[cfg(not(test))]
#[path = "direct.rs"]
mod disk;
#[cfg(test)]
#[path = "faulty.rs"]
pub(in crate::runtime) mod disk;
mod from_disk;
pub(in crate::runtime) mod operation;

pub use from_disk::{Block, FromDisk};

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapMut};
use operation::Operation;

/// Makes sure that `length` bytes from `offset` can be written without running out of space; the
/// file's size does not change. `Unsupported` where the system or file system cannot promise that.
pub fn reserve(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let operation = Operation::Reserve(file, offset, length);
    disk::perform(operation, || platform::reserve(file, offset, length))
}

/// Gives an empty file `length` zero bytes that are really there: writing to them through a
/// mapping cannot run out of space, which would be a signal instead of an error.
pub fn allocate(file: &File, length: u64) -> io::Result<()> {
    match reserve(file, 0, length) {
        Ok(()) => return set_length(file, length),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        Err(error) => return Err(error),
    }
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut offset = 0;
    while offset < length {
        let bytes = &ZEROS[..ZEROS
            .len()
            .min(usize::try_from(length - offset).unwrap_or(usize::MAX))];
        write_all_at(file, bytes, offset)?;
        offset += bytes.len() as u64;
    }
    Ok(())
}

/// A new file for reading and writing that only its owner may open; an error if it exists.
pub fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    platform::only_owner(&mut options);
    disk::perform(Operation::Create(path), || options.open(path))
}

/// As [`create_private`], but opens the file if it exists, with its contents.
pub fn open_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    platform::only_owner(&mut options);
    disk::perform(Operation::Create(path), || options.open(path))
}

/// A new, empty file with the permissions that any new file gets; an existing one is emptied.
pub fn create(path: &Path) -> io::Result<File> {
    disk::perform(Operation::Create(path), || File::create(path))
}

/// A new folder that only its owner may enter; an error if it exists.
pub fn create_private_folder(path: &Path) -> io::Result<()> {
    let create = || platform::create_private_folder(path);
    disk::perform(Operation::CreateFolder(path), create)
}

/// Gives a file another name, replacing the file that has it.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    disk::perform(Operation::Rename(from, to), || fs::rename(from, to))
}

/// Gives a file a second name in the same file system; an error if there is a file of that name, or the
/// file system has no second names.
pub fn link(file: &Path, name: &Path) -> io::Result<()> {
    disk::perform(Operation::Link(file, name), || fs::hard_link(file, name))
}

/// Has the system begin to write these bytes of a file to the disk, without waiting for that. Without
/// effect where it cannot be told; nothing is safe before a sync.
pub fn begin_writing_out(file: &File, range: Range<u64>) {
    platform::begin_writing_out(file, range);
}

/// Deletes a file.
pub fn remove(path: &Path) -> io::Result<()> {
    disk::perform(Operation::Remove(path), || fs::remove_file(path))
}

/// Deletes an empty folder.
pub fn remove_folder(path: &Path) -> io::Result<()> {
    disk::perform(Operation::RemoveFolder(path), || fs::remove_dir(path))
}

/// Cuts a file, or extends it with zeros.
pub fn set_length(file: &File, length: u64) -> io::Result<()> {
    disk::perform(Operation::SetLength(file, length), || file.set_len(length))
}

/// Who may read and write a file.
pub fn set_permissions(file: &File, permissions: Permissions) -> io::Result<()> {
    disk::perform(Operation::SetPermissions, || {
        file.set_permissions(permissions)
    })
}

/// Makes a file's bytes survive power loss.
pub fn sync_data(file: &File) -> io::Result<()> {
    disk::perform(Operation::Sync(file), || file.sync_data())
}

/// Makes a file's bytes, size, times and permissions survive power loss.
pub fn sync_all(file: &File) -> io::Result<()> {
    disk::perform(Operation::Sync(file), || file.sync_all())
}

/// [`sync_all`] of a file that is not open, and perhaps may not be written to.
pub fn sync_closed(path: &Path) -> io::Result<()> {
    sync_all(&platform::open_to_sync(path)?)
}

/// Makes names created in, renamed in or removed from the folder survive power loss.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    let sync = || platform::sync_directory(path);
    disk::perform(Operation::SyncDirectory(path), sync)
}

/// One positioned write; may be short. Does not use the file's cursor.
pub fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    let bytes = &bytes[..disk::taken(bytes.len())];
    let write = || platform::write_at(file, bytes, offset);
    disk::perform(Operation::Write(file, offset, bytes), write)
}

/// Positioned writes until all bytes are written.
pub fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match write_at(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether two paths lead to the same file, through symbolic and hard links too. Files that do not
/// exist yet are compared by their resolved parent folder and name.
pub fn same_file(one: &Path, other: &Path) -> bool {
    match (platform::identity(one), platform::identity(other)) {
        (Some(first), Some(second)) => first == second,
        (None, None) => resolved(one) == resolved(other),
        _ => false,
    }
}

/// Whether the open file is still what the path names: nobody removed or replaced it.
pub fn is_named(file: &File, path: &Path) -> bool {
    let identity = platform::identity_of(file);
    identity.is_some() && identity == platform::identity(path)
}

/// Whether a file can be renamed from one folder into the other.
pub fn same_file_system(one: &Path, other: &Path) -> bool {
    let device = |path| platform::identity(path).map(|identity| identity.device);
    device(one).is_some() && device(one) == device(other)
}

/// Removes a file that this process has open, and takes its name out of its folder at once.
pub fn remove_open(path: &Path) -> io::Result<()> {
    disk::perform(Operation::Remove(path), || platform::remove_open(path))
}

/// Whether the system takes this name for a device wherever it stands, such as `NUL` on Windows.
pub fn is_device_name(path: &Path) -> bool {
    platform::is_device_name(path)
}

/// Which file this is, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    file: u64,
}

/// Whether this process may create files in the folder. Creates nothing to find out.
pub fn is_writable_folder(path: &Path) -> bool {
    platform::is_writable_folder(path)
}

/// Bytes that this process may still put on the disk of a folder; `None` where the system does not say.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    // Of a relative name, the folder is the current one.
    let is_here = folder.as_os_str().is_empty();
    platform::free_bytes(if is_here { Path::new(".") } else { folder })
}

/// Makes a write beyond the file size limit (`ulimit -f`) an error instead of the end of the
/// process. Called once, early in `main`.
pub fn ignore_file_size_signal() {
    platform::ignore_file_size_signal();
}

/// An absolute path with links resolved as far as it exists.
fn resolved(path: &Path) -> Option<PathBuf> {
    if let Ok(whole) = fs::canonicalize(path) {
        return Some(whole);
    }
    let absolute = std::path::absolute(path).ok()?;
    // A link to a file that does not exist yet.
    if let Ok(target) = fs::read_link(&absolute) {
        let target = absolute.parent()?.join(target);
        return Some(
            fs::canonicalize(target.parent()?)
                .ok()?
                .join(target.file_name()?),
        );
    }
    Some(
        fs::canonicalize(absolute.parent()?)
            .ok()?
            .join(absolute.file_name()?),
    )
}

/// A file as memory, read only. An empty file maps to an empty slice.
#[derive(Debug)]
pub struct Mapping {
    map: Option<Mmap>,
}

impl Mapping {
    /// Maps the whole file as it is now.
    pub fn new(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: the slice is only sound while nobody shortens or rewrites the file. Files of the
        // run folder are guarded by its lock and only ever appended to. The user's input is not
        // ours to guard: `Input::changed` detects a change, and a file cut short ends the process
        // by SIGBUS, which a rerun resumes from.
        let map = unsafe { Mmap::map(file)? };
        Ok(Self { map: Some(map) })
    }

    /// Lets go of the pages that hold these bytes; they are read again when touched.
    pub fn release(&self, range: Range<usize>) {
        let Some(map) = &self.map else { return };
        let range = range.start.min(map.len())..range.end.min(map.len());
        if !range.is_empty() {
            platform::release(map, range);
        }
    }

    /// Lets go of every page.
    pub fn release_all(&self) {
        self.release(0..self.len());
    }
}

impl std::ops::Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

/// A private file of the run folder as memory for writing: file-backed, so that the kernel may
/// write pages out instead of holding them.
#[derive(Debug)]
pub struct MappingMut {
    map: MmapMut,
}

impl MappingMut {
    /// Maps the whole file, which is not empty.
    pub fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the file was created by this process in its locked run folder; nobody else has it.
        let map = unsafe { MmapMut::map_mut(file)? };
        Ok(Self { map })
    }

    /// Lets go of every page; what was written stays in the file.
    pub fn release_all(&self) {
        platform::release_mut(&self.map);
    }
}

impl std::ops::Deref for MappingMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl std::ops::DerefMut for MappingMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserving_keeps_the_size_and_allocating_sets_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = create_private(&folder.path().join("a")).expect("a new file");
        match reserve(&file, 0, 100_000) {
            Ok(()) => assert_eq!(file.metadata().expect("metadata").len(), 0),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
        }
        allocate(&file, 100_000).expect("space");
        let mut map = MappingMut::new(&file).expect("a mapping");
        assert_eq!(map.len(), 100_000);
        map[99_999] = 7;
        map.release_all();
        assert_eq!((map[0], map[99_999]), (0, 7));
        let read = Mapping::new(&file).expect("a mapping");
        assert_eq!((read.len(), read[99_999]), (100_000, 7));
        read.release_all();
        assert_eq!(read[99_999], 7);
    }

    #[test]
    fn what_is_free_is_known_of_folders_that_exist() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(free_bytes(folder.path()).is_some_and(|free| free > 0));
        assert!(free_bytes(Path::new("")).is_some());
        assert_eq!(free_bytes(&folder.path().join("missing")), None);
    }

    #[test]
    fn an_empty_file_maps_to_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = create_private(&folder.path().join("a")).expect("a new file");
        let map = Mapping::new(&file).expect("a mapping");
        map.release_all();
        assert_eq!(&*map, b"");
    }

    #[test]
    #[cfg(unix)]
    fn private_means_the_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (inner, file) = (folder.path().join("inner"), folder.path().join("file"));
        create_private_folder(&inner).expect("a new folder");
        create_private(&file).expect("a new file");
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!((mode(&inner), mode(&file)), (0o700, 0o600));
        assert_eq!(
            create_private(&file).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
    }

    #[test]
    #[cfg(unix)]
    fn one_file_under_several_names() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a"), "x").expect("a file");
        fs::write(at("b"), "x").expect("a file");
        fs::hard_link(at("a"), at("hard")).expect("a hard link");
        std::os::unix::fs::symlink("a", at("soft")).expect("a link");
        std::os::unix::fs::symlink("missing", at("dangling")).expect("a link");
        fs::create_dir(at("sub")).expect("a folder");
        let check = |one: &str, other: &str, same: bool| {
            assert_eq!(same_file(&at(one), &at(other)), same, "{one} {other}");
            assert_eq!(same_file(&at(other), &at(one)), same, "{other} {one}");
        };
        check("a", "a", true);
        check("a", "b", false);
        check("a", "hard", true);
        check("soft", "hard", true);
        check("missing", "sub/../missing", true);
        check("missing", "dangling", true);
        check("missing", "other", false);
        check("missing", "a", false);
    }
}
