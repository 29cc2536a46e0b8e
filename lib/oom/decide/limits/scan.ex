defmodule OOM.Limits.Scan do
  @moduledoc false
  # The constants of the experiment that finds growth no figure shows (OOM.Experiment).

  @mib 1_048_576

  @doc """
  The experiment begins where memory has grown by so much in the last turns of the throttle beside all figures,
  in bytes.
  """
  @spec hidden_bytes() :: pos_integer()
  def hidden_bytes, do: 2 * @mib

  @doc "The growth of earlier turns counts less by this part in each turn."
  @spec fades() :: float()
  def fades, do: 0.1

  @doc "The experiment goes on for so many turns after the last such growth."
  @spec turns() :: pos_integer()
  def turns, do: 25

  @doc "The experiment is over after so many scans in which nothing grew."
  @spec quiet_scans() :: pos_integer()
  def quiet_scans, do: 5

  @doc "A scan lasts at most this time, in ms: with the stand before, less than the longest stretch."
  @spec longest_ms() :: pos_integer()
  def longest_ms, do: 24

  @doc "The most runs of a scan: each takes some 3 ms with the wait until the worker stands."
  @spec runs() :: pos_integer()
  def runs, do: 8

  @doc """
  So many workers that wait for a message are part of a scan; the others go on. To stop and let go 1,000 workers
  takes longer than their run.
  """
  @spec most_waiting() :: pos_integer()
  def most_waiting, do: 128

  @doc "A worker runs for this time, in ms: the resolution of a VM timer."
  @spec run_ms() :: pos_integer()
  def run_ms, do: 1

  @doc "A run waits at most this time until its workers stand again, in ms."
  @spec settle_ms() :: pos_integer()
  def settle_ms, do: 5

  @doc "Less growth of a group is noise, in bytes: the kernel charges 256 KiB a CPU in advance, on two CPUs."
  @spec least_bytes() :: pos_integer()
  def least_bytes, do: 2 * 262_144

  @doc "Growth counts where it is so many times the growth while nobody runs."
  @spec control_share() :: pos_integer()
  def control_share, do: 4

  @doc "A worker is shown to grow after so many runs alone at the earliest."
  @spec proof_runs() :: pos_integer()
  def proof_runs, do: 3

  @doc "The hidden growth of a worker shown to grow is at least this, in bytes, without the largest run."
  @spec proof_bytes() :: pos_integer()
  def proof_bytes, do: 3 * div(@mib, 2)

  @doc "A worker that has not grown in so many runs is left out."
  @spec judged_runs() :: pos_integer()
  def judged_runs, do: 6

  @doc """
  A worker does not grow whose runs take less in the mean, in bytes: an eighth of the least step in which the
  kernel charges.
  """
  @spec noise_bytes() :: pos_integer()
  def noise_bytes, do: 32_768

  @doc "The workers of a group that did not grow in its run are left out for this time, in ms: two turns."
  @spec group_clean_ms() :: pos_integer()
  def group_clean_ms, do: 80

  @doc "A worker that does not grow is left out for this time, in ms."
  @spec clean_ms() :: pos_integer()
  def clean_ms, do: 500
end
