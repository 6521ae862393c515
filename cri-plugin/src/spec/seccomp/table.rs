//! The default filter as data: what a container may call, and what it may call with a capability or on a machine.
//!
//! The set is the one docker and containerd allow, so that images which run there run here; kernels or libseccomp
//! versions that do not know a name pass it over. Deliberately absent, as there: `io_uring_*` (a history of escapes),
//! `userfaultfd`, `keyctl` and its kin (keyrings are not per namespace), `add_key`, `kexec_*`, `nfsservctl`, `_sysctl`,
//! `swapon`, `pivot_root`, and everything obsolete.

use oci_spec::runtime::{Arch, Capability};

/// Allowed to everybody, by subject; words between spaces.
pub const ALWAYS: [&str; 14] =
    [FILES, PATHS, XATTRS, IO, AIO, WATCHES, SOCKETS, MEMORY, PROCESSES, IDENTITY, SCHEDULING, SIGNALS, TIME, IPC];

const FILES: &str = "\
    close close_range copy_file_range creat dup dup2 dup3 fadvise64 fadvise64_64 fallocate fchmod fchown fchown32 \
    fcntl fcntl64 fdatasync flock fstat fstat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 memfd_create open \
    openat openat2 pipe pipe2 statmount listmount sync sync_file_range syncfs umask";
const PATHS: &str = "\
    access chdir chmod chown chown32 faccessat faccessat2 fchdir fchmodat fchmodat2 fchownat fstatat64 futimesat \
    getcwd getdents getdents64 lchown lchown32 link linkat lstat lstat64 mkdir mkdirat mknod mknodat \
    name_to_handle_at newfstatat readlink readlinkat rename renameat renameat2 rmdir stat stat64 statfs statfs64 \
    statx symlink symlinkat truncate truncate64 unlink unlinkat utime utimensat utimensat_time64 utimes";
const XATTRS: &str = "\
    fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr \
    lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat";
const IO: &str = "\
    _llseek _newselect ioctl lseek poll ppoll ppoll_time64 pread64 preadv preadv2 pselect6 pselect6_time64 pwrite64 \
    pwritev pwritev2 read readahead readv select sendfile sendfile64 splice tee vmsplice write writev";
const AIO: &str = "\
    io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioprio_get ioprio_set";
const WATCHES: &str = "\
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd \
    eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch signalfd signalfd4 \
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64";
/// `socket` itself stands apart: see the profile.
const SOCKETS: &str = "\
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 \
    recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair";
const MEMORY: &str = "\
    brk cachestat get_thread_area madvise map_shadow_stack membarrier memfd_secret mincore mlock mlock2 mlockall \
    mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect \
    process_mrelease remap_file_pages set_thread_area";
const PROCESSES: &str = "\
    execve execveat exit exit_group fork getpgid getpgrp getpid getppid getsid gettid landlock_add_rule \
    landlock_create_ruleset landlock_restrict_self lsm_get_self_attr lsm_list_modules lsm_set_self_attr pidfd_open prctl process_vm_readv process_vm_writev ptrace rseq \
    seccomp set_tid_address setpgid setsid uname uretprobe vfork wait4 waitid waitpid";
const IDENTITY: &str = "\
    capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32 \
    getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups \
    setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32";
const SCHEDULING: &str = "\
    get_robust_list getcpu getpriority getrlimit getrusage prlimit64 restart_syscall sched_get_priority_max \
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval \
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield \
    set_robust_list setpriority setrlimit sysinfo ugetrlimit";
const SIGNALS: &str = "\
    kill pause pidfd_send_signal rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn \
    rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn tgkill \
    tkill";
const TIME: &str = "\
    adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
    clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete \
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 times";
const IPC: &str = "\
    futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake getrandom ipc mq_getsetattr mq_notify mq_open \
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd \
    semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget";

/// Allowed to who has the capability.
pub const WITH: [(Capability, &str); 14] = [
    (Capability::Bpf, "bpf"),
    (Capability::DacReadSearch, "open_by_handle_at"),
    (Capability::Perfmon, "perf_event_open"),
    (Capability::SysAdmin, SYS_ADMIN),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module finit_module init_module"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "ioperm iopl"),
    (Capability::SysTime, "clock_settime clock_settime64 settimeofday stime"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::Syslog, "syslog"),
];

const SYS_ADMIN: &str = "\
    bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount \
    open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare";

/// What one machine has and others do not.
#[derive(Debug)]
pub struct Machine {
    /// As Rust names it.
    pub name: &'static str,
    /// The architectures whose calls its kernel takes, its own first.
    pub architectures: &'static [Arch],
    /// Calls of its own.
    pub calls: &'static str,
}

/// Machines with calls or sub-architectures of their own; any other is filtered as its native one.
pub const MACHINES: [Machine; 7] = [
    Machine {
        name: "x86_64",
        architectures: &[Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        calls: "arch_prctl modify_ldt",
    },
    Machine { name: "x86", architectures: &[Arch::ScmpArchX86], calls: "modify_ldt" },
    Machine {
        name: "aarch64",
        architectures: &[Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        calls: "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    },
    Machine {
        name: "arm",
        architectures: &[Arch::ScmpArchArm],
        calls: "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    },
    Machine { name: "powerpc64", architectures: &[Arch::ScmpArchPpc64le], calls: "swapcontext sync_file_range2" },
    Machine {
        name: "s390x",
        architectures: &[Arch::ScmpArchS390x, Arch::ScmpArchS390],
        calls: "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
    },
    Machine { name: "riscv64", architectures: &[Arch::ScmpArchRiscv64], calls: "riscv_flush_icache riscv_hwprobe" },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_call_is_listed_twice_and_none_of_the_forbidden() {
        let all: Vec<&str> = ALWAYS.iter().flat_map(|subject| subject.split_whitespace()).collect();
        let set: BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(set.len(), all.len(), "a name stands in two subjects");
        let gated: BTreeSet<&str> = WITH.iter().flat_map(|(_, calls)| calls.split_whitespace()).collect();
        assert!(set.is_disjoint(&gated), "{:?}", set.intersection(&gated).collect::<Vec<_>>());
        for call in
            ["keyctl", "add_key", "kexec_load", "io_uring_setup", "userfaultfd", "pivot_root", "swapon", "clone3"]
        {
            assert!(!set.contains(call), "{call}");
        }
    }
}
