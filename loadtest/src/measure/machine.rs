//! The machine a run was made on.

use std::thread;

use anyhow::Result;

use super::{kilobytes_line, read};
use crate::result::Machine;

/// Describes this machine.
pub fn describe() -> Result<Machine> {
    let cpu_information = read("/proc/cpuinfo")?;
    Ok(Machine {
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        cpu_model: cpu_model(&cpu_information),
        cores: thread::available_parallelism().map_or(0, usize::from),
        memory_bytes: kilobytes_line(&read("/proc/meminfo")?, "MemTotal").unwrap_or(0),
        descriptors_max: hard_descriptor_limit(&read("/proc/self/limits")?).unwrap_or(0),
    })
}

/// x86 names the model; where a machine does not, its architecture must do.
fn cpu_model(cpu_information: &str) -> String {
    cpu_information
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| matches!(name.trim(), "model name" | "Model" | "Hardware"))
        .map_or_else(
            || std::env::consts::ARCH.to_owned(),
            |(_, model)| model.trim().to_owned(),
        )
}

fn hard_descriptor_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let machine = describe().expect("a Linux machine");
        assert!(!machine.kernel.is_empty() && !machine.cpu_model.is_empty());
        assert!(machine.cores >= 1 && machine.memory_bytes > 0 && machine.descriptors_max > 0);
    }

    #[test]
    fn the_hard_limit_is_the_second_figure() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 20000                files\n";
        assert_eq!(hard_descriptor_limit(limits), Some(20_000));
    }

    #[test]
    fn a_model_is_found_or_the_architecture_named() {
        assert_eq!(
            cpu_model("processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\n"),
            "Fast CPU @ 3 GHz"
        );
        assert_eq!(cpu_model("processor\t: 0\n"), std::env::consts::ARCH);
    }
}
