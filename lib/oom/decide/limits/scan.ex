defmodule OOM.Limits.Scan do
  @moduledoc false
  # The constants of the experiment that finds growth no figure shows (OOM.Experiment).

  @mib 1_048_576

  @doc """
  The experiment begins where memory has grown by so much during a run of the throttle, in bytes, and no worker
  is shown to grow: as much as one worker takes in a slice of a third.
  """
  @spec hidden_bytes() :: pos_integer()
  def hidden_bytes, do: 2 * @mib

  @doc "The experiment goes on for so many turns after the last such growth."
  @spec turns() :: pos_integer()
  def turns, do: 25

  @doc "A scan lasts at most this time, in ms: with the stand before, less than the longest stretch."
  @spec longest_ms() :: pos_integer()
  def longest_ms, do: 24

  @doc "The most runs of a scan: each takes some 3 ms with the wait until the worker stands."
  @spec runs() :: pos_integer()
  def runs, do: 8

  @doc "A worker runs for this time, in ms: the resolution of a VM timer."
  @spec run_ms() :: pos_integer()
  def run_ms, do: 1

  @doc "A run waits at most this time until its workers stand again, in ms."
  @spec settle_ms() :: pos_integer()
  def settle_ms, do: 5

  @doc "Less growth in a run is noise, in bytes: the kernel charges 256 KiB a CPU in advance, on two CPUs."
  @spec least_bytes() :: pos_integer()
  def least_bytes, do: 2 * 262_144

  @doc "Growth in a run counts where it is so many times the growth while nobody runs."
  @spec control_share() :: pos_integer()
  def control_share, do: 4

  @doc "A worker is judged after so many runs alone."
  @spec proof_runs() :: pos_integer()
  def proof_runs, do: 3

  @doc "The judgement goes by so many of the last runs."
  @spec window() :: pos_integer()
  def window, do: 8

  @doc """
  A worker whose runs take less in the mean does not grow, in bytes; a worker that grows takes twice as much.
  The slowest of the growing workers of the arena takes 500 KB in a run.
  """
  @spec noise_bytes() :: pos_integer()
  def noise_bytes, do: 131_072

  @doc "The growth of all runs of a worker shown to grow is at least this, in bytes."
  @spec proof_bytes() :: pos_integer()
  def proof_bytes, do: 2 * @mib

  @doc "A worker that does not want to run is left out for this time, in ms: two turns."
  @spec idle_ms() :: pos_integer()
  def idle_ms, do: 80

  @doc "A worker that does not grow is left out for this time, in ms."
  @spec clean_ms() :: pos_integer()
  def clean_ms, do: 500
end
