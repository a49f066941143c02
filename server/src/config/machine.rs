//! How much of the machine this process may use.

use std::path::{Path, PathBuf};

/// CPUs that can work for us at one time: the smaller of the affinity mask and the cgroup's quota, rounded up. A quota is
/// not an affinity, and a thread over it is only stopped more often.
pub(crate) fn usable_cpus() -> usize {
    let affinity = core_affinity::get_core_ids().map_or(1, |cores| cores.len()).max(1);
    quota_cpus(Path::new("/sys/fs/cgroup"), &std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
        .map_or(affinity, |quota| quota.min(affinity))
}

/// Memory that the process may use, in bytes: the smaller of the machine's and the cgroup's limit. `None` if neither tells.
pub(crate) fn memory_bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_bytes(&text));
    let membership = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = cgroup_folders(Path::new("/sys/fs/cgroup"), &membership, "memory");
    let cgroup = limits.iter().filter_map(|folder| memory_limit_of(folder)).min();
    machine.into_iter().chain(cgroup).min()
}

/// `MemTotal` of `/proc/meminfo`.
fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The limit a folder sets; version 1 writes "no limit" as a number close to 2^63.
fn memory_limit_of(folder: &Path) -> Option<u64> {
    const NO_LIMIT: u64 = 1 << 62;
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let text = read("memory.max").or_else(|| read("memory.limit_in_bytes"))?;
    text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT)
}

/// The least quota on the way from the process's cgroup to the root.
fn quota_cpus(mount: &Path, membership: &str) -> Option<usize> {
    cgroup_folders(mount, membership, "cpu").iter().filter_map(|folder| quota_of(folder)).min()
}

/// The folders of the process's cgroup and of all above it: of version 2, and of this controller of version 1.
fn cgroup_folders(mount: &Path, membership: &str, controller: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let path = Path::new(path.trim_start_matches('/'));
        if controllers.is_empty() {
            folders.extend(path.ancestors().map(|folder| mount.join(folder)));
        } else if controllers.split(',').any(|name| name == controller) {
            folders.extend(path.ancestors().map(|folder| mount.join(controller).join(folder)));
        }
    }
    folders
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
    fn memory_is_read_with_its_unit_and_no_limit_is_none() {
        assert_eq!(total_bytes("MemTotal:       16316412 kB\nMemFree: 1 kB\n"), Some(16_316_412 * 1024));
        assert_eq!(total_bytes("MemFree: 1 kB\n"), None);
        let mount = folder("memory");
        std::fs::write(mount.join("a/memory.max"), "1048576\n").expect("written");
        std::fs::write(mount.join("a/b/memory.max"), "max\n").expect("written");
        std::fs::write(mount.join("memory.limit_in_bytes"), "9223372036854771712\n").expect("written");
        assert_eq!(memory_limit_of(&mount.join("a")), Some(1 << 20));
        assert_eq!(memory_limit_of(&mount.join("a/b")), None);
        assert_eq!(memory_limit_of(&mount), None);
        assert_eq!(cgroup_folders(&mount, "0::/a/b\n", "memory").len(), 3);
        std::fs::remove_dir_all(mount).expect("removed");
    }

    #[test]
    fn some_cpu_is_always_usable() {
        assert!(usable_cpus() >= 1);
    }
}
