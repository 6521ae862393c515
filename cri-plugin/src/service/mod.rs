//! (to come)

pub mod alpha;
