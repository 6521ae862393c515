//! `cleat-bench`: the same load on several CRI runtimes in one run, through one gRPC client.
//!
//! It measures, prints and exits; it judges nothing, so it is no test. `hack/bench` brings the runtimes up and calls it
//! with a JSON file that names them; the first one is what the others are compared with. Peers take turns within a
//! run, so that a machine whose speed drifts drifts under all of them.

mod load;
mod memory;
mod report;
mod target;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::load::Samples;
use crate::report::Report;
use crate::target::Target;

/// How much load, from the command line.
struct Plan {
    targets: PathBuf,
    serial: usize,
    parallel: usize,
    idle: usize,
    recover: usize,
}

fn plan() -> Result<Plan> {
    let mut plan = Plan { targets: PathBuf::new(), serial: 30, parallel: 50, idle: 20, recover: 50 };
    for arg in std::env::args().skip(1) {
        match arg.split_once('=') {
            Some(("--targets", path)) => plan.targets = path.into(),
            Some(("--serial", n)) => plan.serial = n.parse()?,
            Some(("--parallel", n)) => plan.parallel = n.parse()?,
            Some(("--idle", n)) => plan.idle = n.parse()?,
            Some(("--recover", n)) => plan.recover = n.parse()?,
            _ => bail!("{arg}: want --targets=FILE and maybe --serial=N --parallel=N --idle=N --recover=N"),
        }
    }
    Ok(plan)
}

#[tokio::main]
async fn main() -> Result<()> {
    let plan = plan()?;
    let text = std::fs::read(&plan.targets).with_context(|| format!("read {}", plan.targets.display()))?;
    let targets: Vec<Target> = target::parse(&text)?;
    let mut report = Report::new(&targets);

    let mut samples: Vec<Samples> = targets.iter().map(|_| Samples::default()).collect();
    for round in 0..plan.serial {
        for (target, samples) in targets.iter().zip(&mut samples) {
            progress(&format!("serial {}/{} {}", round + 1, plan.serial, target.name));
            load::lifecycle(target, round, samples).await.with_context(|| target.name.clone())?;
        }
    }
    report.operations(&samples);

    for (column, target) in targets.iter().enumerate() {
        progress(&format!("{} pods, 10 at once, on {}", plan.parallel, target.name));
        report.rate(column, load::rate(target, plan.parallel, 10).await.with_context(|| target.name.clone())?);
    }
    for (column, target) in targets.iter().enumerate() {
        progress(&format!("memory of {} idle pods on {}", plan.idle, target.name));
        report.memory(column, memory::per_pod(target, plan.idle).await.with_context(|| target.name.clone())?);
    }
    for (column, target) in targets.iter().enumerate().filter(|(_, t)| !t.restart.is_empty()) {
        progress(&format!("kill -9 of {} under {} pods", target.name, plan.recover));
        report.recovery(column, load::recovery(target, plan.recover).await.with_context(|| target.name.clone())?);
    }
    progress("");
    print!("{report}");
    Ok(())
}

/// One line on stderr that the next one replaces.
fn progress(what: &str) {
    eprint!("\r\x1b[K{what}");
}
