//! The cases. Each has a fresh snapshotter.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test suite: it reports by panicking")]

pub(super) mod bench;
mod merging;
mod snapshots;

use bench::Bench;

type Case = (&'static str, fn(&mut Bench<'_>));

/// All cases, by name.
pub(super) const ALL: &[Case] = &[
    ("chain", merging::chain),
    ("view", snapshots::view),
    ("writable", snapshots::writable),
    ("children", snapshots::children),
    ("keys", snapshots::keys),
    ("hostile_keys", snapshots::hostile_keys),
    ("stat_and_walk", snapshots::stat_and_walk),
    ("usage", snapshots::usage),
    ("commit_parent", snapshots::commit_parent),
    ("whiteouts", merging::whiteouts),
    ("opaque", merging::opaque),
    ("opaque_root", merging::opaque_root),
    ("whiteout_order", merging::whiteout_order),
    ("undescribed_folders", merging::undescribed_folders),
    ("root_folder", merging::root_folder),
    ("many_layers", merging::many_layers),
    ("parallel", snapshots::parallel),
    ("reopen", snapshots::reopen),
    ("detached", snapshots::detached),
    ("out_of_reach", snapshots::out_of_reach),
];
