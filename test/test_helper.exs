if reason = OOM.Test.Cgroup.unavailable(),
  do: IO.puts("SKIPPED: the tests with real limits (tag :cgroup): #{reason}")

# They need another kernel, which `script/lab v2` brings; where there is one, they run.
v2 = if OOM.Test.Cgroup.version() == 2, do: [], else: [:cgroup_v2]

# The alarm handler is SASL's. From Elixir 1.15 on Mix takes out of the path what is no dependency.
for path <- Path.wildcard("#{:code.root_dir()}/lib/sasl-*/ebin"),
    do: :code.add_pathz(String.to_charlist(path))

ExUnit.start(
  assert_receive_timeout: OOM.Test.Patience.times(5_000),
  capture_log: true,
  exclude: v2
)
