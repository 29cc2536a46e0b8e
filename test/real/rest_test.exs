defmodule OOM.Real.RestTest do
  @moduledoc false
  # A watcher at rest sleeps until the kernel reports growth of usage. The next look is an hour
  # away, so only the kernel can wake the watcher.

  use ExUnit.Case, async: false

  import OOM.Test.Eventually

  alias OOM.Test.{Cgroup, LimitedVM, LoneWatcher}

  @moduletag :cgroup
  @moduletag skip:
               Cgroup.unavailable() ||
                 (Cgroup.version() != 1 && "only v1 has thresholds of usage")
  @moduletag timeout: 120_000

  @mib 1_048_576
  # An eighth of the way to the floor may pass unheard.
  @burst 40 * @mib
  @hour_ms 3_600_000
  @hour %{min_interval_ms: @hour_ms, max_interval_ms: @hour_ms}

  setup do
    vm = LimitedVM.start!(256 * @mib, nil)
    before = %{events: events(vm), threads: threads(vm)}
    call(vm, :start, [@hour])
    assert events(vm) == before.events + 1
    %{vm: vm, before: before}
  end

  test "hears a burst, and leaves nothing behind", %{vm: vm, before: before} do
    assert report(vm).source == :cgroup_v1
    listening(vm, before)
    samples = report(vm).samples
    call(vm, :take, [@burst])
    %{working_set_bytes: bytes} = eventually(fn -> later(vm, samples) end)
    assert bytes > @burst

    # Once more, from the present usage.
    listening(vm, before)
    samples = report(vm).samples
    call(vm, :take, [@burst])
    eventually(fn -> later(vm, samples) end)

    call(vm, :stop)
    # The mailbox stays until the last reference is gone.
    assert {events(vm), threads(vm)} == {before.events + 1, before.threads}
  end

  test "hears a process in another cgroup after a move", %{vm: vm, before: before} do
    listening(vm, before)
    other = Cgroup.create!(200 * @mib)
    on_exit(fn -> Cgroup.destroy(other) end)
    Cgroup.move_all!(vm.cgroup, other)
    eventually(fn -> sampled(vm).limit_bytes == 200 * @mib end)
    listening(vm, before)
    samples = report(vm).samples
    call(vm, :take, [@burst])
    eventually(fn -> later(vm, samples) end)
    LimitedVM.stop(vm)
  end

  defp report(vm), do: call(vm, :report)

  defp later(vm, samples) do
    report = report(vm)
    report.samples > samples && report
  end

  defp sampled(vm) do
    samples = report(vm).samples
    call(vm, :sample)
    eventually(fn -> later(vm, samples) end)
  end

  # Waits until the watcher has found the working set at rest and the kernel has taken the
  # threshold.
  defp listening(vm, before) do
    eventually(fn ->
      sampled(vm)
      registered? = registered?(vm, before)
      # A registered threshold is heard from the next look on, unless that look registers another.
      sampled(vm)
      registered? and registered?(vm, before)
    end)
  end

  defp registered?(vm, before),
    do: events(vm) == before.events + 2 and threads(vm) == before.threads + 1

  defp events(vm) do
    Enum.count(Path.wildcard("/proc/#{vm.os_pid}/fdinfo/*"), fn file ->
      # Read once: the VM closes files while the test looks at them.
      case File.read(file) do
        {:ok, text} -> text =~ "eventfd-count"
        {:error, _} -> false
      end
    end)
  end

  # A registering thread is visible from its first moment on.
  defp threads(vm), do: length(File.ls!("/proc/#{vm.os_pid}/task"))

  defp call(vm, function, args \\ []), do: LimitedVM.call(vm, LoneWatcher, function, args)
end
