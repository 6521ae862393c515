//! (to come)

pub mod alpha;
pub mod authority;
