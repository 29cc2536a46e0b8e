defmodule OOM.Test.Cgroup do
  @moduledoc false
  # A real memory cgroup with a limit, on v1 or v2, for the length of a test.

  defstruct [:path, :version]

  @type t :: %__MODULE__{path: Path.t(), version: 1 | 2}

  @doc "Returns why no cgroup can be made here, or `nil` if possible."
  @spec unavailable() :: String.t() | nil
  def unavailable do
    case mount() do
      nil ->
        "no memory cgroup is mounted"

      {_version, root} ->
        # Test files are compiled side by side, and each asks.
        name = "oom_test_probe_#{System.pid()}_#{System.unique_integer([:positive])}"
        probe = Path.join(root, name)

        with :ok <- File.mkdir(probe), :ok <- File.rmdir(probe) do
          nil
        else
          {:error, reason} -> "cannot make a cgroup in #{root}: #{:file.format_error(reason)}"
        end
    end
  end

  @spec version() :: 1 | 2 | nil
  def version, do: with({version, _root} <- mount(), do: version)

  @spec create!(pos_integer()) :: t()
  def create!(limit_bytes) do
    {version, root} = mount()
    cgroup = make!(%__MODULE__{path: root, version: version})
    limit!(cgroup, limit_bytes)
    cgroup
  end

  @doc "Creates a cgroup inside another, which has no processes itself; without a limit."
  @spec below!(t()) :: t()
  def below!(parent), do: make!(parent)

  defp make!(parent) do
    name = "oom_test_#{System.pid()}_#{System.unique_integer([:positive])}"
    if parent.version == 2, do: File.write(file(parent, "cgroup.subtree_control"), "+memory")
    cgroup = %{parent | path: file(parent, name)}
    File.mkdir!(cgroup.path)
    cgroup
  end

  @spec limit!(t(), pos_integer()) :: :ok
  def limit!(%{version: 1} = cgroup, bytes),
    do: write!(cgroup, "memory.limit_in_bytes", bytes)

  def limit!(%{version: 2} = cgroup, bytes) do
    write!(cgroup, "memory.max", bytes)
    if File.exists?(file(cgroup, "memory.swap.max")), do: write!(cgroup, "memory.swap.max", 0)
    :ok
  end

  @spec procs(t()) :: Path.t()
  def procs(cgroup), do: file(cgroup, "cgroup.procs")

  @doc "Moves all processes of `from` to `to`."
  @spec move_all!(t(), t()) :: :ok
  def move_all!(from, to) do
    for pid <- from |> procs() |> File.read!() |> String.split(),
        do: write!(to, "cgroup.procs", pid)

    :ok
  end

  @doc "Returns the bytes charged to the cgroup now, with cached files."
  @spec usage(t()) :: non_neg_integer()
  def usage(%{version: 1} = cgroup), do: number(cgroup, "memory.usage_in_bytes")
  def usage(%{version: 2} = cgroup), do: number(cgroup, "memory.current")

  @doc "Returns the bytes of kernel memory charged to the cgroup, names of files included."
  @spec kernel_bytes(t()) :: non_neg_integer()
  def kernel_bytes(%{version: 1} = cgroup), do: number(cgroup, "memory.kmem.usage_in_bytes")
  def kernel_bytes(%{version: 2} = cgroup), do: counter(cgroup, "memory.stat", "slab_reclaimable")

  @doc "Returns the number of processes the kernel has killed in the cgroup."
  @spec oom_kills(t()) :: non_neg_integer()
  def oom_kills(%{version: 1} = cgroup), do: counter(cgroup, "memory.oom_control", "oom_kill")
  def oom_kills(%{version: 2} = cgroup), do: event(cgroup, "oom_kill")

  @doc "Returns the count of an event of `memory.events` in the cgroup."
  @spec event(t(), String.t()) :: non_neg_integer()
  def event(%{version: 2} = cgroup, name), do: counter(cgroup, "memory.events", name)

  @doc """
  Returns the bytes of file pages the kernel prefers to keep because they were read again. A
  kernel with the multi-generational LRU shows only mapped ones as active, so there all cached
  file pages count.
  """
  @spec kept_file_bytes(t()) :: non_neg_integer()
  def kept_file_bytes(cgroup) do
    active = counter(cgroup, "memory.stat", "active_file")

    case File.read("/sys/kernel/mm/lru_gen/enabled") do
      {:ok, "0x0000\n"} -> active
      {:ok, _generations} -> active + counter(cgroup, "memory.stat", "inactive_file")
      {:error, _} -> active
    end
  end

  @doc "Returns the number in a file of the cgroup; `nil` where the kernel has no such file."
  @spec number(t(), String.t()) :: non_neg_integer() | nil
  def number(cgroup, name) do
    with {:ok, text} <- File.read(file(cgroup, name)),
         {number, "\n"} <- Integer.parse(text),
         do: number,
         else: (_ -> nil)
  end

  @doc "Removes the cgroup, once its processes are gone."
  @spec destroy(t(), non_neg_integer()) :: :ok
  def destroy(cgroup, attempts \\ 500) do
    case File.rmdir(cgroup.path) do
      :ok -> :ok
      {:error, :enoent} -> :ok
      {:error, _busy} when attempts > 0 -> pause(fn -> destroy(cgroup, attempts - 1) end)
      {:error, reason} -> raise "#{cgroup.path}: #{:file.format_error(reason)}"
    end
  end

  defp counter(cgroup, name, key) do
    [_, count] = Regex.run(~r/^#{key} (\d+)$/m, File.read!(file(cgroup, name)))
    String.to_integer(count)
  end

  # A dead process leaves its cgroup a moment after its parent is told.
  defp pause(fun) do
    Process.sleep(10)
    fun.()
  end

  @spec write!(t(), String.t(), term()) :: :ok
  def write!(cgroup, name, value), do: File.write!(file(cgroup, name), to_string(value))
  defp file(cgroup, name), do: Path.join(cgroup.path, name)

  defp mount do
    lines = "/proc/self/mountinfo" |> File.read!() |> String.split("\n", trim: true)
    mounts = Enum.map(lines, &parse/1)

    v1 = for {"cgroup", point, options} <- mounts, "memory" in options, do: {1, point}

    v2 =
      for {"cgroup2", point, _} <- mounts,
          {:ok, controllers} <- [File.read(Path.join(point, "cgroup.controllers"))],
          "memory" in String.split(controllers),
          do: {2, point}

    List.first(v1 ++ v2)
  end

  defp parse(line) do
    [left, right] = String.split(line, " - ", parts: 2)
    [type, _source, options | _] = String.split(right, " ")
    {type, left |> String.split(" ") |> Enum.at(4), String.split(options, ",")}
  end
end
