//! The tables, in the form the README keeps them.

use std::fmt;
use std::time::Duration;

use crate::load::{OPERATIONS, Samples};
use crate::memory::Memory;
use crate::target::Target;

/// Rows of text, a column per target.
pub struct Report {
    names: Vec<String>,
    rows: Vec<(String, Vec<Option<f64>>, Better)>,
}

/// Which way a figure is good, for the ratio.
#[derive(Clone, Copy)]
enum Better {
    Less,
    More,
}

impl Report {
    /// An empty report over these targets; the first is what ratios divide by.
    pub fn new(targets: &[Target]) -> Self {
        Self { names: targets.iter().map(|t| t.name.clone()).collect(), rows: Vec::new() }
    }

    /// p50 and p99 of every operation.
    pub fn operations(&mut self, samples: &[Samples]) {
        for operation in OPERATIONS {
            for (label, q) in [("p50", 0.50), ("p99", 0.99)] {
                let values = samples.iter().map(|s| s.0.get(operation).map(|times| millis(quantile(times, q))));
                self.rows.push((format!("{operation} {label}, ms"), values.collect(), Better::Less));
            }
        }
    }

    /// Pods per second of one target.
    pub fn rate(&mut self, column: usize, pods_per_second: f64) {
        self.set("pods/s, 10 at once", column, pods_per_second, Better::More);
    }

    /// Memory of one target.
    pub fn memory(&mut self, column: usize, memory: Memory) {
        self.set("PSS per idle pod: shim, MB", column, memory.shim_kb / 1024.0, Better::Less);
        self.set("PSS per idle pod: pause, MB", column, memory.pause_kb / 1024.0, Better::Less);
        self.set("PSS per idle pod: both, MB", column, (memory.shim_kb + memory.pause_kb) / 1024.0, Better::Less);
        self.set("PSS of the daemon, MB", column, memory.daemon_kb as f64 / 1024.0, Better::Less);
    }

    /// kill -9 to serving of one target.
    pub fn recovery(&mut self, column: usize, took: Duration) {
        self.set("kill -9 to all pods listed, s", column, took.as_secs_f64(), Better::Less);
    }

    fn set(&mut self, label: &str, column: usize, value: f64, better: Better) {
        if !self.rows.iter().any(|(l, ..)| l == label) {
            self.rows.push((label.into(), vec![None; self.names.len()], better));
        }
        for (l, values, _) in &mut self.rows {
            if l == label {
                values[column] = Some(value);
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| |")?;
        for (n, name) in self.names.iter().enumerate() {
            write!(f, " {name} |{}", if n > 0 { " ratio |" } else { "" })?;
        }
        write!(f, "\n|---|{}", "---:|".repeat(self.names.len() * 2 - 1))?;
        for (label, values, better) in &self.rows {
            write!(f, "\n| {label} |")?;
            let first = values.first().copied().flatten();
            for (n, value) in values.iter().enumerate() {
                write!(f, " {} |", value.map_or("-".into(), |v| format!("{v:.2}")))?;
                if n > 0 {
                    write!(f, " {} |", ratio(first, *value, *better))?;
                }
            }
        }
        writeln!(f)
    }
}

/// How many times better than the first.
fn ratio(first: Option<f64>, value: Option<f64>, better: Better) -> String {
    match (first, value) {
        (Some(a), Some(b)) if a > 0.0 && b > 0.0 => {
            let times = match better {
                Better::Less => a / b,
                Better::More => b / a,
            };
            format!("{times:.1}x")
        }
        _ => "-".into(),
    }
}

fn quantile(times: &[Duration], q: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = ((sorted.len() as f64 - 1.0) * q).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_samples() {
        let times: Vec<_> = (1..=101).rev().map(Duration::from_millis).collect();
        assert_eq!(quantile(&times, 0.5), Duration::from_millis(51));
        assert_eq!(quantile(&times, 0.99), Duration::from_millis(100));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn ratios_say_how_many_times_better() {
        assert_eq!(ratio(Some(10.0), Some(5.0), Better::Less), "2.0x");
        assert_eq!(ratio(Some(10.0), Some(20.0), Better::More), "2.0x");
        assert_eq!(ratio(Some(10.0), None, Better::Less), "-");
    }
}
