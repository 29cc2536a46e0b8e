defmodule OOM.Supervisor.Callback do
  @moduledoc false
  # The callback module of `:supervisor`: calls the user's module and wraps the children from the result.
  # Also called on a hot code change, so all side effects (notes and rows) can be repeated.

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

  # Called before the children start, which may be supervisors too. Children of a template are not wrapped:
  # the walk finds them, and a visit tells this supervisor of a kill, as with a plain supervisor.
  defp known(flags, options) do
    strategy = strategy(flags)

    kind =
      cond do
        options[:inside_unit] -> :inside
        strategy == :simple_one_for_one -> :supervisor
        true -> :oom
      end

    # Once a unit has started, its row is the parent's and stays, also on a code change.
    Tables.while_there(fn ->
      if Tree.kind(self()) != :unit do
        Tree.put(self(), kind, Tree.Start.parent(), options)

        # No child takes a sibling down, so no walk has to ask for the facts.
        if strategy == :one_for_one and auto_shutdown(flags) == :never,
          do: Tree.put_facts(self(), {:one_for_one, :never, []})
      end
    end)
  end

  # On a code change no process starts this supervisor, and the options of its start still hold.
  defp inherited do
    with nil <- Process.get({__MODULE__, :inherited}) do
      inherited = Tree.Start.inherited()
      Process.put({__MODULE__, :inherited}, inherited)
      inherited
    end
  end

  @doc "Returns the options for children added later."
  @spec options() :: keyword()
  def options, do: elem(noted(), 1)

  @spec strategy() :: term()
  def strategy, do: elem(noted(), 0)

  @typedoc "The strategy and the options, kept beside OTP's state."
  @type noted :: {strategy :: term(), options :: keyword()}

  @spec noted() :: noted()
  def noted, do: Process.get(__MODULE__, {:one_for_one, []})

  @doc "Tells whether the calling process is an OOM.Supervisor."
  @spec here?() :: boolean()
  def here?, do: Process.get(__MODULE__) != nil

  @doc "Notes strategy and options; also restores them where OTP refuses a code change."
  @spec note(noted()) :: :ok
  def note(noted) do
    Process.put(__MODULE__, noted)
    :ok
  end

  # A template takes further arguments at each start, so the specification stays as given.
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
