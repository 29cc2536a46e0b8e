if reason = OOM.Test.Cgroup.unavailable(),
  do: IO.puts("SKIPPED: the tests with real limits (tag :cgroup): #{reason}")

# Tests for a lab only: script/lab chaos runs as long as told, script/lab v2 under a kernel with cgroup v2.
labs =
  if(System.get_env("OOM_CHAOS_SECONDS"), do: [], else: [:chaos]) ++
    if OOM.Test.Cgroup.version() == 2, do: [], else: [:cgroup_v2]

# The alarm handler is SASL's. From Elixir 1.15 on, Mix takes applications that are no dependency out of the
# path.
for path <- Path.wildcard("#{:code.root_dir()}/lib/sasl-*/ebin"),
    do: :code.add_pathz(String.to_charlist(path))

ExUnit.start(
  assert_receive_timeout: OOM.Test.Patience.times(5_000),
  capture_log: true,
  exclude: labs
)
