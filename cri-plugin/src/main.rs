//! `cleatd`.

fn main() {}
