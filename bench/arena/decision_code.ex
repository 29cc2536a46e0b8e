defmodule Arena.DecisionCode do
  @moduledoc false
  # Which code decided, in a few digits: figures of two hashes are of two guards.

  @patterns ["lib/oom/**/*.ex", "native/oom/src/**/*.rs"]
  @digits 12

  @doc "Of the sources below a directory; the scripts compile them before anything runs."
  @spec hash(Path.t()) :: String.t()
  def hash(root \\ ".") do
    files = for pattern <- @patterns, path <- Path.wildcard(Path.join(root, pattern)), do: path

    files
    |> Enum.sort()
    |> Enum.reduce(:crypto.hash_init(:sha256), fn path, context ->
      text = File.read!(path)
      head = "#{Path.relative_to(path, root)} #{byte_size(text)}\n"
      context |> :crypto.hash_update(head) |> :crypto.hash_update(text)
    end)
    |> :crypto.hash_final()
    |> Base.encode16(case: :lower)
    |> String.slice(0, @digits)
  end
end
