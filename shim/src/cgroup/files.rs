//! Reading the kernel's cgroup files. What is missing or odd counts as nothing: kernels differ in what they count.

use std::{collections::HashMap, fs, path::Path};

/// The lines `key value` of a file.
pub fn flat(path: &Path) -> HashMap<String, u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_string(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// A file with one number in it; `max` is the largest there is.
pub fn number(path: &Path) -> u64 {
    match fs::read_to_string(path).unwrap_or_default().trim() {
        "max" => u64::MAX,
        text => text.parse().unwrap_or_default(),
    }
}

/// A device's `major:minor`.
pub fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keys_and_devices() {
        let dir = tempfile::tempdir().unwrap();
        let file = |text: &str| {
            let path = dir.path().join("f");
            fs::write(&path, text).unwrap();
            path
        };
        assert_eq!(number(&file("17\n")), 17);
        assert_eq!(number(&file("max\n")), u64::MAX);
        assert_eq!(number(&dir.path().join("none")), 0);
        let flat = flat(&file("a 1\nb 2\nodd\nc x\n"));
        assert_eq!((flat.get("a"), flat.get("b"), flat.len()), (Some(&1), Some(&2), 2));
        assert_eq!(device("8:16"), Some((8, 16)));
        assert_eq!(device("Total"), None);
    }
}
