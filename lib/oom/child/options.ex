defmodule OOM.Child.Options do
  @moduledoc false
  # The options of a child for this library.

  alias OOM.{Config, Priority}

  @options [:priority, :max_heap_size, :backoff, :unit, :max_kills, :handle_pressure, :shed]

  @doc "Returns the options for this library."
  @spec take(keyword()) :: keyword()
  def take(options), do: Keyword.take(options, @options)

  @doc "Checks the options of `OOM.child_spec/2` that are ours; returns `{ours, rest}`."
  @spec split!(keyword()) :: {keyword(), keyword()}
  def split!(options) do
    keyword!("options", options)

    {ours, rest} = Keyword.split(options, @options)
    {check!(ours), rest}
  end

  @adopted [:priority, :backoff, :max_kills, :priorities, :exit_reason]

  @doc "Checks the options of `OOM.adopt/2`, and returns them."
  @spec adopted!(keyword()) :: keyword()
  def adopted!(options) do
    keyword!("options", options)

    Enum.map(options, fn
      {:priorities, rules} -> {:priorities, rules!(rules)}
      {:exit_reason, reason} when reason in [:kill, :shutdown] -> {:exit_reason, reason}
      {:exit_reason, other} -> wrong!(":exit_reason to be :kill or :shutdown", other)
      {name, _} = option when name in @adopted -> hd(check!([option]))
      other -> wrong!("one of the options #{Enum.map_join(@adopted, ", ", &inspect/1)}", other)
    end)
  end

  defp rules!(rules) do
    unless is_list(rules) and Enum.all?(rules, &match?({_key, _priority}, &1)),
      do: wrong!(":priorities to be a list of {id, module or name, priority}", rules)

    for {key, priority} <- rules do
      _ = Priority.rank!(priority)
      {key, priority}
    end
  end

  defp keyword!(name, options) do
    unless Keyword.keyword?(options), do: wrong!("#{name} to be a keyword list", options)
  end

  @doc "Refuses a value."
  @spec wrong!(String.t(), term()) :: no_return()
  def wrong!(expected, got),
    do: raise(ArgumentError, "expected #{expected}, got: #{inspect(got)}")

  @doc "Checks options that must all be ours, and returns them."
  @spec check!(keyword()) :: keyword()
  def check!(options) do
    keyword!(":oom", options)

    Enum.map(options, fn
      {:priority, priority} ->
        _ = Priority.rank!(priority)
        {:priority, priority}

      {:max_heap_size, size} ->
        {:max_heap_size, Config.max_heap_size!(size)}

      {:backoff, backoff} ->
        {:backoff, Config.backoff!(backoff)}

      {:unit, unit} when is_boolean(unit) ->
        {:unit, unit}

      {:unit, other} ->
        wrong!(":unit to be true or false", other)

      {:max_kills, kills} ->
        {:max_kills, Config.max_kills!(kills)}

      {:shed, share} ->
        {:shed, Config.shed!(share)}

      {:handle_pressure, handle?} ->
        {:handle_pressure, Config.handle_pressure!(handle?)}

      {name, value} ->
        raise ArgumentError,
              "unknown option #{inspect(name)}, expected one of " <>
                "#{Enum.map_join(@options, ", ", &inspect/1)}, got: #{inspect([{name, value}])}"
    end)
  end
end
