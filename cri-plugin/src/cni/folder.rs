//! The folder of network configurations: which file counts, and what is in it.
//!
//! The first file by name decides, as with containerd (`max_conf_num = 1`). If it is broken, the next one is not taken
//! instead: pods would silently land in another network.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::conf::Network;

/// No network is described by more.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The network of the first `*.conflist`, `*.conf` or `*.json` by name. Blocks.
///
/// # Errors
/// The message for NetworkReady, with the folder or the file.
pub(super) fn load(dir: &Path) -> Result<Network, String> {
    let file = first(dir)?;
    let text = read(&file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
    let value: Value = serde_json::from_slice(&text).map_err(|e| format!("{} is not JSON: {e}", file.display()))?;
    let network =
        if file.extension().is_some_and(|e| e == "conflist") { Network::from_list } else { Network::from_plugin };
    network(value).map_err(|why| format!("{}: {why}", file.display()))
}

fn first(dir: &Path) -> Result<PathBuf, String> {
    let none = || format!("no *.conflist, *.conf or *.json in {}", dir.display());
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(format!("{}: there is no such folder", none())),
        Err(e) => return Err(format!("cannot read {}: {e}", dir.display())),
    };
    let counts = |path: &PathBuf| {
        let named = path.extension().is_some_and(|e| e == "conflist" || e == "conf" || e == "json");
        named && !path.is_dir()
    };
    entries.flatten().map(|entry| entry.path()).filter(counts).min().ok_or_else(none)
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(file)?;
    // A fifo would block, a device would never end.
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(name: &str) -> String {
        format!(r#"{{"name": "{name}", "cniVersion": "0.4.0", "type": "bridge"}}"#)
    }

    #[test]
    fn the_first_file_by_name_decides() {
        let dir = tempfile::tempdir().expect("tempdir");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("write");
        assert!(load(&dir.path().join("absent")).expect_err("absent").contains("absent"));
        assert!(load(dir.path()).expect_err("empty").contains("no *.conflist"));
        write("00-readme.txt", "not this");
        std::fs::create_dir(dir.path().join("05.conf")).expect("a folder is not a file");
        write("20.conf", &plugin("twenty"));
        write("30.json", &plugin("thirty"));
        assert_eq!(load(dir.path()).expect("20.conf").name(), "twenty");
        write("10.conflist", r#"{"name": "ten", "plugins": [{"type": "bridge"}]}"#);
        assert_eq!(load(dir.path()).expect("10.conflist").name(), "ten");
        write("10.conflist", "{");
        assert!(load(dir.path()).expect_err("broken").contains("10.conflist"));
    }

    #[test]
    fn hostile_files_are_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("10.conf");
        std::fs::write(&file, vec![b' '; (MAX_FILE_BYTES + 1) as usize]).expect("write");
        assert!(load(dir.path()).expect_err("large").contains("1 MiB"));
        std::fs::write(&file, "[".repeat(100_000)).expect("write");
        assert!(load(dir.path()).expect_err("deep").contains("not JSON"));
        std::fs::remove_file(&file).expect("remove");
        std::os::unix::fs::symlink("/dev/zero", &file).expect("symlink");
        assert!(load(dir.path()).expect_err("device").contains("not a regular file"));
    }
}
