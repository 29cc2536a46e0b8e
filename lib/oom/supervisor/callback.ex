defmodule OOM.Supervisor.Callback do
  @moduledoc false
  # The callback module `:supervisor` calls: asks the user's module and wraps the children it
  # names. Also called on a hot code change, so it has no side effects but the strategy it notes.

  alias OOM.{Child, Tables, Tree}

  @type arg :: {module(), term(), keyword()}

  @spec init(arg()) :: term()
  def init({module, arg, options}) do
    case module.init(arg) do
      {:ok, {flags, specs}} when is_list(specs) ->
        {inner, flags} = pop_options(flags)

        inherited = inherited()

        own =
          options
          |> Keyword.merge(Child.Options.check!(inner))
          |> Keyword.merge(Tree.Start.declared())

        options = Keyword.merge(Keyword.delete(inherited, :inside_unit), own)
        strategy = strategy(flags)
        note({strategy, options})
        known(flags, Keyword.merge(inherited, own))
        {:ok, {flags, wrap(specs, strategy, options)}}

      other ->
        other
    end
  end

  # Before its children start, which may be supervisors, too. The children of a template are not
  # wrapped; they are found, and this supervisor is told of their kill, like any other.
  defp known(flags, options) do
    strategy = strategy(flags)

    kind =
      cond do
        options[:inside_unit] -> :inside
        strategy == :simple_one_for_one -> :supervisor
        true -> :oom
      end

    # A unit is what its supervisor made it, once it was started.
    Tables.while_there(fn ->
      if Tree.kind(self()) != :unit do
        Tree.put(self(), kind, Tree.Start.parent(), options)

        # Its children go one by one, and nobody has to ask who goes with whom.
        if strategy == :one_for_one and auto_shutdown(flags) == :never,
          do: Tree.put_facts(self(), {:one_for_one, :never, []})
      end
    end)
  end

  # On a code change nobody is starting this supervisor, and what it was started with holds.
  defp inherited do
    with nil <- Process.get({__MODULE__, :inherited}) do
      inherited = Tree.Start.inherited()
      Process.put({__MODULE__, :inherited}, inherited)
      inherited
    end
  end

  @doc "The options for children added later."
  @spec options() :: keyword()
  def options, do: elem(noted(), 1)

  @spec strategy() :: term()
  def strategy, do: elem(noted(), 0)

  @typedoc "What the supervisor goes by, besides OTP's state."
  @type noted :: {strategy :: term(), options :: keyword()}

  @spec noted() :: noted()
  def noted, do: Process.get(__MODULE__, {:one_for_one, []})

  @doc "Whether the calling process is an OOM.Supervisor."
  @spec here?() :: boolean()
  def here?, do: Process.get(__MODULE__) != nil

  @doc "Also to go back to what it was, where OTP refuses what a code change has brought."
  @spec note(noted()) :: :ok
  def note(noted) do
    Process.put(__MODULE__, noted)
    :ok
  end

  # A template takes further arguments at each start; it is left as it is.
  defp wrap(specs, :simple_one_for_one, _options), do: specs
  defp wrap(specs, _strategy, options), do: Enum.map(specs, &Child.Spec.wrap(&1, options))

  defp pop_options(%{} = flags), do: Map.pop(flags, :oom, [])
  defp pop_options(flags), do: {[], flags}

  defp auto_shutdown(%{} = flags), do: Map.get(flags, :auto_shutdown, :never)
  defp auto_shutdown(_), do: :never

  defp strategy(%{} = flags), do: Map.get(flags, :strategy, :one_for_one)
  defp strategy(flags) when is_tuple(flags), do: elem(flags, 0)
  defp strategy(_), do: :one_for_one
end
