defmodule OOM.Test.Chaos.Outside do
  @moduledoc false
  # Disturbances of a VM from outside: a moving limit, a move to another cgroup, vanishing files,
  # no descriptors, a jumping clock, a stop, nodes coming and going.

  alias OOM.Test.{Cgroup, LimitedVM}

  @mib 1_048_576
  @faketime "/usr/lib/*/faketime/libfaketimeMT.so.1"
  @wall_file "chaos_wall_clock"

  @doc "Returns the command before `erl`: separate mounts, and a movable clock where faketime exists."
  @spec through(Path.t()) :: String.t()
  def through(dir) do
    # Separate mounts, so files can vanish for this VM alone.
    own = "unshare --mount --propagation private env"

    case faketime() do
      nil ->
        own

      library ->
        File.write!(wall_file(dir), "+0")

        own <>
          " LD_PRELOAD=#{library} FAKETIME_TIMESTAMP_FILE=#{wall_file(dir)}" <>
          " FAKETIME_CACHE_DURATION=1 DONT_FAKE_MONOTONIC=1 FAKETIME_DONT_RESET=1"
    end
  end

  @spec faketime() :: Path.t() | nil
  def faketime, do: @faketime |> Path.wildcard() |> List.first()

  @doc "Moves the wall clock of the VM by so many seconds from the true time."
  @spec clock(Path.t(), integer()) :: :ok
  def clock(dir, seconds) do
    sign = if seconds < 0, do: "", else: "+"
    File.write!(wall_file(dir), "#{sign}#{seconds}")
  end

  defp wall_file(dir), do: Path.join(dir, @wall_file)

  @doc """
  Sets the limit of the VM's cgroup to `bytes`, or to its usage plus 200 MiB where larger;
  returns the limit set.
  """
  @spec move_limit(Cgroup.t(), pos_integer()) :: pos_integer()
  def move_limit(cgroup, bytes) do
    bytes = max(bytes, Cgroup.usage(cgroup) + 200 * @mib)
    :ok = Cgroup.limit!(cgroup, bytes)
    bytes
  end

  @doc "Hides the files of the VM's cgroup behind no files, or random files, until `show/1`."
  @spec hide(LimitedVM.t(), Path.t(), :nothing | :garbage) :: :ok
  def hide(vm, dir, what) do
    fake = Path.join(dir, "fake_#{System.unique_integer([:positive])}")
    File.mkdir_p!(fake)

    if what == :garbage do
      for name <- File.ls!(vm.cgroup.path),
          do: File.write!(Path.join(fake, name), :rand.bytes(Enum.random(0..300)))
    end

    in_mounts(vm, ["mount", "--bind", fake, vm.cgroup.path])
  end

  @spec show(LimitedVM.t()) :: :ok
  # Some files may still be open.
  def show(vm), do: in_mounts(vm, ["umount", "--lazy", vm.cgroup.path])

  defp in_mounts(vm, command),
    do: run("nsenter", ["--target", vm.os_pid, "--mount", "--" | command])

  @doc "Takes all unused descriptors, until `more_files/1`."
  @spec no_more_files(LimitedVM.t()) :: :ok
  def no_more_files(vm), do: nofile(vm, length(files(vm)))

  @spec more_files(LimitedVM.t()) :: :ok
  def more_files(vm), do: nofile(vm, 1_024)

  defp nofile(vm, count), do: run("prlimit", ["--pid", vm.os_pid, "--nofile=#{count}:"])

  @spec signal(LimitedVM.t(), String.t()) :: :ok
  def signal(vm, name), do: run("kill", ["-#{name}", vm.os_pid])

  @spec files(LimitedVM.t()) :: [String.t()]
  def files(vm), do: File.ls!("/proc/#{vm.os_pid}/fd")

  @spec threads(LimitedVM.t()) :: pos_integer()
  def threads(vm), do: length(File.ls!("/proc/#{vm.os_pid}/task"))

  @spec rss_bytes(LimitedVM.t()) :: pos_integer()
  def rss_bytes(vm) do
    [_, pages | _] = String.split(File.read!("/proc/#{vm.os_pid}/statm"), " ")
    String.to_integer(pages) * 4_096
  end

  defp run(command, arguments) do
    case System.cmd(command, arguments, stderr_to_stdout: true) do
      {_, 0} -> :ok
      {text, status} -> raise "#{command} #{Enum.join(arguments, " ")}: #{status}: #{text}"
    end
  end
end
