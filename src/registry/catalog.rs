//! The catalog: which model files there are. Reads folders and sizes, and no more than a magic
//! number of each file; whatever else is wrong with one is found when it is opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::base::limits::{CATALOG_MAX, SCAN_DEPTH};
use crate::base::name::{model_id, part_name, split_part};

/// Identity and state of a file: another one, or a changed one, has another stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self { device: meta.dev(), inode: meta.ino(), size: meta.size(), mtime: (meta.mtime(), meta.mtime_nsec()) }
    }
}

/// A model file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The (first) file.
    pub path: PathBuf,
    /// Id by its name; not yet told apart from others of the same name.
    pub id: String,
    /// Bytes of all parts.
    pub bytes: u64,
    /// Of the first part.
    pub stamp: Stamp,
    /// What is wrong with it, as far as that is seen from outside.
    pub problem: Option<String>,
}

/// What a scan gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Model files: folders in the order given, names sorted.
    pub found: Vec<Found>,
    /// Folders that could not be read, with the reason.
    pub problems: Vec<String>,
}

/// Looks through `dirs` for model files.
pub fn scan(dirs: &[PathBuf]) -> Scan {
    let mut scan = Scan::default();
    for dir in dirs {
        walk(dir, 0, &mut scan);
    }
    scan
}

/// Looks at one file.
///
/// # Errors
/// The system's, if it cannot be looked at, or is no file.
pub fn look(path: &Path) -> std::io::Result<Found> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a file"));
    }
    let mut bytes = meta.size();
    let mut problem = None;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if let Some((base, no, count)) = split_part(&stem) {
        if no != 1 {
            problem = Some(format!("part {no} of {count}: load part 1, the others are found beside it"));
        } else {
            for i in 2..=count {
                let part = path.with_file_name(format!("{}.gguf", part_name(base, i, count)));
                match fs::metadata(&part) {
                    Ok(m) => bytes += m.size(),
                    Err(_) => {
                        problem = Some(format!("part {i} of {count} is missing ({})", part.display()));
                        break;
                    }
                }
            }
        }
    }
    let problem = problem.or_else(|| magic(path).err());
    Ok(Found { path: path.to_owned(), id: model_id(path), bytes, stamp: Stamp::of(&meta), problem })
}

/// Looks at descriptors that were passed, first part first.
///
/// # Errors
/// The system's; no descriptor at all.
pub fn passed(files: &[(fs::File, String)]) -> std::io::Result<Found> {
    let Some((first, name)) = files.first() else {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "no file was passed"));
    };
    let mut bytes = 0;
    for (file, _) in files {
        bytes += file.metadata()?.size();
    }
    let path = PathBuf::from(name);
    Ok(Found { id: model_id(&path), path, bytes, stamp: Stamp::of(&first.metadata()?), problem: None })
}

fn magic(path: &Path) -> Result<(), String> {
    let mut start = [0u8; 4];
    match fs::File::open(path).and_then(|mut f| f.read_exact(&mut start)) {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err("not a GGUF file: it is empty or cut off".to_owned())
        }
        Err(e) => Err(format!("cannot be read: {e}")),
        Ok(()) if &start != b"GGUF" => {
            Err("not a GGUF file: it does not begin with `GGUF` (an unfinished download?)".to_owned())
        }
        Ok(()) => Ok(()),
    }
}

fn walk(dir: &Path, depth: usize, scan: &mut Scan) {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) => {
            scan.problems.push(format!("{}: {e}", dir.display()));
            return;
        }
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        if scan.found.len() >= CATALOG_MAX {
            scan.problems
                .push(format!("{}: more than {CATALOG_MAX} model files; the rest is not listed", dir.display()));
            return;
        }
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            if depth < SCAN_DEPTH {
                walk(&path, depth + 1, scan);
            }
        } else if is_model(&path)
            && let Ok(found) = look(&path)
        {
            scan.found.push(found);
        }
    }
}

/// `*.gguf`, and of a split model only the first part, unless that one is missing.
fn is_model(path: &Path) -> bool {
    if !path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        return false;
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match split_part(&stem) {
        Some((base, no, count)) if no > 1 => {
            let earlier = |i| path.with_file_name(format!("{}.gguf", part_name(base, i, count))).exists();
            !(1..no).any(earlier)
        }
        _ => true,
    }
}

/// Tells files of the same name apart: the first keeps the id, the others get `id@folder`, then
/// `id@folder@2` and so on. `known` are the ids of files that have one already. Gives the id of
/// each of `found`, and what was renamed, for people.
pub fn name_all(found: &[Found], known: &BTreeMap<PathBuf, String>) -> (Vec<String>, Vec<String>) {
    let mut used: BTreeSet<String> = known.values().cloned().collect();
    let mut renamed = Vec::new();
    let ids = found.iter().map(|f| {
        if let Some(id) = known.get(&f.path) {
            return id.clone();
        }
        let folder = f.path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        let other = |n: u32| if n == 1 { format!("{}@{folder}", f.id) } else { format!("{}@{folder}@{n}", f.id) };
        let mut id = f.id.clone();
        for n in 1.. {
            if used.insert(id.clone()) {
                break;
            }
            id = other(n);
        }
        if id != f.id {
            renamed.push(format!("{}: the name `{}` is taken, so this one is `{id}`", f.path.display(), f.id));
        }
        id
    });
    (ids.collect(), renamed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("has one")).expect("a folder");
        fs::write(&path, bytes).expect("a file");
        path
    }

    #[test]
    fn finds_models_joins_parts_and_says_what_is_wrong() {
        let dir = tempfile::tempdir().expect("a folder");
        let d = dir.path();
        write(d, "a.gguf", b"GGUF-rest");
        write(d, "sub/repo/b.GGUF", b"GGUF");
        write(d, "s-00001-of-00002.gguf", b"GGUF12345");
        write(d, "s-00002-of-00002.gguf", b"GGUF1");
        write(d, "t-00001-of-00002.gguf", b"GGUF");
        write(d, "u-00002-of-00002.gguf", b"GGUF");
        write(d, "half.gguf", b"\0\0\0\0\0");
        write(d, "empty.gguf", b"");
        write(d, "c.gguf.part", b"GGUF");
        write(d, ".hidden.gguf", b"GGUF");
        write(d, "1/2/3/4/deep.gguf", b"GGUF");
        let scan = scan(&[d.to_owned(), d.join("absent")]);
        let all: Vec<_> = scan.found.iter().map(|f| (f.id.as_str(), f.bytes, f.problem.is_some())).collect();
        assert_eq!(
            all,
            [
                ("a", 9, false),
                ("empty", 0, true),
                ("half", 5, true),
                ("s", 14, false),
                ("b", 4, false),
                ("t", 4, true),
                ("u", 4, true)
            ]
        );
        let problem = |id: &str| scan.found.iter().find(|f| f.id == id).and_then(|f| f.problem.clone()).expect("one");
        assert!(problem("t").starts_with("part 2 of 2 is missing"), "{}", problem("t"));
        assert!(problem("half").contains("does not begin with"), "{}", problem("half"));
        assert_eq!(scan.problems.len(), 1);
    }

    #[test]
    fn files_of_one_name_are_told_apart_for_good() {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["a/m.gguf", "b/m.gguf", "c/b/m.gguf"] {
            write(dir.path(), name, b"GGUF");
        }
        let found = scan(&[dir.path().to_owned()]).found;
        let (ids, renamed) = name_all(&found, &BTreeMap::new());
        assert_eq!(ids, ["m", "m@b", "m@b@2"]);
        assert_eq!(renamed.len(), 2);
        // The first one goes: the others keep their names.
        let known: BTreeMap<_, _> = found.iter().map(|f| f.path.clone()).zip(ids).skip(1).collect();
        let (ids, renamed) = name_all(&found[1..], &known);
        assert_eq!((ids, renamed), (vec!["m@b".to_owned(), "m@b@2".to_owned()], vec![]));
    }

    #[test]
    fn a_replaced_file_has_another_stamp() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = write(dir.path(), "a.gguf", b"GGUF1");
        let before = look(&path).expect("there").stamp;
        assert_eq!(look(&path).expect("there").stamp, before);
        let new = write(dir.path(), "new", b"GGUF1");
        fs::rename(new, &path).expect("renamed");
        assert_ne!(look(&path).expect("there").stamp, before);
    }
}
