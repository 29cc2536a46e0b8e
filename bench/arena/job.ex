defmodule Arena.Job do
  @moduledoc false
  # What one run does; handed to its VM as a term on the command line.

  # More rounds in the same time: a leak that comes back soon is the harder one.
  @quick {Arena.WithOOM, backoff: [initial_ms: 300, max_ms: 1_000]}

  @enforce_keys [:shape, :workers, :seconds, :limit_bytes]
  defstruct [
    :shape,
    :workers,
    :seconds,
    :limit_bytes,
    bytes_per_s: :unlimited,
    ballast_bytes: 0,
    guard: @quick,
    canary: :normal,
    trace?: false
  ]

  @type t :: %__MODULE__{
          shape: atom(),
          workers: pos_integer(),
          seconds: pos_integer(),
          limit_bytes: pos_integer(),
          # of all workers together
          bytes_per_s: pos_integer() | :unlimited,
          # live data that never grows, see Arena.Ballast
          ballast_bytes: non_neg_integer(),
          # an Arena.Guard and its argument
          guard: {module(), term()},
          # at what priority of the scheduler it works, and who asks it
          canary: :normal | :high,
          # snapshots each 10 ms, in the log
          trace?: boolean()
        }

  @spec encode(t()) :: String.t()
  def encode(job), do: job |> :erlang.term_to_binary() |> Base.encode64()

  @spec decode(String.t()) :: t()
  def decode(text), do: text |> Base.decode64!() |> :erlang.binary_to_term()
end
