defmodule OOM.Bridge.Options do
  @moduledoc false
  # The options of a bridge.

  @defaults [at: :high, clear_headroom_percent: 15, clear_after_ms: 1_000]
  @levels [:elevated, :high, :critical]

  @doc "Checks the options, and fills in the defaults. Raises `ArgumentError`."
  @spec check!(keyword()) :: keyword()
  def check!(options) do
    unless Keyword.keyword?(options),
      do: wrong!("options of a bridge to be a keyword list", options)

    unless Keyword.has_key?(options, :to), do: wrong!("the option :to of a bridge", options)
    for option <- options, do: check_one!(option)
    Keyword.merge(@defaults, options)
  end

  @doc "Checks a configured list of bridges, and returns the options of each."
  @spec configured!(term()) :: [keyword()]
  def configured!(bridges) do
    unless is_list(bridges),
      do: wrong!(":bridges to be a list of targets, or of {target, options}", bridges)

    checked =
      Enum.map(bridges, fn
        {target, options} when is_list(options) -> check!([{:to, target} | options])
        target -> check!(to: target)
      end)

    targets = Enum.map(checked, & &1[:to])
    if Enum.uniq(targets) != targets, do: wrong!(":bridges to name each target once", bridges)
    checked
  end

  defp check_one!({:to, target}) when target in [:rabbit_alarm, :alarm_handler], do: :ok
  defp check_one!({:to, target}) when is_function(target, 1), do: :ok

  # `length/1` rules out an improper list.
  defp check_one!({:to, {module, function, arguments}})
       when is_atom(module) and is_atom(function) and length(arguments) >= 0,
       do: :ok

  defp check_one!({:to, other}) do
    wrong!(
      ":to to be :rabbit_alarm, :alarm_handler, a function of one argument or {module, function, args}",
      other
    )
  end

  defp check_one!({:at, level}) when level in @levels, do: :ok
  defp check_one!({:at, other}), do: wrong!(":at to be :elevated, :high or :critical", other)
  defp check_one!({:clear_headroom_percent, percent}) when percent in 1..99, do: :ok

  defp check_one!({:clear_headroom_percent, other}),
    do: wrong!(":clear_headroom_percent to be an integer from 1 to 99", other)

  defp check_one!({:clear_after_ms, ms}) when is_integer(ms) and ms > 0, do: :ok

  defp check_one!({:clear_after_ms, other}),
    do: wrong!(":clear_after_ms to be a positive integer", other)

  defp check_one!(other) do
    names = Enum.map_join([:to | Keyword.keys(@defaults)], ", ", &inspect/1)
    wrong!("one of the options #{names} of a bridge", other)
  end

  @spec wrong!(String.t(), term()) :: no_return()
  defp wrong!(expected, got),
    do: raise(ArgumentError, "expected #{expected}, got: #{inspect(got)}")
end
