//! Suites that drive the built binaries.
