defmodule Arena.DecisionCode do
  @moduledoc false
  # A hash of the deciding code, in a few digits: figures of two hashes belong to two guards.
  # Comments and docs decide nothing, so better wording does not make figures obsolete.

  @patterns ["lib/oom/**/*.ex", "native/oom/src/**/*.rs"]
  # Modules starting the library or reporting: no suspension, kill or return depends on these modules.
  @telling ~w(application branch bytes held log log_filter notifier reporter reporter/* info/* supervisor/reports
              supervisor/rejoin usage)
  @digits 12
  @words [:moduledoc, :doc, :typedoc]

  @doc "Returns the hash of the sources below `root`; the scripts compile the sources before anything runs."
  @spec hash(Path.t()) :: String.t()
  def hash(root \\ ".") do
    files = for pattern <- @patterns, path <- Path.wildcard(Path.join(root, pattern)), do: path

    telling =
      for name <- @telling, path <- Path.wildcard(Path.join(root, "lib/oom/#{name}.ex")), do: path

    (files -- telling)
    |> Enum.sort()
    |> Enum.reduce(:crypto.hash_init(:sha256), fn path, context ->
      code = path |> File.read!() |> code(Path.extname(path))
      head = "#{Path.relative_to(path, root)} #{byte_size(code)}\n"
      context |> :crypto.hash_update(head) |> :crypto.hash_update(code)
    end)
    |> :crypto.hash_final()
    |> Base.encode16(case: :lower)
    |> String.slice(0, @digits)
  end

  defp code(text, ".ex") do
    text
    |> Code.string_to_quoted!()
    |> Macro.prewalk(fn
      {:@, _, [{word, _, _}]} when word in @words -> nil
      {name, _meta, arguments} -> {name, [], arguments}
      other -> other
    end)
    |> :erlang.term_to_binary()
  end

  defp code(text, ".rs") do
    text
    |> String.split("\n")
    |> Enum.map(&String.trim/1)
    |> Enum.reject(&(&1 == "" or String.starts_with?(&1, "//")))
    |> Enum.join("\n")
  end
end
