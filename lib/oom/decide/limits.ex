defmodule OOM.Limits do
  @moduledoc false
  # Every constant of a decision: unit, meaning, and source of the value. Values measured on the machine at
  # hand (the time of a reaction, the growth of memory) are no constants and not here. The floor is in
  # native/oom/src/floor.rs, because the watcher needs the floor first.

  @mib 1_048_576

  # -- When to act

  @doc """
  The throttle begins where growth would reach the floor within this time, in ms: six stretches of the
  throttle. Figures, a trim and a decision fit in before, and one more of each.
  """
  @spec throttle_ms() :: pos_integer()
  def throttle_ms, do: 300

  @doc """
  The time of a reaction before the first is measured, in ms: a sample (1), a message to a `max` process (up
  to 9), a kill (up to 6 for 200 victims).
  """
  @spec reaction_ms() :: pos_integer()
  def reaction_ms, do: 15

  @doc "A slow reaction (a victim in a long collection) counts for no more than this, in ms."
  @spec longest_reaction_ms() :: pos_integer()
  def longest_reaction_ms, do: 60

  @doc "Slower growth does not count as growth towards the floor, in bytes/s: as in the watcher."
  @spec growth_bytes_per_s() :: pos_integer()
  def growth_bytes_per_s, do: 2_000_000

  @doc "Where nothing grows, memory is needed only once the headroom is below this part of the floor."
  @spec at_rest_share() :: pos_integer()
  def at_rest_share, do: 2

  @doc """
  A step, which nothing interrupts, may take this part of the floor for a moment, as a healthy collection
  does.
  """
  @spec step_share() :: pos_integer()
  def step_share, do: 2

  @doc """
  Growth inside the VM that seems foreign is a guess. Until a victim's memory is back it counts for this part
  of the floor at most. A longer look ahead killed a cache that loaded (6 of 8 runs of 78 % of 512 MiB).
  """
  @spec guess_share() :: pos_integer()
  def guess_share, do: 2

  @doc """
  Growth outside of the VM is measured over this time, in ms: two turns of the throttle, so that a few pages
  that the kernel counts late make no rate.
  """
  @spec outside_ms() :: pos_integer()
  def outside_ms, do: 100

  @doc """
  Kills bring the headroom back to this multiple of the floor: far enough that the next sample is not at the
  floor again, and no further.
  """
  @spec target_floors() :: float()
  def target_floors, do: 1.5

  # -- The trim

  @doc "The time until a trim has taken effect with the schedulers busy, in ms (bench/trim.exs)."
  @spec trim_settle_ms() :: pos_integer()
  def trim_settle_ms, do: 20

  @doc "The time between two trims for which a decision waits, in ms."
  @spec trim_every_ms() :: pos_integer()
  def trim_every_ms, do: 100

  # -- Figures

  @doc """
  The highest age of a figure to act on while memory grows, in ms. The throttle reads growing workers in each
  turn. Other workers were shown to be steady, and the accountant looks at them again.
  """
  @spec fresh_ms() :: pos_integer()
  def fresh_ms, do: 2_000

  @doc """
  The same while nothing grows, in ms. The accountant looks at all workers after memory has moved, and
  otherwise at each worker every one to five minutes.
  """
  @spec fresh_at_rest_ms() :: pos_integer()
  def fresh_at_rest_ms, do: 301_000

  @doc """
  How long the choice waits for late figures before it passes to other workers, in ms, while the throttle
  holds: a collection of 300 MB takes up to 500.
  """
  @spec late_ms() :: pos_integer()
  def late_ms, do: 600

  @doc "Two looks no further apart than this, in ms, show growth: ten turns of the throttle."
  @spec shown_ms() :: pos_integer()
  def shown_ms, do: 500

  @doc "A look no older than this, in ms, has not seen much of a worker's growth."
  @spec suspect_ms() :: pos_integer()
  def suspect_ms, do: 100

  @doc "Shown growth fades with this time constant, in ms: six turns of the throttle."
  @spec grown_ms() :: pos_integer()
  def grown_ms, do: 300

  @doc """
  A new worker that waits took its memory at the start. Such growth fades with this time constant, in ms:
  where new workers are the leak, others follow within it.
  """
  @spec started_ms() :: pos_integer()
  def started_ms, do: suspect_ms()

  @doc "A worker with less growth than this, in bytes, is no grower but one of many that work."
  @spec grown_bytes() :: pos_integer()
  def grown_bytes, do: 65_536

  @doc """
  A grower has grown by at least this part of the growth of the fastest worker of its rank, and a rank that is
  a cause by at least this part of the growth of all ranks. In any other rank, workers count as growers with
  this part of the growth of the fastest worker of all.
  """
  @spec grown_share() :: pos_integer()
  def grown_share, do: 8

  @doc """
  A waiting worker with no more reductions than this between two looks has not run: a look and a suspension
  cost a few.
  """
  @spec rested_reductions() :: pos_integer()
  def rested_reductions, do: 20

  # -- Whom

  @doc "Victims at once. The figures after the first kills make a larger choice obsolete."
  @spec batch() :: pos_integer()
  def batch, do: 64

  @doc "Workers of each rank that a choice looks at, the largest first; the rest hold less."
  @spec looks() :: pos_integer()
  def looks, do: 256

  @doc """
  The growers together must have grown by this part of the recent growth of memory; otherwise the cause is
  elsewhere.
  """
  @spec cause_share() :: pos_integer()
  def cause_share, do: 4

  @doc """
  While the throttle holds the growers, this part of the missing memory stands for the recent growth. With
  `cause_share/0` that is an eighth: less than the run for which the throttle refuses a worker
  (`OOM.Limits.Turn.floor_share/0`), and more than 13 workers that just worked had grown by (1.3 of 23 MB).
  """
  @spec held_share() :: pos_integer()
  def held_share, do: 2

  @doc "Less growth than this, in bytes, is the growth of a node that just works."
  @spec recent_bytes() :: pos_integer()
  def recent_bytes, do: @mib

  @doc """
  Workers below `:normal` die for growth of no known worker only once the headroom is below this many quarters
  of the floor.
  """
  @spec soon_floor_quarters() :: pos_integer()
  def soon_floor_quarters, do: 3

  @doc """
  Workers below `:normal` die for growth of no known worker where their memory covers the need and this time
  of growth, in ms: until the next round has taken effect.
  """
  @spec soon_ms() :: pos_integer()
  def soon_ms, do: 100

  @doc """
  Steady workers die for the growth of a higher rank only where their memory covers the need and this time of
  growth, in ms. Otherwise their deaths would buy moments.
  """
  @spec steady_ms() :: pos_integer()
  def steady_ms, do: 1_000

  # -- What is on its way back

  @doc "The time before a dead victim's heap is freed, on its own scheduler, in ms."
  @spec free_ms() :: pos_integer()
  def free_ms, do: 5

  @doc """
  The speed at which the memory is then freed, in bytes/ms: a mailbox of hundreds of MB takes hundreds of ms.
  """
  @spec free_bytes_per_ms() :: pos_integer()
  def free_bytes_per_ms, do: @mib

  @doc """
  The same while both schedulers are busy with the growth, in bytes/ms: 104 MB of messages were back after 170
  ms.
  """
  @spec free_busy_bytes_per_ms() :: pos_integer()
  def free_busy_bytes_per_ms, do: div(@mib, 2)

  @doc """
  The longest stretch that a worker not shown to grow stands, in ms: below 50, a common timeout, together with
  the delay that the schedulers add.
  """
  @spec longest_stand_ms() :: pos_integer()
  def longest_stand_ms, do: 40

  @doc "The longest sweep, in ms: the longest stand of the throttle."
  @spec longest_sweep_ms() :: pos_integer()
  def longest_sweep_ms, do: longest_stand_ms()

  @doc "The time for which all other processes run before the next sweep, in ms."
  @spec between_sweeps_ms() :: pos_integer()
  def between_sweeps_ms, do: 10

  @spec sweep_every_ms() :: pos_integer()
  def sweep_every_ms, do: longest_sweep_ms() + between_sweeps_ms()

  @doc "A kill looks ahead for freed memory at most this far, in ms: a wrong guess must not cost more."
  @spec longest_free_ms() :: pos_integer()
  def longest_free_ms, do: 250

  @doc """
  A victim that has not left after this time, in ms, is in a collection, which cannot be interrupted. The
  guard no longer counts on its memory.
  """
  @spec stuck_ms() :: pos_integer()
  def stuck_ms, do: 150

  @doc """
  For this time after a kill, in ms, victims whose freed memory is not yet measured keep workers of higher
  ranks from being chosen. The victims' memory is most of the memory to be had, and more deaths do not bring
  it sooner.
  """
  @spec waiting_ms() :: pos_integer()
  def waiting_ms, do: 1_500

  @doc """
  While time is short, only memory that cannot have come back yet counts: of victims told to leave within this
  time, in ms, and of dead victims as `return_bytes_per_ms/0` says.
  """
  @spec leave_ms() :: pos_integer()
  def leave_ms, do: 50

  @doc """
  While time is short, a dead victim's memory is taken to come back at this speed, in bytes/ms (a heap, or an
  array).
  """
  @spec return_bytes_per_ms() :: pos_integer()
  def return_bytes_per_ms, do: 4 * @mib

  @doc "Time is short where growth reaches the limit itself within this time, in ms."
  @spec urgent_ms() :: pos_integer()
  def urgent_ms, do: 150

  @doc "A measure older than this, in ms, counts no more."
  @spec measured_ms() :: pos_integer()
  def measured_ms, do: 2 * measure_at_rest_ms()

  @doc "The VM is measured so long after a kill, in ms: most victims are gone by then."
  @spec measure_after_ms() :: pos_integer()
  def measure_after_ms, do: 30

  @doc "A measure of the VM holds for this time while memory stands still, in ms."
  @spec measure_at_rest_ms() :: pos_integer()
  def measure_at_rest_ms, do: 2_000

  @doc "Less change of the VM's memory between two measures than this, in bytes, is noise."
  @spec moved_bytes() :: pos_integer()
  def moved_bytes, do: 4 * @mib

  @doc """
  The largest part of the memory free inside the VM that counts for growth: of slack after 9 of 10 processes
  were killed, new processes of the same size reused 87 to 98 %.
  """
  @spec reuse_most() :: float()
  def reuse_most, do: 0.9

  @doc "The same part while reuse is not yet measured: processes of other sizes reuse less."
  @spec reuse_unknown() :: float()
  def reuse_unknown, do: 0.75

  @doc """
  A part that was found small grows by this at each measure in which nothing moves. Chosen, not measured.
  """
  @spec reuse_recovers() :: float()
  def reuse_recovers, do: 0.125

  @doc """
  The same as `measure_at_rest_ms/0` where nothing is free inside the VM, in ms: a measure asks all
  schedulers, and could find nothing that helps growth.
  """
  @spec measure_idle_ms() :: pos_integer()
  def measure_idle_ms, do: 10_000

  # -- When it does not help

  @doc """
  The guard judges whether kills help over windows of this length, in ms: a victim's memory is freed only when
  the victim gets a turn.
  """
  @spec judge_ms() :: pos_integer()
  def judge_ms, do: 250

  @doc "Killing ends after so many windows whose kills freed less than a tenth of the promised memory."
  @spec futile_windows() :: pos_integer()
  def futile_windows, do: 4

  @doc "After this time without a candidate, in ms, killing is given up."
  @spec nobody_ms() :: pos_integer()
  def nobody_ms, do: 500

  @doc "An episode is over after this time without a need, in ms."
  @spec episode_ms() :: pos_integer()
  def episode_ms, do: 2_000
end
