if reason = OOM.Test.Cgroup.unavailable(),
  do: IO.puts("SKIPPED: the tests with real limits (tag :cgroup): #{reason}")

ExUnit.start(assert_receive_timeout: 5_000, capture_log: true)
