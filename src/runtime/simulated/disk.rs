//! The disk of a simulated world: real files, over which operations fail, and of which a power loss
//! takes what was not synced.
//!
//! A killed process's operations have no effect. A write may also never reach the disk, though nobody says so:
//! then the file holds it, as long as the page cache does, and the disk does not. Of a power loss the model is that of a journalling
//! file system: changes of names come back in their order, up to any of them after the last sync of a
//! folder; the content of a file is what was synced, and of every later write any of its sectors, which
//! are written whole or not at all.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::world::World;
use crate::runtime::files::disk::identity;
use crate::runtime::files::operation::Operation;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// What goes wrong with the files of one process.
#[derive(Clone, Debug, Default)]
pub struct DiskTrouble {
    /// It is killed at this operation, counted from its start.
    pub kill_at: Option<u64>,
    /// There is no space from this operation on, for so many of them.
    pub full: Option<(u64, u64)>,
    /// This operation fails.
    pub fails_at: Option<u64>,
    /// Space cannot be reserved.
    pub cannot_reserve: bool,
    /// Chance that a write takes only a part.
    pub short_writes: f64,
    /// Chance that a write to a segment or a final file never reaches the disk, and no sync says so. And a
    /// sync that fails has lost what it was to sync, of whichever file: the next one succeeds without.
    pub loses: f64,
}

/// See the module.
#[derive(Default)]
pub struct Disk {
    trouble: RefCell<DiskTrouble>,
    operations: Cell<u64>,
    faults: Cell<u64>,
    /// By file: up to where space is promised.
    reserved: RefCell<BTreeMap<u64, u64>>,
    /// The names that were removed since the process began.
    removed: RefCell<Vec<PathBuf>>,
    /// Kept if power may be lost.
    durable: RefCell<Option<Durable>>,
}

/// What of the disk a power loss leaves.
#[derive(Default)]
struct Durable {
    files: BTreeMap<u64, Content>,
    names: BTreeMap<PathBuf, Name>,
    changes: Vec<NameChange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Folder,
    File(u64),
}

#[derive(Clone, Default)]
struct Content {
    synced: Vec<u8>,
    changes: Vec<Change>,
    /// A segment or a final file, by the name that it was made under.
    holds_records: bool,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Clone)]
enum NameChange {
    Add(PathBuf, Name),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameChange {
    fn touches(&self, folder: &Path) -> bool {
        let (one, other) = match self {
            Self::Add(path, _) | Self::Remove(path) => (path, path),
            Self::Rename(from, to) => (from, to),
        };
        one.parent() == Some(folder) || other.parent() == Some(folder)
    }

    /// Whether it decides what the path names.
    fn gives(&self, path: &Path) -> bool {
        let (Self::Add(given, _) | Self::Remove(given) | Self::Rename(_, given)) = self;
        given == path
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, Name>) {
        match self {
            Self::Add(path, name) => {
                names.insert(path, name);
            }
            Self::Rename(from, to) => {
                if let Some(name) = names.remove(&from) {
                    names.insert(to, name);
                }
            }
            Self::Remove(path) => {
                names.remove(&path);
            }
        }
    }
}

impl Change {
    /// Makes the change to `bytes`.
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, written) => {
                let start = *offset as usize;
                let end = start + written.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[start..end].copy_from_slice(written);
            }
            Self::Length(length) => bytes.resize(*length as usize, 0),
        }
    }

    /// What a power loss leaves of it.
    fn torn(self, world: &World) -> Vec<Self> {
        let survives = world.random(|random| random.u32(0..3));
        match self {
            Self::Write(offset, bytes) => {
                let mut kept = Vec::new();
                let mut start = 0;
                while start < bytes.len() {
                    let at = offset + start as u64;
                    let sector = (SECTOR_BYTES - at % SECTOR_BYTES) as usize;
                    let end = bytes.len().min(start + sector);
                    if survives == 0 || survives == 1 && world.chance(0.5) {
                        kept.push(Self::Write(at, bytes[start..end].to_vec()));
                    }
                    start = end;
                }
                kept
            }
            Self::Length(_) => match survives {
                0 => vec![self],
                _ => Vec::new(),
            },
        }
    }
}

impl Disk {
    /// Another process begins, and this is what it meets.
    pub fn begin(&self, trouble: DiskTrouble) {
        *self.trouble.borrow_mut() = trouble;
        self.operations.set(0);
        self.faults.set(0);
        self.reserved.borrow_mut().clear();
        self.removed.borrow_mut().clear();
    }

    /// Whether the process removed a file of this name.
    pub fn has_removed(&self, path: &Path) -> bool {
        self.removed.borrow().iter().any(|removed| removed == path)
    }

    /// From now on it remembers what a power loss would take.
    pub fn remember(&self) {
        *self.durable.borrow_mut() = Some(Durable::default());
    }

    /// A file that was there before the first process is durable.
    pub fn adopt(&self, path: &Path) {
        let file = File::open(path).ok().and_then(|file| identity(&file));
        if let (Some(durable), Some(file)) = (&mut *self.durable.borrow_mut(), file) {
            let synced = fs::read(path).expect("a file is read");
            let content = Content {
                synced,
                ..Content::default()
            };
            durable.files.insert(file, content);
            durable.names.insert(path.into(), Name::File(file));
        }
    }

    /// What the disk holds of a file whose content is synced; `None` if it is not remembered.
    pub(in crate::runtime) fn content(&self, file: &File) -> Option<Vec<u8>> {
        let durable = self.durable.borrow();
        let content = durable.as_ref()?.files.get(&identity(file)?)?;
        Some(content.synced.clone())
    }

    /// Whether a power loss may bring back what was under this name before.
    pub fn is_unsettled(&self, path: &Path) -> bool {
        let durable = self.durable.borrow();
        let mut changes = durable.iter().flat_map(|durable| &durable.changes);
        changes.any(|change| change.gives(path))
    }

    /// Operations that failed since the process began.
    pub fn faults(&self) -> u64 {
        self.faults.get()
    }

    /// How many of `length` bytes a write takes.
    pub(in crate::runtime) fn taken(&self, world: &World, length: usize) -> usize {
        let sector = SECTOR_BYTES as usize;
        match length > sector && world.chance(self.trouble.borrow().short_writes) {
            true => world.random(|random| random.usize(sector..length)),
            false => length,
        }
    }

    pub(in crate::runtime) fn perform<T>(
        &self,
        world: &World,
        operation: Operation<'_>,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let dead = || Err(io::Error::other("the process was killed"));
        if world.is_killed() {
            return dead();
        }
        let number = self.operations.get();
        self.operations.set(number + 1);
        world.event("disk", number, || describe(&operation));
        let trouble = self.trouble.borrow().clone();
        let is_killed = trouble.kill_at == Some(number);
        if is_killed && world.chance(0.5) {
            world.kill();
            return dead();
        }
        if let Err(error) = self.fault(&trouble, number, &operation) {
            self.faults.set(self.faults.get() + 1);
            world.event("disk fault", number, || error.to_string());
            if trouble.loses > 0.0 {
                self.lose(&operation);
            }
            return Err(error);
        }
        // What is renamed or removed is known by its name before, what is created only after.
        let result = act();
        if result.is_ok() {
            let is_lost = matches!(operation, Operation::Write(file, ..) if self.holds_records(file))
                && world.chance(trouble.loses);
            match is_lost {
                true => {
                    self.faults.set(self.faults.get() + 1);
                    world.event("never written out", number, String::new);
                }
                false => self.note(&operation),
            }
        }
        if is_killed {
            world.kill();
            return dead();
        }
        result
    }

    fn holds_records(&self, file: &File) -> bool {
        let durable = self.durable.borrow();
        let files = durable.as_ref().map(|durable| &durable.files);
        let content = files.zip(identity(file));
        content.is_some_and(|(files, file)| files.get(&file).is_some_and(|file| file.holds_records))
    }

    /// A sync failed: what it was to sync is gone.
    fn lose(&self, operation: &Operation<'_>) {
        if let Operation::Sync(file) = operation
            && let Some(durable) = &mut *self.durable.borrow_mut()
            && let Some(content) = durable.content(file)
        {
            content.changes.clear();
        }
    }

    /// Whether this operation fails.
    fn fault(
        &self,
        trouble: &DiskTrouble,
        number: u64,
        operation: &Operation<'_>,
    ) -> io::Result<()> {
        if let Operation::Reserve(..) = operation
            && trouble.cannot_reserve
        {
            // No fault, but how some file systems are.
            return Err(io::ErrorKind::Unsupported.into());
        }
        if trouble.fails_at == Some(number) {
            return Err(io::Error::other("a simulated disk failed"));
        }
        let is_full = trouble
            .full
            .is_some_and(|(from, count)| (from..from.saturating_add(count)).contains(&number));
        if is_full && self.takes_space(operation) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Whether the operation needs space that is not promised to it.
    fn takes_space(&self, operation: &Operation<'_>) -> bool {
        let promised = |file: &File| {
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            let reserved = self.reserved.borrow();
            let reserved = identity(file).and_then(|file| reserved.get(&file).copied());
            length.max(reserved.unwrap_or(0))
        };
        match operation {
            Operation::Create(path) => !path.exists(),
            Operation::Link(..) => true,
            Operation::CreateFolder(_) => true,
            Operation::Write(file, offset, bytes) => offset + bytes.len() as u64 > promised(file),
            Operation::Reserve(file, offset, length) => offset + length > promised(file),
            _ => false,
        }
    }

    /// Remembers an operation that was performed.
    fn note(&self, operation: &Operation<'_>) {
        if let Operation::Reserve(file, offset, length) = operation
            && let Some(file) = identity(file)
        {
            let mut reserved = self.reserved.borrow_mut();
            let until = reserved.entry(file).or_default();
            *until = (*until).max(offset + length);
        }
        if let Operation::Remove(path) = operation {
            self.removed.borrow_mut().push(path.to_path_buf());
        }
        if let Operation::SetLength(file, length) = operation
            && let Some(file) = identity(file)
        {
            self.reserved.borrow_mut().insert(file, *length);
        }
        if let Some(durable) = &mut *self.durable.borrow_mut() {
            durable.note(operation);
        }
    }

    /// Power is lost after the process was killed: what the folder holds is what survives.
    pub fn lose_power(&self, world: &World, folder: &Path, keep: &Path) {
        let mut durable = self.durable.borrow_mut();
        let Some(durable) = &mut *durable else {
            return;
        };
        let survive = world.random(|random| random.usize(0..=durable.changes.len()));
        world.event("power is lost", survive as u64, || {
            format!("of {} changes of names", durable.changes.len())
        });
        let changes = std::mem::take(&mut durable.changes);
        for change in changes.into_iter().take(survive) {
            change.apply(&mut durable.names);
        }
        for content in durable.files.values_mut() {
            for change in std::mem::take(&mut content.changes) {
                for torn in change.torn(world) {
                    torn.apply(&mut content.synced);
                }
            }
        }
        durable.restore(folder, keep);
    }
}

impl Durable {
    fn note(&mut self, operation: &Operation<'_>) {
        match *operation {
            Operation::Create(path) => {
                let file = File::open(path).ok().and_then(|file| identity(&file));
                let Some(file) = file else { return };
                if self.name_now(path) != Some(Name::File(file)) {
                    let name = Name::File(file);
                    self.changes.push(NameChange::Add(path.into(), name));
                    let extension = path.extension().unwrap_or_default();
                    let content = Content {
                        holds_records: extension == "seg" || extension == "merged",
                        ..Content::default()
                    };
                    self.files.insert(file, content);
                }
            }
            Operation::CreateFolder(path) => {
                let change = NameChange::Add(path.into(), Name::Folder);
                self.changes.push(change);
            }
            Operation::Write(file, offset, bytes) => {
                self.change(file, Change::Write(offset, bytes.to_vec()));
            }
            Operation::SetLength(file, length) => self.change(file, Change::Length(length)),
            Operation::Sync(file) => {
                if let Some(content) = self.content(file) {
                    for change in std::mem::take(&mut content.changes) {
                        change.apply(&mut content.synced);
                    }
                }
            }
            Operation::SyncDirectory(folder) => {
                let last = self
                    .changes
                    .iter()
                    .rposition(|change| change.touches(folder));
                let settled = last.map_or(0, |last| last + 1);
                for change in self.changes.drain(..settled) {
                    change.apply(&mut self.names);
                }
            }
            Operation::Rename(from, to) => {
                let change = NameChange::Rename(from.into(), to.into());
                self.changes.push(change);
            }
            Operation::Link(file, path) => {
                if let Some(name) = self.name_now(file) {
                    self.changes.push(NameChange::Add(path.into(), name));
                }
            }
            Operation::Remove(path) | Operation::RemoveFolder(path) => {
                self.changes.push(NameChange::Remove(path.into()));
            }
            Operation::Reserve(..) | Operation::SetPermissions => {}
        }
    }

    /// What a path names, changes that are not durable included.
    fn name_now(&self, path: &Path) -> Option<Name> {
        let mut names = self.names.clone();
        for change in self.changes.iter().cloned() {
            change.apply(&mut names);
        }
        names.get(path).copied()
    }

    fn content(&mut self, file: &File) -> Option<&mut Content> {
        self.files.get_mut(&identity(file)?)
    }

    fn change(&mut self, file: &File, change: Change) {
        if let Some(content) = self.content(file) {
            content.changes.push(change);
        }
    }

    /// Makes the folder hold what is durable, and `keep`.
    fn restore(&mut self, folder: &Path, keep: &Path) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path == keep {
            } else if path.is_dir() {
                fs::remove_dir_all(&path).expect("a folder goes");
            } else {
                fs::remove_file(&path).expect("a file goes");
            }
        }
        let mut files = BTreeMap::new();
        // By what a file was, its first name now.
        let mut named = BTreeMap::<u64, PathBuf>::new();
        for (path, name) in &mut self.names {
            if let Name::File(number) = name {
                // A folder that did not survive takes its files with it.
                if !path.parent().is_some_and(Path::is_dir) {
                    continue;
                }
                match named.get(number) {
                    Some(first) => fs::hard_link(first, path).expect("a second name comes back"),
                    None => {
                        let content = self.files.get(number).cloned().unwrap_or_default();
                        fs::write(path, content.synced).expect("a file comes back");
                        named.insert(*number, path.clone());
                    }
                }
                let file = File::open(path).expect("a file is there");
                let content = self.files.get(number).cloned().unwrap_or_default();
                *number = identity(&file).unwrap_or(*number);
                files.insert(*number, content);
            } else {
                fs::create_dir(path.as_path()).expect("a folder comes back");
            }
        }
        self.names.retain(|path, _| path.exists());
        self.files = files;
    }
}

fn describe(operation: &Operation<'_>) -> String {
    let name = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    match operation {
        Operation::Create(path) => format!("create {}", name(path)),
        Operation::CreateFolder(path) => format!("create folder {}", name(path)),
        Operation::Write(_, offset, bytes) => format!("write {} at {offset}", bytes.len()),
        Operation::Reserve(_, offset, length) => format!("reserve {length} at {offset}"),
        Operation::SetLength(_, length) => format!("set length {length}"),
        Operation::SetPermissions => "set permissions".to_owned(),
        Operation::Sync(_) => "sync".to_owned(),
        Operation::SyncDirectory(path) => format!("sync folder {}", name(path)),
        Operation::Rename(from, to) => format!("rename {} to {}", name(from), name(to)),
        Operation::Link(file, path) => format!("link {} as {}", name(file), name(path)),
        Operation::Remove(path) => format!("remove {}", name(path)),
        Operation::RemoveFolder(path) => format!("remove folder {}", name(path)),
    }
}
