defmodule OOM.Pressure do
  @moduledoc """
  What a worker is told before it would be killed, if it has asked for that.

      @impl true
      def init(arg) do
        OOM.set_priority(:low, handle_pressure: true)
        {:ok, %{cache: load(arg)}}
      end

      @impl true
      def handle_info({:oom_pressure, %OOM.Pressure{}}, state) do
        # What was dropped is free after a collection only.
        {:noreply, %{state | cache: %{}}, :hibernate}
      end

  From the level `:high` on, those who would be killed next are sent `{:oom_pressure, pressure}`: the
  largest of the lowest priority, no more of them than what is missing asks for, and each at most
  once a second. Any process with a mailbox can take part; nothing has to be answered.

  It is a last word and no promise: nobody waits for it. Whoever has shrunk by the time the level is
  `:critical` is no longer among the largest, and where enough have, nobody is killed. Where memory
  grows too fast for that, the kill comes first.

    * `:level` - `:high` or `:critical`
    * `:bytes` - what the worker is known to hold
    * `:need_bytes` - what is missing in all
    * `:deadline_ms` - when the level will be `:critical` at the present growth, as
      `System.monotonic_time(:millisecond)` tells time; a second from now at most
  """

  @enforce_keys [:level, :bytes, :need_bytes, :deadline_ms]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          level: :high | :critical,
          bytes: non_neg_integer(),
          need_bytes: pos_integer(),
          deadline_ms: integer()
        }

  @longest_ms 1_000

  @doc false
  # What is missing, to be well away from `:high`, and what will have grown until then.
  @spec need_bytes(OOM.Snapshot.t()) :: integer()
  def need_bytes(%{headroom_bytes: nil}), do: 0

  def need_bytes(snapshot) do
    coming = div(growth(snapshot) * left_ms(snapshot), 1_000)
    snapshot.elevated_headroom_bytes - room(snapshot) + coming
  end

  @doc false
  @spec left_ms(OOM.Snapshot.t()) :: 0..1_000
  def left_ms(snapshot) do
    left = max(room(snapshot) - snapshot.critical_headroom_bytes, 0)

    case growth(snapshot) do
      0 -> @longest_ms
      growth -> min(div(left * 1_000, growth), @longest_ms)
    end
  end

  defp room(snapshot), do: snapshot.headroom_bytes + (snapshot.slack_bytes || 0)
  defp growth(snapshot), do: max(snapshot.growth_bytes_per_s || 0, 0)
end
