defmodule OOM.Stillness do
  @moduledoc false
  # How long a background round may rest: twice as long as before each time memory has not moved since the
  # last round, and the shortest pause again once memory has moved. A timer costs some 50 us of CPU, whatever
  # the round does, so a node at rest costs the number of its timers.

  alias OOM.Snapshot

  @enforce_keys [:pause_ms]
  defstruct [:pause_ms, at_bytes: nil]

  @type t :: %__MODULE__{pause_ms: pos_integer(), at_bytes: non_neg_integer() | nil}

  # A change below this share of the limit counts as stillness.
  @moved 0.01

  @spec new(pos_integer()) :: t()
  def new(least_ms), do: %__MODULE__{pause_ms: least_ms}

  @doc "Returns the state after a round; `pause_ms` is the pause until the next."
  @spec rest(t(), Snapshot.t() | map(), pos_integer(), pos_integer()) :: t()
  def rest(still, snapshot, least_ms, most_ms) do
    if moved?(still, snapshot),
      do: %__MODULE__{pause_ms: least_ms, at_bytes: snapshot.working_set_bytes},
      else: %{still | pause_ms: still.pause_ms |> Kernel.*(2) |> max(least_ms) |> min(most_ms)}
  end

  @doc "Tells whether the working set has risen since its lowest look (`lowest/2`), or is not known."
  @spec risen?(t(), Snapshot.t() | map()) :: boolean()
  def risen?(%{at_bytes: lowest}, %{working_set_bytes: now})
      when is_integer(lowest) and is_integer(now) and now < lowest,
      do: false

  def risen?(still, snapshot), do: moved?(still, snapshot)

  @doc "Returns the state with the working set of this look, where no look has seen less."
  @spec lowest(t(), Snapshot.t() | map()) :: t()
  def lowest(still, %{working_set_bytes: now}) when is_integer(now),
    do: %{still | at_bytes: min(still.at_bytes, now)}

  def lowest(still, _unknown), do: still

  @doc "Tells whether the working set has moved since, or is not known."
  @spec moved?(t(), Snapshot.t() | map()) :: boolean()
  def moved?(%{at_bytes: then}, %{limit_bytes: limit, working_set_bytes: now})
      when is_integer(then) and is_integer(limit) and is_integer(now),
      do: abs(now - then) >= limit * @moved

  def moved?(_still, _unknown), do: true
end
