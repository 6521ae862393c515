# shellcheck shell=bash disable=SC2034
# What the scripts of this folder share. Sourced, never run.
#
# A node is a directory: every path of its daemon lies under it, and its bridge, subnet, cgroups and nft table carry a
# name made from that path, so that two nodes run side by side and each can be taken down alone.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
CACHE=${CLEAT_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/cleat}
CRICTL_VERSION=1.36.0
CRICTL=$CACHE/bin/crictl-$CRICTL_VERSION

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
need_root() { [ "$(id -u)" = 0 ] || die "needs root: a container runtime makes namespaces, mounts and cgroups"; }

# node DIR: sets the names of the node at DIR. DIR need not exist.
node() {
    DIR=$(realpath -m -- "$1")
    local hash
    hash=$(printf %s "$DIR" | sha256sum)
    NAME=cleat-${hash:0:8}
    BRIDGE=cleat${hash:0:8}
    STATE_LINK=/run/$NAME
    HASH=$((16#${hash:0:7}))
}

# alive PID WORD: whether PID runs and still has WORD in its command line, so that a reused pid is never signalled.
alive() {
    [ -n "$1" ] && tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -qF -- "$2"
}

# dying PID: whether it was killed and has threads left. Until the last one is gone it holds its files and locks,
# although its command line is empty already: a thread in the middle of a sync takes its time.
dying() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    [ -z "$(tr -d '\0' 2>/dev/null <"/proc/$1/cmdline")" ] || return 1
    # Behind the name, which may hold anything: the state first, the number of threads as the eighteenth.
    awk '{ exit ($1 == "Z" || $1 == "X") && $18 <= 1 }' <<<"${stat##*) }"
}

# end PID WORD SECONDS: SIGTERM, and SIGKILL if it is still there after SECONDS; returns when it is gone.
end() {
    local tries=$(($3 * 20))
    [ -n "$1" ] || return 0
    if alive "$1" "$2"; then kill -TERM "$1" 2>/dev/null || true; fi
    while alive "$1" "$2" && [ $((tries--)) -gt 0 ]; do sleep 0.05; done
    if alive "$1" "$2"; then kill -KILL "$1" 2>/dev/null || true; fi
    tries=400
    while { alive "$1" "$2" || dying "$1"; } && [ $((tries--)) -gt 0 ]; do sleep 0.05; done
}

# daemon_pid: the pid of this node's daemon, or nothing where it does not run.
daemon_pid() {
    local pid=
    [ -r "$DIR/cleatd.pid" ] && pid=$(cat "$DIR/cleatd.pid")
    if alive "$pid" "$DIR/config.toml"; then echo "$pid"; fi
}

crictl() { "$CRICTL" --config "$DIR/crictl.yaml" "$@"; }

# cgroups: this node's cgroups, children first, in every hierarchy.
cgroups() {
    local root
    findmnt -rn -o TARGET -t cgroup,cgroup2 | while read -r root; do
        if [ -d "$root/$NAME" ]; then find "$root/$NAME" -depth -type d; fi
    done
}

# mounts: the mount points under this node's directory, newest first.
mounts() { awk -v dir="$DIR/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | tac; }

# shims: the pids of the shims that were started from this node's directory.
shims() {
    local pid
    # Processes that end while find looks make it fail.
    { find /proc -maxdepth 2 -name exe -lname '*/containerd-shim-*' 2>/dev/null || true; } | cut -d/ -f3 | while read -r pid; do
        case $(readlink "/proc/$pid/cwd" 2>/dev/null; tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") in
        *"$DIR"/* | *"$STATE_LINK"/*) echo "$pid" ;;
        esac
    done
}

# processes: the pids of this node: its daemon, its shims, and whatever runs in its cgroups.
processes() {
    {
        daemon_pid
        cgroups | sed 's,$,/cgroup.procs,' | xargs -r cat 2>/dev/null || true
        shims
    } | sort -un
}

# nat_rules: rules that the portmap plugin made for this node's network and did not take away.
nat_rules() { iptables -w -t nat -S 2>/dev/null | grep -F "name: \\\"$NAME\\\"" || true; }

# leftovers: one line for each thing of this node that is still on the machine.
leftovers() {
    local pid
    for pid in $(processes); do say "process $pid $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | cut -c1-150)"; done
    mounts | sed 's/^/mount /'
    cgroups | sed 's/^/cgroup /'
    [ ! -e "/sys/class/net/$BRIDGE" ] || say "link $BRIDGE and its address"
    nat_rules | sed 's/^/nat rule /'
    if nft list table ip "$NAME" >/dev/null 2>&1; then say "nft table ip $NAME"; fi
}
