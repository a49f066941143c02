//! How much of the machine this process may use.

use std::path::{Path, PathBuf};

/// CPUs that can work for us at one time: the smaller of the affinity mask and the cgroup's quota, rounded up. A quota is
/// not an affinity, and a thread over it is only stopped more often.
pub(crate) fn usable_cpus() -> usize {
    let affinity = core_affinity::get_core_ids().map_or(1, |cores| cores.len()).max(1);
    quota_cpus(Path::new("/sys/fs/cgroup"), &std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
        .map_or(affinity, |quota| quota.min(affinity))
}

/// The least quota on the way from the process's cgroup (version 2, or the cpu controller of version 1) to the root.
fn quota_cpus(mount: &Path, membership: &str) -> Option<usize> {
    let mut least: Option<usize> = None;
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let path = path.trim_start_matches('/');
        let folders: Vec<PathBuf> = if controllers.is_empty() {
            Path::new(path).ancestors().map(|folder| mount.join(folder)).collect()
        } else if controllers.split(',').any(|name| name == "cpu") {
            Path::new(path).ancestors().map(|folder| mount.join("cpu").join(folder)).collect()
        } else {
            continue;
        };
        for folder in folders {
            if let Some(cpus) = quota_of(&folder) {
                least = Some(least.map_or(cpus, |known| known.min(cpus)));
            }
        }
    }
    least
}

/// The quota a folder sets, in whole CPUs.
fn quota_of(folder: &Path) -> Option<usize> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    // "max 100000", or "150000 100000": microseconds of CPU time in each period.
    let (quota, period) = match read("cpu.max") {
        Some(text) => {
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.to_owned(), period.to_owned())
        }
        None => (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?),
    };
    let quota: u64 = quota.trim().parse().ok()?;
    let period: u64 = period.trim().parse().ok().filter(|period| *period > 0)?;
    usize::try_from(quota.div_ceil(period)).ok().map(|cpus| cpus.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("leasehold-machine-{}-{name}", std::process::id()));
        std::fs::create_dir_all(folder.join("a/b")).expect("a folder for the test");
        folder
    }

    #[test]
    fn quota_is_the_least_on_the_way_to_the_root_and_rounds_up() {
        let mount = folder("v2");
        std::fs::write(mount.join("a/cpu.max"), "150000 100000\n").expect("written");
        std::fs::write(mount.join("a/b/cpu.max"), "max 100000\n").expect("written");
        assert_eq!(quota_cpus(&mount, "0::/a/b\n"), Some(2));
        std::fs::write(mount.join("a/b/cpu.max"), "10000 100000\n").expect("written");
        assert_eq!(quota_cpus(&mount, "0::/a/b\n"), Some(1));
        assert_eq!(quota_cpus(&mount, "0::/\n"), None);
        std::fs::remove_dir_all(mount).expect("removed");
    }

    #[test]
    fn version_1_quota_of_minus_one_is_none() {
        let mount = folder("v1");
        std::fs::create_dir_all(mount.join("cpu/x")).expect("created");
        std::fs::write(mount.join("cpu/x/cpu.cfs_period_us"), "100000\n").expect("written");
        std::fs::write(mount.join("cpu/x/cpu.cfs_quota_us"), "-1\n").expect("written");
        assert_eq!(quota_cpus(&mount, "4:cpu,cpuacct:/x\n0::/\n"), None);
        std::fs::write(mount.join("cpu/x/cpu.cfs_quota_us"), "300000\n").expect("written");
        assert_eq!(quota_cpus(&mount, "4:cpu,cpuacct:/x\n"), Some(3));
        std::fs::remove_dir_all(mount).expect("removed");
    }

    #[test]
    fn some_cpu_is_always_usable() {
        assert!(usable_cpus() >= 1);
    }
}
