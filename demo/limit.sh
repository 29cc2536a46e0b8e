# shellcheck shell=bash
# Finds a real memory limit that this user can set, strictest first, and takes it away again.
# Sourced by script/demo, because a shell can still clean up when the demo is interrupted.
#
# After limit_open:
#   limit_kind  cgroup_v2 | cgroup_v1 | systemd | rlimit
#   limit_path  the cgroup's directory; empty for the last two

export limit_kind=
export limit_path=

# With OOM_DEMO_LIMIT set to a kind, only that one.
limit_open() {
  local kind
  for kind in ${OOM_DEMO_LIMIT:-cgroup_v2 cgroup_v1 systemd rlimit}; do
    limit_kind=$kind
    "limit_$kind" "$1" && return 0
  done
  echo "demo: there is no $kind limit to be had here" >&2
  return 1
}

# limit_run BYTES COMMAND...: runs the command in a cgroup of its own, which alone can tell a kernel's kill;
# returns the status of the command, or 125 where no such cgroup can be made.
limit_run() {
  local bytes=$1 status=0
  shift
  OOM_DEMO_LIMIT="cgroup_v2 cgroup_v1" limit_open "$bytes" || return 125
  (echo "$BASHPID" >"$limit_path/cgroup.procs" && ERL_CRASH_DUMP_BYTES=0 exec "$@") </dev/null || status=$?
  limit_close
  return "$status"
}

# The kernel's OOM kills in the cgroup; of cgroup v1 or v2, whose files have other names.
limit_kills() {
  { cat "$limit_path/memory.oom_control" || cat "$limit_path/memory.events"; } 2>/dev/null | sed -n 's/^oom_kill //p'
}

limit_close() {
  [ -n "$limit_path" ] && [ -d "$limit_path" ] || return 0
  local pid _
  for _ in $(seq 100); do
    while read -r pid; do kill -9 "$pid" 2>/dev/null || true; done <"$limit_path/cgroup.procs"
    # Refused until the last process has gone.
    rmdir "$limit_path" 2>/dev/null && return 0
    sleep 0.05
  done
  echo "demo: could not remove $limit_path" >&2
}

limit_cgroup_v2() {
  local mount parent
  mount=$(mount_of cgroup2) || return 1
  # Below the root if we may, else below our own cgroup.
  for parent in "$mount" "$mount$(sed -n 's/^0:://p' /proc/self/cgroup)"; do
    grep -qw memory "$parent/cgroup.controllers" 2>/dev/null || continue
    grep -qw memory "$parent/cgroup.subtree_control" ||
      put +memory "$parent/cgroup.subtree_control" || continue
    new_cgroup "$parent" || continue
    if put "$1" "$limit_path/memory.max"; then
      put 0 "$limit_path/memory.swap.max" || true
      return 0
    fi
    limit_close
  done
  return 1
}

limit_cgroup_v1() {
  local mount
  mount=$(mount_of cgroup memory) || return 1
  new_cgroup "$mount" || return 1
  if put "$1" "$limit_path/memory.limit_in_bytes"; then
    # Absent where the kernel does not account swap.
    put "$1" "$limit_path/memory.memsw.limit_in_bytes" || true
    return 0
  fi
  limit_close
  return 1
}

limit_systemd() {
  command -v systemd-run >/dev/null || return 1
  local manager=--user
  [ "$(id -u)" -ne 0 ] || manager=--system
  systemd-run "$manager" --scope --quiet -p "MemoryMax=$1" true 2>/dev/null
}

limit_rlimit() { (ulimit -d "$(($1 / 1024))") 2>/dev/null; }

# The mount point of a file system type, with an option if one is named.
mount_of() {
  awk -v type="$1" -v option="${2:-}" '
    { for (i = 7; $i != "-"; i++); }
    $(i + 1) == type && (option == "" || "," $(i + 3) "," ~ "," option ",") { print $5; exit }
  ' /proc/self/mountinfo | grep .
}

new_cgroup() {
  limit_path=$1/oom-demo-$$
  mkdir "$limit_path" 2>/dev/null && return 0
  limit_path=
  return 1
}

put() { echo "$1" 2>/dev/null >"$2"; }
