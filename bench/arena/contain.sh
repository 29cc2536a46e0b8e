#!/usr/bin/env bash
# contain.sh BYTES COMMAND...: runs the command in a memory cgroup of its own, and says at the end
# what the kernel knows of it. A shell does it, because it still cleans up when the arena is ended.
set -uo pipefail
cd "$(dirname "$0")/../.."
source demo/limit.sh

bytes=$1
shift
# Only a cgroup can tell afterwards what happened in it.
OOM_DEMO_LIMIT="cgroup_v2 cgroup_v1"
limit_open "$bytes" || exit 125
trap limit_close EXIT
trap 'exit 130' INT TERM HUP

value() { cat "$limit_path/$1" 2>/dev/null || echo -1; }

(echo "$BASHPID" >"$limit_path/cgroup.procs" && exec "$@")
status=$?

if [ "$limit_kind" = cgroup_v1 ]; then
  peak=$(value memory.max_usage_in_bytes) events=memory.oom_control
else
  peak=$(value memory.peak) events=memory.events
fi
kills=$(sed -n 's/^oom_kill //p' "$limit_path/$events")
echo "{arena,outside,[{status,$status},{oom_kills,${kills:--1}},{peak,$peak}]}."
