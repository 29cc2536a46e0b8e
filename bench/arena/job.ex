defmodule Arena.Job do
  @moduledoc false
  # The task of one run; handed to its VM as a term on the command line.

  # The backoff has full jitter: of 1,000,000 s, one in 50,000 culprits comes back within 20 s.
  @stays_away {Arena.WithOOM, backoff: [initial_ms: 1_000_000_000, max_ms: 1_000_000_000]}
  # More rounds in the same time: a leak coming back soon is harder.
  @comes_back {Arena.WithOOM, backoff: [initial_ms: 300, max_ms: 1_000]}

  @enforce_keys [:shape, :workers, :seconds, :limit_bytes]
  defstruct [
    :shape,
    :workers,
    :seconds,
    :limit_bytes,
    bytes_per_s: :unlimited,
    held_percent: 0,
    return?: false,
    ballast_bytes: 0,
    guard: @stays_away,
    canary: :normal,
    burners: 0,
    quota_percent: nil,
    config: [],
    trace?: false
  ]

  @type t :: %__MODULE__{
          shape: atom(),
          workers: pos_integer(),
          # at most; with `return?` exactly
          seconds: pos_integer(),
          limit_bytes: pos_integer(),
          # of all workers together
          bytes_per_s: pos_integer() | :unlimited,
          # of the limit, used when the culprits begin; see Arena.Fill
          held_percent: 0..99,
          # whether ended culprits come back and grow again; then nothing is decided
          return?: boolean(),
          # live data that never grows, see Arena.Ballast
          ballast_bytes: non_neg_integer(),
          # an Arena.Guard and its argument
          guard: {module(), term()},
          # the scheduler priority of the canary and its prober
          canary: :normal | :high,
          # CPU-burning foreign processes, outside of the VM's cgroup
          burners: non_neg_integer(),
          # of one core, for the whole VM
          quota_percent: pos_integer() | nil,
          # of the library, overriding the guard's options
          config: keyword(),
          # snapshots each 10 ms, in the log
          trace?: boolean()
        }

  @doc "Returns a job whose culprits come back; the run lasts for all of its seconds."
  @spec returning(t()) :: t()
  def returning(job), do: %{job | return?: true, guard: @comes_back}

  @doc "Returns the rest of `bytes` when a part of the limit is held anyway."
  @spec of_the_rest(t(), non_neg_integer()) :: non_neg_integer()
  def of_the_rest(job, bytes), do: div(bytes * (100 - job.held_percent), 100)

  @spec encode(t()) :: String.t()
  def encode(job), do: job |> :erlang.term_to_binary() |> Base.encode64()

  @spec decode(String.t()) :: t()
  def decode(text), do: text |> Base.decode64!() |> :erlang.binary_to_term()
end
