defmodule OOM.Config do
  @moduledoc false
  # The options of `config :oom`: validated once, when the application starts, and passed on as a struct. The
  # table of the checks also holds the docs of the options.

  @type t :: %__MODULE__{}

  # The largest numbers for the native side and for the VM's timers.
  @most 0x7FFFFFFFFFFFFFFF
  @most_ms 0xFFFFFFFF

  @options [
    limit: {
      nil,
      :limit,
      "a limit in bytes of your own, besides those the system sets; the tightest binds. It is " <>
        "compared with this VM's resident memory"
    },
    watermarks: {
      :auto,
      :watermarks,
      "`[elevated: 0.42, high: 0.51, critical: 0.61]`: the share of the limit at which each level " <>
        "begins. `:auto` derives them from the limit, so that the headroom is large enough for a " <>
        "leak at full speed and no larger"
    },
    time_to_exhaustion_ms: {
      [elevated: 4_000, high: 1_000, critical: 100],
      :exhaustion,
      "a level also begins when the present growth would pass the limit within this time"
    },
    sample_interval_ms: {
      [min: 1, max: 1_000],
      :interval,
      "bounds of the time between two looks at the limits; in between it follows the headroom"
    },
    max_heap_size: {
      {:percent_of_limit, 100},
      :max_heap_size,
      "the default `max_heap_size` of workers under an `OOM.Supervisor` that are worth less than " <>
        "`:high`: bytes, `{:percent_of_limit, p}` or `:infinity`. 100 % is no more than it seems: " <>
        "the VM counts room for a whole copy, too. See `t:OOM.max_heap_size/0`"
    },
    backoff: {
      [initial_ms: 1_000, max_ms: 60_000],
      :backoff,
      "how long a killed worker is held at least: at most `initial_ms` after the first kill, twice " <>
        "as much after each further one, up to `max_ms`; of that a random part (full jitter)"
    },
    max_kills: {
      10,
      :kills,
      "a worker killed so often, without having lived for `stable_ms` in between, is given up: it " <>
        "stays down, with an alarm, until `OOM.release/1`. A positive integer or `:infinity`. With " <>
        "the default backoff it has by then come back three times after the longest one"
    },
    stable_ms: {
      60_000,
      :positive,
      "a worker that has lived this long after its return starts again at `initial_ms`"
    },
    grace_ms: {
      100,
      :timeout,
      "how long a victim that traps exits may take to leave before it gets `:kill`"
    },
    min_victim_bytes: {
      16_384,
      :positive,
      "a worker known to hold less is left alone: it would free nothing. Near the end one that " <>
        "works hard is not believed"
    },
    trim: {
      :auto,
      {:in, [:auto, true, false]},
      "whether cached, unused segments are handed back to the system. `:auto`: on the OTP " <>
        "releases it was proven on (25 and 27); `true`: wherever the VM exports the function"
    },
    kill: {
      true,
      {:in, [true, false]},
      "`false` watches, trims and reports, and kills nobody; `max_heap_size` is then `:infinity` by " <>
        "default, and workers are neither suspended nor kept from starting"
    },
    adopt: {
      [],
      :adopt,
      "supervisors started by others whose workers are guarded, as `[{name, options}]` or " <>
        "`[{{:application, name}, options}]`, with the options of `OOM.adopt/2`"
    },
    bridges: {
      [],
      :bridges,
      "alarms of a host that are set under pressure, as `[target]` or `[{target, options}]`, such as " <>
        "`[:rabbit_alarm]`; see `OOM.Bridge`"
    },
    on_exhausted: {
      nil,
      :callback,
      "called with an `OOM.Snapshot` each time nothing is left that would help, and again when the " <>
        "headroom has halved since: a function of one argument or `{module, function, args}` (the " <>
        "snapshot is put first). `:stop` ends the VM in order, with exit status 1, so that whatever " <>
        "runs the container starts it anew: `System.stop/1`, and `System.halt/1` where that takes " <>
        "longer than 10 s"
    }
  ]

  defstruct Enum.map(@options, fn {name, {default, _, _}} -> {name, default} end) ++
              [root: "/"]

  @doc "Checks a keyword list and returns the struct; raises `ArgumentError` naming the option."
  @spec new!(keyword()) :: t()
  def new!(options) do
    unless Keyword.keyword?(options) do
      raise ArgumentError, "expected :oom options to be a keyword list, got: #{inspect(options)}"
    end

    Enum.reduce(options, %__MODULE__{}, fn {name, value}, config ->
      case @options[name] do
        # What Erlang's sys.config says for an option that is not set.
        {_default, _type, _doc} when value == :undefined ->
          config

        {_default, type, _doc} ->
          Map.replace!(config, name, check!(type, name, value))

        nil ->
          names = @options |> Keyword.keys() |> Enum.map_join(", ", &inspect/1)

          raise ArgumentError,
                "unknown option #{inspect(name)} for :oom, expected one of #{names}, " <>
                  "got: #{inspect([{name, value}])}"
      end
    end)
  end

  @doc """
  Refuses a `limit:` that this VM has passed already: nothing could ever free enough.

  `status` is the file with the VM's resident memory; without the file, every limit is accepted.
  """
  @spec reachable!(t(), Path.t()) :: t()
  def reachable!(config, status \\ "/proc/self/status")
  def reachable!(%__MODULE__{limit: nil} = config, _status), do: config

  def reachable!(%__MODULE__{limit: limit} = config, status) do
    with {:ok, text} <- File.read(status),
         [_, kib] <- Regex.run(~r/^VmRSS:\s+(\d+) kB$/m, text),
         rss when rss >= limit <- String.to_integer(kib) * 1024 do
      wrong!(:limit, "more than the #{rss} bytes this VM uses already", limit)
    else
      _ -> config
    end
  end

  @doc "Returns the options as a Markdown list, for the public docs."
  @spec docs() :: String.t()
  def docs do
    Enum.map_join(@options, "\n", fn {name, {default, _type, doc}} ->
      "  * `#{inspect(name)}` - #{doc}. Default: `#{inspect(default)}`"
    end)
  end

  @doc "Checks a `max_heap_size`, wherever it is given."
  @spec max_heap_size!(term()) :: OOM.max_heap_size()
  def max_heap_size!(value), do: check!(:max_heap_size, :max_heap_size, value)

  @doc "Checks a `backoff`, wherever it is given; fills in missing keys."
  @spec backoff!(term()) :: keyword()
  def backoff!(value), do: check!(:backoff, :backoff, value)

  @doc "Checks a `max_kills`, wherever it is given."
  @spec max_kills!(term()) :: pos_integer() | :infinity
  def max_kills!(value), do: check!(:kills, :max_kills, value)

  @doc "Checks a `shed`, wherever it is given; fills in a missing order."
  @spec shed!(term()) :: OOM.Shed.share()
  def shed!(none) when none in [nil, :undefined], do: nil

  def shed!({:fraction, f}) when is_number(f) and f > 0 and f <= 1,
    do: {:fraction, f * 1.0, :newest}

  def shed!({:fraction, f, order})
      when is_number(f) and f > 0 and f <= 1 and order in [:newest, :largest],
      do: {:fraction, f * 1.0, order}

  def shed!(other) do
    wrong!(
      :shed,
      "{:fraction, f} or {:fraction, f, :newest | :largest} with 0 < f <= 1, or nil",
      other
    )
  end

  @doc "Checks a `handle_pressure`, wherever it is given."
  @spec handle_pressure!(term()) :: boolean()
  def handle_pressure!(value), do: check!({:in, [true, false]}, :handle_pressure, value)

  defp check!(:limit, _name, nil), do: nil
  defp check!(:limit, _name, limit) when is_integer(limit) and limit in 1..@most, do: limit
  defp check!(:limit, name, other), do: wrong!(name, "a positive number of bytes", other)

  defp check!(:positive, _name, n) when is_integer(n) and n in 1..@most, do: n
  defp check!(:positive, name, other), do: wrong!(name, "a positive integer", other)

  defp check!(:timeout, _name, n) when is_integer(n) and n in 1..@most_ms, do: n

  defp check!(:timeout, name, other),
    do: wrong!(name, "a positive integer, at most #{@most_ms}", other)

  defp check!(:kills, _name, :infinity), do: :infinity
  defp check!(:kills, _name, n) when is_integer(n) and n > 0, do: n
  defp check!(:kills, name, other), do: wrong!(name, "a positive integer or :infinity", other)

  defp check!({:in, values}, name, value) do
    if value in values,
      do: value,
      else: wrong!(name, "one of #{Enum.map_join(values, ", ", &inspect/1)}", value)
  end

  defp check!(:watermarks, _name, :auto), do: :auto

  defp check!(:watermarks, name, value) do
    with {:ok, [e, h, c]} <- fetch_all(value, [:elevated, :high, :critical]),
         true <- Enum.all?([e, h, c], &is_number/1),
         true <- 0 < e and e < h and h < c and c <= 1 do
      [elevated: e, high: h, critical: c]
    else
      _ ->
        wrong!(
          name,
          ":auto or [elevated: e, high: h, critical: c] with 0 < e < h < c <= 1",
          value
        )
    end
  end

  defp check!(:exhaustion, name, value) do
    with {:ok, [e, h, c]} <- fetch_all(value, [:elevated, :high, :critical]),
         true <- Enum.all?([e, h, c], &is_integer/1),
         true <- @most_ms >= e and e >= h and h >= c and c >= 0 do
      [elevated: e, high: h, critical: c]
    else
      _ ->
        wrong!(
          name,
          "[elevated: e, high: h, critical: c] in ms with #{@most_ms} >= e >= h >= c >= 0",
          value
        )
    end
  end

  defp check!(:interval, name, value) do
    with {:ok, [min, max]} <- fetch_all(value, [:min, :max]),
         true <- is_integer(min) and is_integer(max) and 1 <= min and min <= max,
         true <- max <= @most_ms do
      [min: min, max: max]
    else
      _ -> wrong!(name, "[min: min, max: max] in ms with 1 <= min <= max <= #{@most_ms}", value)
    end
  end

  @heap_sizes "bytes, {:percent_of_limit, p} with 0 < p <= 100, :infinity, or one of these as " <>
                "%{size: size, include_shared_binaries: boolean}"

  defp check!(:max_heap_size, name, %{size: size, include_shared_binaries: binaries?} = value)
       when is_boolean(binaries?) and map_size(value) == 2 do
    cond do
      not heap_size?(size) -> wrong!(name, @heap_sizes, value)
      binaries? and size != :infinity -> value
      true -> size
    end
  end

  defp check!(:max_heap_size, name, value),
    do: if(heap_size?(value), do: value, else: wrong!(name, @heap_sizes, value))

  defp check!(:backoff, name, value) do
    defaults = [initial_ms: 1_000, max_ms: 60_000]

    with true <- Keyword.keyword?(value),
         {:ok, [initial, max]} <-
           fetch_all(Keyword.merge(defaults, value), [:initial_ms, :max_ms]),
         true <- is_integer(initial) and is_integer(max) and 0 < initial and initial <= max do
      [initial_ms: initial, max_ms: max]
    else
      _ -> wrong!(name, "[initial_ms: i, max_ms: m] with 0 < i <= m", value)
    end
  end

  defp check!(:adopt, _name, adoptions), do: OOM.Tree.Adoption.check!(adoptions)

  defp check!(:bridges, _name, bridges), do: OOM.Bridge.Options.configured!(bridges)

  defp check!(:callback, _name, what) when what in [nil, :stop], do: what
  defp check!(:callback, _name, fun) when is_function(fun, 1), do: fun

  # `length/1` rules out an improper list.
  defp check!(:callback, _name, {m, f, a} = mfa)
       when is_atom(m) and is_atom(f) and length(a) >= 0,
       do: mfa

  defp check!(:callback, name, other) do
    wrong!(name, "a function of one argument, {module, function, args} or :stop", other)
  end

  # Exactly these keys, no others: a misspelt key must not pass silently.
  defp fetch_all(value, keys) do
    if Keyword.keyword?(value) and Enum.sort(Keyword.keys(value)) == Enum.sort(keys),
      do: {:ok, Enum.map(keys, &value[&1])},
      else: :error
  end

  defp heap_size?(:infinity), do: true
  defp heap_size?({:percent_of_limit, p}), do: is_number(p) and p > 0 and p <= 100
  defp heap_size?(bytes), do: is_integer(bytes) and bytes > 0

  defp wrong!(name, expected, got) do
    raise ArgumentError, "expected #{inspect(name)} to be #{expected}, got: #{inspect(got)}"
  end
end
