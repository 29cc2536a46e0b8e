defmodule OOM.Accountant.Readings do
  @moduledoc false
  # The times of the last readings of OOM.Owned, and the throw-away readers now at work.

  alias OOM.Owned

  # `owned_ms`: {begun_ms, ended_ms} of the last reading, by kind. `readers`: {kind, begun_ms}, by monitor.
  defstruct owned_ms: %{}, readers: %{}

  @type t :: %__MODULE__{
          owned_ms: %{Owned.kind() => {integer(), integer()}},
          readers: %{reference() => {Owned.kind(), integer()}}
        }

  @doc "Starts a reader for each kind that is due and has no reader yet."
  @spec start(t(), integer(), OOM.level()) :: t()
  def start(%{readers: readers} = readings, now_ms, level) do
    under_way = for {_, {kind, _}} <- readers, do: kind

    due =
      for kind <- Owned.kinds() -- under_way,
          Owned.due?(readings.owned_ms[kind], now_ms, level),
          do: kind

    started =
      for kind <- due, into: readers do
        {_pid, ref} = Owned.start(kind)
        {ref, {kind, now_ms}}
      end

    %{readings | readers: started}
  end

  @doc "Notes the end of a reader, as the time of the kind's last reading."
  @spec ended(t(), reference(), integer()) :: t()
  def ended(%{readers: readers, owned_ms: owned_ms}, ref, now_ms) do
    {{kind, begun}, readers} = Map.pop!(readers, ref)
    %__MODULE__{readers: readers, owned_ms: Map.put(owned_ms, kind, {begun, now_ms})}
  end

  @doc "Tells whether all readers have ended."
  @spec over?(t()) :: boolean()
  def over?(%{readers: readers}), do: readers == %{}
end
