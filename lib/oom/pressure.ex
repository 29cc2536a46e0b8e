defmodule OOM.Pressure do
  @moduledoc """
  The message to a worker before a kill, for workers that have asked for it (`handle_pressure: true`).

      @impl true
      def init(arg) do
        OOM.set_priority(:low, handle_pressure: true)
        {:ok, %{cache: load(arg)}}
      end

      @impl true
      def handle_info({:oom_pressure, %OOM.Pressure{}}, state) do
        # Dropped data is free after a collection only.
        {:noreply, %{state | cache: %{}}, :hibernate}
      end

  From the level `:high` on, OOM sends `{:oom_pressure, pressure}` to the next victims: the largest workers
  of the lowest priority, no more of them than the missing bytes ask for, and each at most once a second.
  Any process with a mailbox can take part; no answer is expected.

  The message is a last word and no promise: the guard does not wait for the worker. A worker smaller by the
  time of a kill is no longer among the largest, and where enough workers have shrunk, none is killed. Where
  memory grows too fast, the kill comes first.

    * `:level` - `:high` or `:critical`
    * `:bytes` - the known size of the worker
    * `:need_bytes` - the bytes missing in all
    * `:deadline_ms` - when the level will be `:critical` at the present growth, in
      `System.monotonic_time(:millisecond)`; a second from now at most
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
  # The bytes missing to a headroom well away from `:high`, with the growth until the deadline.
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
  # Drift is the growth of workers with pauses between steps.
  defp growth(%{growth_bytes_per_s: growth, drift_bytes_per_s: drift}),
    do: (growth || 0) |> max(drift || 0) |> max(0)
end
