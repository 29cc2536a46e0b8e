defmodule Arena.Job do
  @moduledoc false
  # What one run does; handed to its VM as a term on the command line.

  @enforce_keys [:shape, :workers, :seconds, :limit_bytes]
  defstruct [:shape, :workers, :seconds, :limit_bytes, bytes_per_s: :unlimited, trace?: false]

  @type t :: %__MODULE__{
          shape: atom(),
          workers: pos_integer(),
          seconds: pos_integer(),
          limit_bytes: pos_integer(),
          # of all workers together
          bytes_per_s: pos_integer() | :unlimited,
          # snapshots each 10 ms, in the log
          trace?: boolean()
        }

  @spec encode(t()) :: String.t()
  def encode(job), do: job |> :erlang.term_to_binary() |> Base.encode64()

  @spec decode(String.t()) :: t()
  def decode(text), do: text |> Base.decode64!() |> :erlang.binary_to_term()
end
