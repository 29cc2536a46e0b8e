defmodule Demo.Limit do
  @moduledoc false
  # Runs a command under the limit found by demo/limit.sh, and reads the memory used under the
  # limit from the kernel's files, from outside.

  @enforce_keys [:kind, :path, :bytes]
  defstruct [:kind, :path, :bytes]

  @type kind :: :cgroup_v2 | :cgroup_v1 | :systemd | :rlimit
  @type t :: %__MODULE__{kind: kind(), path: Path.t(), bytes: pos_integer()}

  @files %{
    cgroup_v2: {"memory.current", "memory.max", "memory.events"},
    cgroup_v1: {"memory.usage_in_bytes", "memory.limit_in_bytes", "memory.oom_control"}
  }

  @spec new(String.t(), Path.t(), pos_integer()) :: t()
  def new(kind, path, bytes) when kind in ~w(cgroup_v2 cgroup_v1 systemd rlimit),
    do: %__MODULE__{kind: String.to_atom(kind), path: path, bytes: bytes}

  @doc "Describes the limit for the reader."
  @spec describe(t()) :: String.t()
  def describe(%{kind: :cgroup_v2} = limit),
    do: "cgroup v2, #{limit.path}/memory.max = #{limit.bytes} bytes"

  def describe(%{kind: :cgroup_v1} = limit),
    do: "cgroup v1, #{limit.path}/memory.limit_in_bytes = #{limit.bytes} bytes"

  def describe(%{kind: :systemd} = limit),
    do: "a systemd scope, MemoryMax=#{limit.bytes} bytes, MemorySwapMax=0"

  def describe(%{kind: :rlimit} = limit),
    do: "RLIMIT_DATA (ulimit -d) = #{limit.bytes} bytes; no cgroup could be made here"

  @doc """
  Returns the program and arguments that run `command` under the limit.

  Each step replaces itself by the next, so the status seen is the status of the VM.
  """
  @spec wrap(t(), [String.t()]) :: {Path.t(), [String.t()]}
  def wrap(%{kind: :systemd} = limit, command) do
    user = if System.cmd("id", ["-u"]) == {"0\n", 0}, do: "--system", else: "--user"
    properties = ["-p", "MemoryMax=#{limit.bytes}", "-p", "MemorySwapMax=0"]
    {executable("systemd-run"), [user, "--scope", "--quiet"] ++ properties ++ command}
  end

  def wrap(%{kind: :rlimit} = limit, command),
    do: shell(~s(ulimit -d "$0" && exec "$@"), "#{div(limit.bytes, 1024)}", command)

  def wrap(limit, command),
    do: shell(~s(echo $$ > "$0" && exec "$@"), Path.join(limit.path, "cgroup.procs"), command)

  @doc "Returns a function that reads the usage of the process `pid` or its cgroup."
  @spec usage(t(), pos_integer()) :: (... -> non_neg_integer() | nil)
  def usage(%{kind: :rlimit}, pid), do: fn -> data_bytes(pid) end

  def usage(limit, pid) do
    {dir, {usage, _, _}} = dir(limit, pid)
    fn -> dir |> Path.join(usage) |> integer() end
  end

  @doc "Returns the number of kernel kills for this limit, or `nil` where unknown."
  @spec kernel_kills(t()) :: non_neg_integer() | nil
  def kernel_kills(%{path: ""}), do: nil

  def kernel_kills(%{kind: kind, path: path}) do
    {_, _, events} = @files[kind]

    with {:ok, text} <- path |> Path.join(events) |> File.read(),
         [_, count] <- Regex.run(~r/^oom_kill (\d+)$/m, text) do
      String.to_integer(count)
    else
      _ -> nil
    end
  end

  # Only the scope's process knows its cgroup.
  defp dir(%{kind: :systemd, bytes: bytes}, pid) do
    cgroups = File.read!("/proc/#{pid}/cgroup")
    mounts = File.read!("/proc/self/mountinfo")

    found =
      for {kind, line, mount} <- [
            {:cgroup_v2, ~r/^0::(.*)$/m, ~r/^\S+ \S+ \S+ \S+ (\S+) .* - cgroup2 /m},
            {:cgroup_v1, ~r/^\d+:memory:(.*)$/m,
             ~r/^\S+ \S+ \S+ \S+ (\S+) .* - cgroup .*\bmemory\b/m}
          ],
          [_, path] <- [Regex.run(line, cgroups)],
          [_, mount] <- [Regex.run(mount, mounts)],
          {_, max, _} = files = @files[kind],
          integer(Path.join([mount, path, max])) == bytes,
          do: {Path.join(mount, path), files}

    case found do
      [dir | _] -> dir
      [] -> raise "systemd-run did not put process #{pid} under a limit of #{bytes} bytes"
    end
  end

  defp dir(%{kind: kind, path: path}, _pid), do: {path, @files[kind]}

  # The bytes RLIMIT_DATA counts.
  defp data_bytes(pid) do
    with {:ok, status} <- File.read("/proc/#{pid}/status"),
         [_, kib] <- Regex.run(~r/^VmData:\s+(\d+) kB$/m, status) do
      String.to_integer(kib) * 1024
    else
      _ -> nil
    end
  end

  defp integer(path) do
    with {:ok, text} <- File.read(path),
         {bytes, _} <- Integer.parse(text),
         do: bytes,
         else: (_ -> nil)
  end

  defp shell(script, argument, command),
    do: {executable("sh"), ["-c", script, argument] ++ command}

  defp executable(name),
    do: System.find_executable(name) || raise("#{name} was not found in PATH")
end
