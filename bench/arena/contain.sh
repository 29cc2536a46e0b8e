#!/usr/bin/env bash
# contain.sh BYTES COMMAND...: runs the command in a memory cgroup of its own, and says at the end
# what the kernel knows of it. A shell does it, because it still cleans up when the arena is ended.
# ARENA_BURNERS foreign processes burn CPU meanwhile, outside of that cgroup; with ARENA_QUOTA_PERCENT
# the command gets no more than so much of one core. contain.sh --can-quota: whether it could.
set -uo pipefail
cd "$(dirname "$0")/../.."
source demo/limit.sh

period_us=100000
quota_path=
burners=()

# v1: a cgroup of the cpu controller. v2: the one that has the memory limit.
quota_open() {
  local mount quota_us=$(($1 * period_us / 100))
  if [ "$limit_kind" = cgroup_v2 ]; then
    local parent
    parent=$(dirname "$limit_path")
    grep -qw cpu "$parent/cgroup.subtree_control" || put +cpu "$parent/cgroup.subtree_control" || return 1
    put "$quota_us $period_us" "$limit_path/cpu.max"
    return
  fi
  mount=$(mount_of cgroup cpu) && mkdir "$mount/oom-arena-$$" 2>/dev/null || return 1
  quota_path=$mount/oom-arena-$$
  put "$period_us" "$quota_path/cpu.cfs_period_us" && put "$quota_us" "$quota_path/cpu.cfs_quota_us"
}

# Not for ever, if this shell is ended without a word.
burn() {
  local i parent=$1
  while kill -0 "$parent" 2>/dev/null; do for ((i = 0; i < 100000; i++)); do :; done; done
}

close() {
  local _
  [ ${#burners[@]} -eq 0 ] || kill "${burners[@]}" 2>/dev/null
  limit_close
  [ -n "$quota_path" ] || return 0
  for _ in $(seq 100); do rmdir "$quota_path" 2>/dev/null && return 0 || sleep 0.05; done
  echo "arena: could not remove $quota_path" >&2
}

bytes=$1
shift
[ "$bytes" != --can-quota ] || bytes=$((64 * 1024 * 1024))
# Only a cgroup can tell afterwards what happened in it.
OOM_DEMO_LIMIT="cgroup_v2 cgroup_v1"
limit_open "$bytes" || exit 125
trap close EXIT
trap 'exit 130' INT TERM HUP

if [ $# -eq 0 ]; then
  quota_open 50 || { echo "arena: no cgroup with a CPU quota can be made here" >&2; exit 2; }
  exit 0
fi

if [ -n "${ARENA_QUOTA_PERCENT:-}" ]; then
  quota_open "$ARENA_QUOTA_PERCENT" || exit 125
fi
for ((n = 0; n < ${ARENA_BURNERS:-0}; n++)); do
  burn $$ >/dev/null 2>&1 </dev/null &
  burners+=($!)
done

value() { cat "$limit_path/$1" 2>/dev/null || echo -1; }

(
  echo "$BASHPID" >"$limit_path/cgroup.procs" || exit 125
  [ -z "$quota_path" ] || echo "$BASHPID" >"$quota_path/cgroup.procs" || exit 125
  exec "$@"
)
status=$?

if [ "$limit_kind" = cgroup_v1 ]; then
  peak=$(value memory.max_usage_in_bytes) events=memory.oom_control
else
  peak=$(value memory.peak) events=memory.events
fi
kills=$(sed -n 's/^oom_kill //p' "$limit_path/$events")
# The last words of the VM may lack the end of their line.
printf "\n"
echo "{arena,outside,[{status,$status},{oom_kills,${kills:--1}},{peak,$peak}]}."
