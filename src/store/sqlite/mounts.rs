//! Detects folders on a network file system, where SQLite's locks and syncs are not reliable
//! (<https://www.sqlite.org/useovernet.html>).

use std::path::{Path, PathBuf};

/// File system types, as the kernel names them, that keep files on another machine.
const NETWORK_TYPES: &[&str] = &[
    "nfs",
    "nfs4",
    "cifs",
    "smb2",
    "smb3",
    "smbfs",
    "ncpfs",
    "9p",
    "afs",
    "coda",
    "ceph",
    "lustre",
    "gpfs",
    "beegfs",
    "glusterfs",
    "fuse.glusterfs",
    "fuse.ceph",
    "fuse.sshfs",
    "fuse.s3fs",
    "fuse.rclone",
    "fuse.juicefs",
    "fuse.davfs",
];

/// The type of the network file system that holds a folder. `None` for a local file system, and on systems without
/// `/proc/self/mountinfo`. The folder need not exist yet.
pub fn network_type(folder: &Path) -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let existing = folder.ancestors().find_map(|folder| {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        folder.canonicalize().ok()
    })?;
    type_of(&text, &existing).filter(|kind| NETWORK_TYPES.contains(&kind.as_str()))
}

/// The type of the file system that holds a path. The longest mount point that contains the path decides. If several file
/// systems are mounted at the same place, the last one decides.
fn type_of(mounts: &str, path: &Path) -> Option<String> {
    // `36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/sda rw`; see proc_pid_mountinfo(5).
    let mounts = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        Some((unescaped(left.split(' ').nth(4)?), right.split(' ').next()?))
    });
    mounts
        .filter(|(point, _)| path.starts_with(point))
        .max_by_key(|(point, _)| point.components().count())
        .map(|(_, kind)| kind.to_owned())
}

/// Decodes a mount point: the kernel writes a space, tab, line feed or backslash as `\` and three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let replaced = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    replaced.into_iter().fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:40 / /srv/share rw,relatime shared:20 - nfs4 server:/share rw,vers=4.2
31 30 254:1 / /srv/share/local rw - xfs /dev/vdb rw
32 22 0:41 / /mnt/my\\040disk rw - cifs //server/disk rw
33 22 0:42 / /over rw - nfs server:/a rw
34 22 0:43 / /over rw - tmpfs tmpfs rw
";

    #[test]
    fn the_innermost_mount_decides() {
        let of = |path: &str| type_of(MOUNTS, Path::new(path)).unwrap();
        assert_eq!(of("/var/lib/posthaste"), "ext4");
        assert_eq!(of("/srv/share"), "nfs4");
        assert_eq!(of("/srv/share/data"), "nfs4");
        assert_eq!(of("/srv/sharing"), "ext4");
        assert_eq!(of("/srv/share/local/data"), "xfs");
        assert_eq!(of("/mnt/my disk/data"), "cifs");
        assert_eq!(of("/over/data"), "tmpfs");
        assert_eq!(type_of("", Path::new("/")), None);
    }

    #[test]
    fn a_temporary_folder_is_local() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(network_type(&folder.path().join("to/be/made")), None);
    }
}
