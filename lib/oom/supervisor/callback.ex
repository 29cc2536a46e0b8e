defmodule OOM.Supervisor.Callback do
  @moduledoc false
  # The callback module of `:supervisor`: calls the user's module and wraps the children from the result.
  # Also called on a hot code change, so all side effects (notes and rows) can be repeated.

  alias OOM.{Child, Tables, Tree, Visit}

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
        alone? = auto_shutdown(flags) == :never and not Visit.fatal_at?(intensity(flags))
        known(strategy, alone?, Keyword.merge(inherited, own))
        {:ok, {flags, wrap(specs, strategy, options)}}

      other ->
        other
    end
  end

  # Called before the children start, which may be supervisors too. Children of a template are not wrapped:
  # the walk finds them, and a visit tells this supervisor of a kill, as with a plain supervisor.
  defp known(strategy, alone?, options) do
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
        if strategy == :one_for_one and alone?,
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

  @doc """
  Enters this supervisor again, in new tables. `alone?` tells that no end of a child ends the supervisor.
  """
  @spec rejoin(boolean()) :: :ok
  def rejoin(alone?) do
    # The supervisor above has entered itself and this supervisor before.
    inherited = Tree.Start.here()
    Process.put({__MODULE__, :inherited}, inherited)
    {strategy, own} = noted()
    known(strategy, alone?, Keyword.merge(inherited, own))
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

  defp intensity(%{} = flags), do: Map.get(flags, :intensity, 1)
  defp intensity(flags) when is_tuple(flags), do: elem(flags, 1)
  defp intensity(_), do: 1

  defp strategy(%{} = flags), do: Map.get(flags, :strategy, :one_for_one)
  defp strategy(flags) when is_tuple(flags), do: elem(flags, 0)
  defp strategy(_), do: :one_for_one
end
