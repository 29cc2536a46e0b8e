defmodule OOM.Limits do
  @moduledoc false
  # Every constant of a decision: unit, meaning, and source of the value. Values measured on the machine at
  # hand (the time of a reaction, the growth of memory) are no constants and not here. The floor is in
  # native/oom/src/floor.rs, because the watcher needs the floor first.

  @mib 1_048_576

  # -- When to act

  @doc """
  The throttle begins where growth would reach the floor within this time, in ms: six stretches of the
  throttle. That is time enough for two rounds of figures, a trim and a decision.
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
  The part of the floor that a single step may use for a moment. Nothing interrupts a step, and a healthy
  collection is one.
  """
  @spec step_share() :: pos_integer()
  def step_share, do: 2

  @doc """
  Growth inside the VM that seems foreign is a guess. Where a kill looks ahead until the victim's memory is
  back, such growth counts for this part of the floor at most. A longer look ahead killed a cache that loaded
  (6 of 8 runs of 78 % of 512 MiB).
  """
  @spec guess_share() :: pos_integer()
  def guess_share, do: 2

  @doc """
  The guard measures growth outside of the VM over this time, in ms: two turns of the throttle. In less time, a
  few pages that the kernel counts late would look like fast growth.
  """
  @spec outside_ms() :: pos_integer()
  def outside_ms, do: 100

  @doc """
  Kills bring the headroom back to this multiple of the floor. With less, the next sample would find the floor
  passed again; with more, more workers would die.
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
  A new worker that waits took its memory at the start. Such growth fades with this time constant, in ms. Where
  new workers are the leak, others start before it has faded.
  """
  @spec started_ms() :: pos_integer()
  def started_ms, do: suspect_ms()

  @doc "A worker with less growth than this, in bytes, is no grower but one of many that work."
  @spec grown_bytes() :: pos_integer()
  def grown_bytes, do: 65_536

  @doc """
  The least share that makes a grower or a cause, as one part in so many. A worker is a grower with this share
  of the growth of the fastest worker of its rank. A rank is a cause with this share of the growth of all ranks.
  In a rank that is no cause, a worker is a grower with this share of the growth of the fastest worker of all.
  """
  @spec grown_share() :: pos_integer()
  def grown_share, do: 8

  @doc """
  A waiting worker that spent no more reductions than this between two looks has not run. A look and a
  suspension cost a few reductions.
  """
  @spec rested_reductions() :: pos_integer()
  def rested_reductions, do: 20

  # -- Whom

  @doc "The most victims of one choice. After so many kills new figures are needed anyway."
  @spec batch() :: pos_integer()
  def batch, do: 64

  @doc "A choice looks at so many workers of each rank, the largest first. The others hold less."
  @spec looks() :: pos_integer()
  def looks, do: 256

  @doc """
  Growers are the cause where together they have grown by at least this part of memory's recent growth.
  Otherwise the cause is elsewhere.
  """
  @spec cause_share() :: pos_integer()
  def cause_share, do: 4

  @doc """
  While the throttle holds the growers, memory may not grow. Then this part of the missing memory counts as
  the recent growth. With `cause_share/0`, growers are a cause from an eighth of the missing memory on. Thirteen
  workers that just worked had grown by less: by 1.3 of 23 MB.
  """
  @spec held_share() :: pos_integer()
  def held_share, do: 2

  @doc "Less growth than this, in bytes, is the growth of a node that just works."
  @spec recent_bytes() :: pos_integer()
  def recent_bytes, do: @mib

  @doc """
  Where no known worker grows, workers below `:normal` die only once the headroom is below this many quarters
  of the floor.
  """
  @spec soon_floor_quarters() :: pos_integer()
  def soon_floor_quarters, do: 3

  @doc """
  Where no known worker grows, workers below `:normal` die only if their memory covers the need and this time of
  growth, in ms. The next round has taken effect by then.
  """
  @spec soon_ms() :: pos_integer()
  def soon_ms, do: 100

  @doc """
  Steady workers die for the growth of a higher rank only where their memory covers the need and this time of
  growth, in ms. Otherwise growth would take their memory again at once.
  """
  @spec steady_ms() :: pos_integer()
  def steady_ms, do: 1_000

  @doc """
  Newcomers count as growth for this time, in ms: half of the time in which growth is remembered. Fifty workers that
  had started 240 ms before were not the cause of a table's growth.
  """
  @spec newcomer_ms() :: pos_integer()
  def newcomer_ms, do: div(grown_ms(), 2)

  @doc "The pause between two walks for new workers under pressure, in ms."
  @spec next_walk_ms() :: pos_integer()
  def next_walk_ms, do: 100

  @doc "The most newcomers that a choice looks at, and ends: at 16 KiB each 16 MiB."
  @spec newcomers() :: pos_integer()
  def newcomers, do: 1_024

  @doc """
  Where no cause of growth is known, workers that have come in this time, in ms, are ended, if they hold what is
  needed. Chosen, not measured.
  """
  @spec came_ms() :: pos_integer()
  def came_ms, do: 10_000

  @doc "The most of them that a choice looks at. Chosen, not measured."
  @spec came() :: pos_integer()
  def came, do: 256

  # -- What is on its way back

  @doc "A scheduler begins to free a dead victim's heap after this time, in ms."
  @spec free_ms() :: pos_integer()
  def free_ms, do: 5

  @doc """
  The speed at which the memory is then freed, in bytes/ms: a mailbox of hundreds of MB takes hundreds of ms.
  """
  @spec free_bytes_per_ms() :: pos_integer()
  def free_bytes_per_ms, do: @mib

  @doc """
  The same speed while both schedulers are busy with the growth, in bytes/ms. The system had 104 MB of messages
  back after 170 ms.
  """
  @spec free_busy_bytes_per_ms() :: pos_integer()
  def free_busy_bytes_per_ms, do: div(@mib, 2)

  @doc """
  The throttle suspends a worker that is not shown to grow for at most this time at a stretch, in ms. With the
  delay of the schedulers that is less than 50, a common timeout.
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

  @doc "A kill looks ahead until its memory is back, but at most this far, in ms. A wrong guess costs no more."
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
  While time is short, the guard counts on the memory of victims that it told to leave within this time, in ms.
  The memory of earlier victims must be back by then. For dead victims see `return_bytes_per_ms/0`.
  """
  @spec leave_ms() :: pos_integer()
  def leave_ms, do: 50

  @doc """
  While time is short, the guard assumes that a dead victim's heap or array comes back at this speed, in
  bytes/ms.
  """
  @spec return_bytes_per_ms() :: pos_integer()
  def return_bytes_per_ms, do: 4 * @mib

  @doc "Time is short where growth reaches the limit itself within this time, in ms."
  @spec urgent_ms() :: pos_integer()
  def urgent_ms, do: 150

  @doc "The guard does not use a measure older than this, in ms."
  @spec measured_ms() :: pos_integer()
  def measured_ms, do: 2 * measure_at_rest_ms()

  @doc "The guard measures the VM this time after a kill, in ms. Most victims are gone by then."
  @spec measure_after_ms() :: pos_integer()
  def measure_after_ms, do: 30

  @doc "A measure of the VM holds for this time while memory stands still, in ms."
  @spec measure_at_rest_ms() :: pos_integer()
  def measure_at_rest_ms, do: 2_000

  @doc "Less change of the VM's memory between two measures than this, in bytes, is noise."
  @spec moved_bytes() :: pos_integer()
  def moved_bytes, do: 4 * @mib

  @doc """
  At most this part of the memory free inside the VM counts as room for growth. After 9 of 10 processes were
  killed, new processes of the same size reused 87 to 98 % of the memory that the VM kept.
  """
  @spec reuse_most() :: float()
  def reuse_most, do: 0.9

  @doc "The same part before reuse is measured. It is smaller, because processes of other sizes reuse less."
  @spec reuse_unknown() :: float()
  def reuse_unknown, do: 0.75

  @doc """
  A part that a measure found to be smaller grows by this at each measure in which memory stands still. Chosen,
  not measured.
  """
  @spec reuse_recovers() :: float()
  def reuse_recovers, do: 0.125

  @doc """
  The same as `measure_at_rest_ms/0` where no memory is free inside the VM, in ms. A measure asks all schedulers,
  and there is no memory to be found.
  """
  @spec measure_idle_ms() :: pos_integer()
  def measure_idle_ms, do: 10_000

  # -- When it does not help

  @doc """
  The guard judges over windows of this length, in ms, whether kills help. In a shorter window a victim may not
  have had a turn yet, and its memory is not free before.
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
