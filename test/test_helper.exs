if reason = OOM.Test.Cgroup.unavailable(),
  do: IO.puts("SKIPPED: the tests with real limits (tag :cgroup): #{reason}")

ExUnit.start(capture_log: true)
