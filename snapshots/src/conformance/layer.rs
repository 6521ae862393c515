//! A layer in the making, for tests: whatever an archive can say, true or not.

/// An archive being written, entry by entry.
#[derive(Debug, Default, Clone)]
pub struct Layer(Vec<u8>);

/// One header, field by field. Nothing is checked: that is the reader's part.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The letter of its kind.
    pub kind: u8,
    /// Its name, cut at 100 bytes.
    pub name: Vec<u8>,
    /// Target of a link, cut at 100 bytes.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Seconds since the epoch.
    pub mtime: u64,
    /// What the size field says; the data's length if none.
    pub size: Option<u64>,
    /// Major and minor number.
    pub device: (u32, u32),
    /// Data that follows, padded.
    pub data: Vec<u8>,
}

impl Entry {
    /// A plain entry of a kind.
    pub fn new(kind: u8, name: &str) -> Self {
        Entry {
            kind,
            name: name.as_bytes().to_vec(),
            link: Vec::new(),
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            owner: (0, 0),
            mtime: 1_000_000_000,
            size: None,
            device: (0, 0),
            data: Vec::new(),
        }
    }
}

impl Layer {
    /// An empty archive.
    pub fn new() -> Self {
        Layer::default()
    }

    /// Adds an entry as it is.
    #[must_use]
    pub fn entry(mut self, entry: &Entry) -> Self {
        let mut block = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &entry.name[..entry.name.len().min(100)]);
        put(100, format!("{:07o}\0", entry.mode).as_bytes());
        put(108, format!("{:07o}\0", entry.owner.0).as_bytes());
        put(116, format!("{:07o}\0", entry.owner.1).as_bytes());
        put(124, format!("{:011o}\0", entry.size.unwrap_or(entry.data.len() as u64)).as_bytes());
        put(136, format!("{:011o}\0", entry.mtime).as_bytes());
        put(148, b"        ");
        put(156, &[entry.kind]);
        put(157, &entry.link[..entry.link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}\0", entry.device.0).as_bytes());
        put(337, format!("{:07o}\0", entry.device.1).as_bytes());
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(&entry.data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Adds a folder.
    #[must_use]
    pub fn folder(self, name: &str, mode: u32) -> Self {
        self.entry(&Entry { mode, ..Entry::new(b'5', name) })
    }

    /// Adds a file.
    #[must_use]
    pub fn file(self, name: &str, data: impl AsRef<[u8]>) -> Self {
        self.entry(&Entry { data: data.as_ref().to_vec(), ..Entry::new(b'0', name) })
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(&Entry { link: target.as_bytes().to_vec(), mode: 0o777, ..Entry::new(b'2', name) })
    }

    /// Adds a hard link.
    #[must_use]
    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(&Entry { link: target.as_bytes().to_vec(), ..Entry::new(b'1', name) })
    }

    /// Adds a pax header for the next entry.
    #[must_use]
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            // The length counts its own digits.
            let len = (1..).map(|digits| rest + digits).find(|l| l.to_string().len() + rest == *l).unwrap_or(rest);
            data.extend_from_slice(format!("{len} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.entry(&Entry { data, ..Entry::new(b'x', "pax") })
    }

    /// Adds bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The archive, ended as it should be.
    pub fn bytes(&self) -> Vec<u8> {
        [self.0.as_slice(), &[0; 1024]].concat()
    }

    /// The archive without its end.
    pub fn unended(&self) -> Vec<u8> {
        self.0.clone()
    }
}
