defmodule Arena.Used do
  @moduledoc false
  # The working set of this VM's cgroup, from the kernel's files and independent of OOM: charged
  # memory, less file pages, which the kernel takes back before it kills. Pages of tmpfs and
  # shared memory are no file pages: the kernel counts them on the anonymous lists.

  @files %{1 => "memory.usage_in_bytes", 2 => "memory.current"}
  # v1 shows the whole subtree under separate names.
  @prefix %{1 => "total_", 2 => ""}

  @type cgroup :: {1 | 2, Path.t()}

  @doc "Returns the memory cgroup of this VM."
  @spec cgroup() :: cgroup()
  def cgroup do
    lines = "/proc/self/cgroup" |> File.read!() |> String.split("\n", trim: true)
    mounts = "/proc/self/mountinfo" |> File.read!() |> String.split("\n", trim: true)

    own =
      for line <- lines,
          [_, controllers, path] <- [String.split(line, ":", parts: 3)],
          {version, type} <- version(controllers),
          {mount, root} <- mounted(mounts, type),
          dir = Path.join(mount, below(path, root)),
          File.exists?(Path.join(dir, @files[version])),
          do: {version, dir}

    own |> Enum.sort() |> List.first() || raise "this VM is in no memory cgroup"
  end

  @spec bytes(cgroup()) :: non_neg_integer()
  def bytes({version, dir}) do
    usage = dir |> Path.join(@files[version]) |> File.read!() |> String.trim()
    stat = dir |> Path.join("memory.stat") |> File.read!()
    max(String.to_integer(usage) - file_bytes(stat, @prefix[version]), 0)
  end

  @doc "Returns the bytes of file pages in the text of a `memory.stat`."
  @spec file_bytes(String.t(), String.t()) :: non_neg_integer()
  def file_bytes(stat, prefix) do
    for name <- ["inactive_file", "active_file"], reduce: 0 do
      sum ->
        [_, bytes] = Regex.run(~r/^#{prefix}#{name} (\d+)$/m, stat)
        sum + String.to_integer(bytes)
    end
  end

  defp version(""), do: [{2, "cgroup2"}]

  defp version(controllers),
    do: if("memory" in String.split(controllers, ","), do: [{1, "cgroup"}], else: [])

  defp mounted(mounts, type) do
    for line <- mounts,
        [left, right] = String.split(line, " - ", parts: 2),
        [^type, _, options] <- [String.split(right, " ", parts: 3)],
        type == "cgroup2" or "memory" in String.split(options, ","),
        [_, _, _, root, point | _] = String.split(left, " "),
        do: {point, root}
  end

  # A container sees only a part of the tree.
  defp below(path, "/"), do: path
  defp below(path, root), do: String.replace_prefix(path, root, "")
end
