//! A disk that fails on demand, for a real server. It is the library `disk.c`, which is compiled here and which the server
//! loads with `LD_PRELOAD`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::Place;
use crate::support::process::{Process, Wrapping};

/// The path of the compiled library. The library is compiled once in a test run.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/disk.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&path).arg(source).status();
        assert!(built.is_ok_and(|status| status.success()), "disk.c needs a C compiler");
        (folder, path)
    });
    path
}

/// The disk under the data folder of a test.
pub struct Disk {
    folder: PathBuf,
    rules: PathBuf,
    synced: tempfile::TempDir,
    mounts: Option<PathBuf>,
}

impl Disk {
    pub fn new(place: &Place) -> Self {
        let synced = tempfile::tempdir().unwrap();
        let rules = synced.path().join("rules");
        std::fs::write(&rules, "").unwrap();
        Self { folder: place.folder.path().canonicalize().unwrap(), rules, synced, mounts: None }
    }

    /// Sets the text that the server reads as its list of mounted file systems.
    pub fn with_mounts(mut self, text: &str) -> Self {
        let path = self.synced.path().join("mountinfo");
        std::fs::write(&path, text).unwrap();
        self.mounts = Some(path);
        self
    }

    /// Makes calls fail from now on. See `disk.c` for the form of a rule.
    pub fn fail(&self, rules: &str) {
        // The file is renamed into place, so that no call reads an incomplete one.
        let next = self.rules.with_extension("next");
        std::fs::write(&next, format!("{rules}\n")).unwrap();
        std::fs::rename(next, &self.rules).unwrap();
    }

    /// Lets all calls succeed again.
    pub fn mend(&self) {
        self.fail("");
    }

    /// The words that run a command on this disk.
    pub fn wrapper(&self) -> Vec<String> {
        let mut words = vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", library().display()),
            format!("POSTHASTE_DISK_FOLDER={}", self.folder.display()),
            format!("POSTHASTE_DISK_RULES={}", self.rules.display()),
            format!("POSTHASTE_DISK_SYNCED={}", self.synced_folder().display()),
        ];
        words.extend(self.mounts.iter().map(|path| format!("POSTHASTE_DISK_MOUNTS={}", path.display())));
        words
    }

    /// Starts a server on this disk.
    pub async fn start(&self, place: &Place, arguments: &[&str]) -> Process {
        Process::start_wrapped(place, self.wrapping(arguments)).await
    }

    pub fn wrapping(&self, arguments: &[&str]) -> Wrapping {
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        Wrapping { command: self.wrapper(), arguments, ..Wrapping::default() }
    }

    /// Simulates a power loss: replaces the database files by their synced contents. The server must have ended before.
    pub fn lose_power(&self) {
        let folder = self.synced_folder();
        for suffix in ["", "-wal", "-shm", "-state"] {
            let name = format!("posthaste.db{suffix}");
            let (kept, file) = (folder.join(&name), self.folder.join(&name));
            drop(std::fs::remove_file(&file));
            if suffix != "-shm" && kept.exists() {
                std::fs::copy(kept, file).unwrap();
            }
        }
    }

    fn synced_folder(&self) -> PathBuf {
        let folder = self.synced.path().join("synced");
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }
}
