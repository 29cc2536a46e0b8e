defmodule OOM.NativeTest do
  use ExUnit.Case, async: true

  alias OOM.Native

  # An empty root has no source: the limit and the usage come from the test. An hour between samples leaves
  # the sampling to the test.
  @moduletag :tmp_dir
  @hour 3_600_000
  @limit 1_000_000_000

  setup %{tmp_dir: tmp_dir} do
    config = %{
      limit_bytes: @limit,
      root: tmp_dir,
      watermarks: {0.6, 0.7, 0.8},
      tte_ms: nil,
      min_interval_ms: @hour,
      max_interval_ms: @hour
    }

    %{config: config}
  end

  defp start!(config, owner \\ self()) do
    {:ok, watcher} = Native.watcher_start(owner, config)
    watcher
  end

  # Waits until the thread has taken a sample begun after the call.
  defp sample(watcher) do
    taken = Native.watcher_report(watcher).samples
    Native.watcher_sample(watcher)
    await(fn -> Native.watcher_report(watcher).samples > taken end)
  end

  defp await(condition) do
    unless condition.() do
      receive do
      after
        1 -> await(condition)
      end
    end
  end

  test "the library is loaded" do
    assert Native.loaded?()
    assert Native.load_error() == nil
  end

  describe "a report" do
    test "is there from the start", %{config: config} do
      watcher = start!(config)
      report = Native.watcher_report(watcher)

      assert %{level: :normal, samples: 1, source: source, age_us: age} = report
      assert source in [nil, :configured]
      assert age >= 0
      assert map_size(report) <= 32
      assert Native.watcher_level(watcher) == :normal
    end

    test "has nil where nothing is known", %{config: config} do
      report = Native.watcher_report(start!(%{config | limit_bytes: nil}))

      for {key, value} <- Map.drop(report, [:level, :samples, :interval_us, :age_us]) do
        assert {key, value} == {key, nil}
      end
    end

    test "names the limit that binds and what follows from it", %{config: config} do
      watcher = start!(config)
      Native.watcher_feed(watcher, 100_000_000)
      await(fn -> Native.watcher_report(watcher).samples > 1 end)

      assert %{
               source: :configured,
               file: nil,
               cgroup: nil,
               limit_bytes: @limit,
               usage_bytes: 100_000_000,
               working_set_bytes: 100_000_000,
               headroom_bytes: 900_000_000,
               elevated_headroom_bytes: 400_000_000,
               high_headroom_bytes: 300_000_000,
               critical_headroom_bytes: 200_000_000,
               growth_bytes_per_s: nil,
               time_to_exhaustion_ms: nil
             } = Native.watcher_report(watcher)
    end

    test "of the real system knows our own size", %{config: config} do
      report = Native.watcher_report(start!(%{config | root: "/"}))

      assert report.rss_bytes > 1_000_000
      assert report.limit_bytes >= report.headroom_bytes
    end
  end

  describe "messages" do
    test "each change of level once", %{config: config} do
      watcher = start!(config)

      for {used, level} <- [{650, :elevated}, {750, :high}, {900, :critical}] do
        Native.watcher_feed(watcher, used * 1_000_000)
        assert_receive {:oom_watch, :level, %{level: ^level}}
        assert Native.watcher_level(watcher) == level
        refute_received {:oom_watch, :level, _}
      end
    end

    test "an alarm of the first sample too", %{config: config} do
      start!(%{config | limit_bytes: 1, root: "/"})
      assert_receive {:oom_watch, :level, %{level: :critical, samples: 1}}
    end

    test "one tick while critical, the next only after an ack", %{config: config} do
      watcher = start!(config)
      Native.watcher_feed(watcher, 900_000_000)
      assert_receive {:oom_watch, :level, %{level: :critical}}

      Native.watcher_sample(watcher)
      assert_receive {:oom_watch, :tick, %{level: :critical, headroom_bytes: 100_000_000}}

      for _ <- 1..5, do: sample(watcher)
      refute_received {:oom_watch, :tick, _}

      Native.watcher_ack(watcher)
      Native.watcher_sample(watcher)
      assert_receive {:oom_watch, :tick, _}
    end
  end

  describe "the end" do
    test "stop waits for it and may be repeated", %{config: config} do
      watcher = start!(config)
      assert Native.watcher_alive(watcher)
      assert Native.watcher_stop(watcher) == :ok
      refute Native.watcher_alive(watcher)
      assert Native.watcher_stop(watcher) == :ok

      # The stopped watcher still answers.
      assert %{samples: 1} = Native.watcher_report(watcher)
      assert Native.watcher_sample(watcher) == :ok
      assert Native.watcher_feed(watcher, 1) == :ok
      assert Native.watcher_ack(watcher) == :ok
    end

    test "stop takes no longer than a wake-up, whatever the interval", %{config: config} do
      # The best of a few: on a busy machine a stop may have waited for a CPU.
      times =
        for _ <- 1..5 do
          watcher = start!(config)
          {micros, :ok} = :timer.tc(fn -> Native.watcher_stop(watcher) end)
          micros
        end

      assert Enum.min(times) < 100_000
    end

    test "comes with the owner's", %{config: config} do
      owner = spawn(fn -> Process.sleep(:infinity) end)
      watcher = start!(config, owner)
      assert Native.watcher_alive(watcher)
      Process.exit(owner, :kill)
      await(fn -> not Native.watcher_alive(watcher) end)
    end

    test "a dead owner is refused", %{config: config} do
      {owner, ref} = spawn_monitor(fn -> :ok end)
      assert_receive {:DOWN, ^ref, _, _, _}

      assert {:error, {:owner_not_alive, _}} = Native.watcher_start(owner, config)
    end

    test "of many at once", %{config: config} do
      1..100
      |> Task.async_stream(fn _ ->
        watcher = start!(%{config | min_interval_ms: 1, max_interval_ms: 1})
        sample(watcher)
        if rem(System.unique_integer(), 2) == 0, do: Native.watcher_stop(watcher)
      end)
      |> Stream.run()
    end
  end

  describe "a configuration that makes no sense is refused by name" do
    for {key, value, words} <- [
          {:limit_bytes, -1, "limit_bytes: expected a number of bytes or nil, got: -1"},
          {:root, :slash, "root: expected a binary"},
          {:watermarks, {0.5, 0.5, 0.9}, "expected elevated < high < critical"},
          {:watermarks, {0.5, 0.6, 1.5}, "watermark critical: expected a fraction"},
          {:watermarks, [0.5], "watermarks: expected {elevated, high, critical}"},
          {:tte_ms, {1, 2, 3}, "expected elevated >= high >= critical"},
          {:tte_ms, {3, 2, -1}, "tte_ms: expected milliseconds, got: -1"},
          {:min_interval_ms, 0, "expected 0 < min <= max"},
          {:max_interval_ms, 0.5, "expected 0 < min <= max"}
        ] do
      test "#{key}: #{inspect(value)}", %{config: config} do
        config = Map.put(config, unquote(key), unquote(Macro.escape(value)))
        assert {:error, {:invalid_config, message}} = Native.watcher_start(self(), config)
        assert message =~ unquote(words)
      end
    end

    test "not a map" do
      assert {:error, {:invalid_config, "expected a map"}} = Native.watcher_start(self(), [])
    end

    test "no watcher at all" do
      assert_raise ArgumentError, fn -> Native.watcher_report(make_ref()) end
    end
  end

  test "trim does what the VM offers" do
    assert Native.trim() == if(Native.trim_supported(), do: :ok, else: :unsupported)
  end
end
