defmodule OOM.Limits do
  @moduledoc false
  # Every constant of a decision: its unit, what it means, and where its value comes from. What is
  # measured on the machine at hand (how long a reaction takes, how fast memory grows) is no constant
  # and is not here. The floor is in native/oom/src/floor.rs, because the watcher needs it first.

  @mib 1_048_576

  # -- When to act

  @doc """
  The throttle begins where growth would reach the floor within this time, in ms: six stretches of the
  throttle, so that figures, a trim and a decision fit in before, and one more of each.
  """
  @spec throttle_ms() :: pos_integer()
  def throttle_ms, do: 300

  @doc """
  What a reaction takes until one was measured, in ms: a sample (1), a message to a `max` process (up
  to 9), a kill (up to 6 for 200 victims).
  """
  @spec reaction_ms() :: pos_integer()
  def reaction_ms, do: 15

  @doc "A reaction that was once slow (a victim in a long collection) does not count for more, in ms."
  @spec longest_reaction_ms() :: pos_integer()
  def longest_reaction_ms, do: 60

  @doc "Slower growth is not growth that will reach the floor, in bytes/s: as the watcher has it."
  @spec growth_bytes_per_s() :: pos_integer()
  def growth_bytes_per_s, do: 2_000_000

  @doc "Where nothing grows, something is needed only with less than this part of the floor left."
  @spec at_rest_share() :: pos_integer()
  def at_rest_share, do: 2

  @doc """
  A step that nothing interrupts may take this part of the floor for a moment, as a healthy collection does.
  """
  @spec step_share() :: pos_integer()
  def step_share, do: 2

  @doc """
  What foreign growth may take until a victim's memory is back is a guess, and counts for this part of the floor
  at most: looking farther ahead killed a cache that loaded (6 of 8 runs of 78 % of 512 MiB).
  """
  @spec guess_share() :: pos_integer()
  def guess_share, do: 2

  @doc """
  Headroom is brought back to this multiple of the floor: far enough that the next sample is not at
  the floor again, and no further.
  """
  @spec target_floors() :: float()
  def target_floors, do: 1.5

  # -- The trim

  @doc "A trim has taken effect after this time, with the schedulers busy, in ms (bench/trim.exs)."
  @spec trim_settle_ms() :: pos_integer()
  def trim_settle_ms, do: 20

  @doc "Time between two trims that are waited for, in ms."
  @spec trim_every_ms() :: pos_integer()
  def trim_every_ms, do: 100

  # -- Figures

  @doc """
  How old a figure may be to be acted on while memory grows, in ms. The throttle reads those that grow
  in each turn; the others were shown to be steady, and the accountant looks at them again.
  """
  @spec fresh_ms() :: pos_integer()
  def fresh_ms, do: 2_000

  @doc """
  The same while nothing grows, in ms. The accountant looks at all workers where memory has moved, and
  each one to five minutes where it has not.
  """
  @spec fresh_at_rest_ms() :: pos_integer()
  def fresh_at_rest_ms, do: 301_000

  @doc """
  How long the choice waits for figures that are late before it passes to others, in ms, while the
  throttle holds: a collection of 300 MB takes up to 500.
  """
  @spec late_ms() :: pos_integer()
  def late_ms, do: 600

  @doc "Two looks show growth if they are no further apart than this, in ms: ten turns of the throttle."
  @spec shown_ms() :: pos_integer()
  def shown_ms, do: 500

  @doc "A look that is no older than this, in ms, has not seen much of a worker's growth."
  @spec suspect_ms() :: pos_integer()
  def suspect_ms, do: 100

  @doc "Growth that was shown fades with this time constant, in ms: six turns of the throttle."
  @spec grown_ms() :: pos_integer()
  def grown_ms, do: 300

  @doc """
  What one holds that has just started, and waits, was taken at its start, and fades with this time constant,
  in ms: where newcomers are the leak, others follow within it.
  """
  @spec started_ms() :: pos_integer()
  def started_ms, do: suspect_ms()

  @doc "A worker that has grown by less is no grower, in bytes: one of many that just does its work."
  @spec grown_bytes() :: pos_integer()
  def grown_bytes, do: 65_536

  @doc """
  Nor is one that has grown by less than this part of what the fastest of its rank has; and a rank that
  has grown by less than this part of all ranks is not the cause, but for those in it that have by this part
  of what the fastest of all has.
  """
  @spec grown_share() :: pos_integer()
  def grown_share, do: 8

  @doc """
  One that waits and has worked no more than this between two looks, in reductions, has not run: to be
  looked at and made to stand costs a few.
  """
  @spec rested_reductions() :: pos_integer()
  def rested_reductions, do: 20

  # -- Whom

  @doc "Victims at once. The figures of the first make those of more than this obsolete."
  @spec batch() :: pos_integer()
  def batch, do: 64

  @doc "So many of the largest of each rank are looked at; the rest hold less."
  @spec looks() :: pos_integer()
  def looks, do: 256

  @doc """
  And those that grow must together have grown by this part of what memory has lately: else somebody else
  is the cause.
  """
  @spec cause_share() :: pos_integer()
  def cause_share, do: 4

  @doc "Less growth than this, in bytes, is that of a node that just works."
  @spec recent_bytes() :: pos_integer()
  def recent_bytes, do: @mib

  @doc "Nor before less than this part of the floor is left: a multiple of a quarter."
  @spec soon_floor_quarters() :: pos_integer()
  def soon_floor_quarters, do: 3

  @doc """
  Workers below `:normal` die for growth that nobody is known to have where they pay for this time of it
  besides the need, in ms: until the next round has taken effect.
  """
  @spec soon_ms() :: pos_integer()
  def soon_ms, do: 100

  @doc """
  Steady workers die for the growth of one that is worth more only where their bytes pay for this time
  of it besides the need, in ms. Otherwise their deaths would buy moments.
  """
  @spec steady_ms() :: pos_integer()
  def steady_ms, do: 1_000

  # -- What is on its way back

  @doc "A victim's heap is freed after its end, on a scheduler of its own, in ms ..."
  @spec free_ms() :: pos_integer()
  def free_ms, do: 5

  @doc "... and at this speed, in bytes/ms: a mailbox of hundreds of MB takes hundreds of ms."
  @spec free_bytes_per_ms() :: pos_integer()
  def free_bytes_per_ms, do: @mib

  @doc """
  The same while both schedulers are busy with what makes the growth, in bytes/ms: 104 MB of messages were
  back after 170 ms.
  """
  @spec free_busy_bytes_per_ms() :: pos_integer()
  def free_busy_bytes_per_ms, do: div(@mib, 2)

  @doc """
  Nobody who is not shown to grow is made to stand for longer at a stretch, in ms: below 50, a common
  timeout, with what the schedulers add.
  """
  @spec longest_stand_ms() :: pos_integer()
  def longest_stand_ms, do: 40

  @doc "No sweep is longer, in ms: what the throttle lets workers stand at most."
  @spec longest_sweep_ms() :: pos_integer()
  def longest_sweep_ms, do: longest_stand_ms()

  @doc "All others run for so long before the next, in ms."
  @spec between_sweeps_ms() :: pos_integer()
  def between_sweeps_ms, do: 10

  @spec sweep_every_ms() :: pos_integer()
  def sweep_every_ms, do: longest_sweep_ms() + between_sweeps_ms()

  @doc "No more of that is waited for in advance, in ms: a guess that is wrong must not cost more."
  @spec longest_free_ms() :: pos_integer()
  def longest_free_ms, do: 250

  @doc """
  A victim that has not left after this time, in ms, is in a collection that cannot be interrupted.
  What it holds is not counted on any more.
  """
  @spec stuck_ms() :: pos_integer()
  def stuck_ms, do: 150

  @doc """
  So long after a kill, in ms, victims of which it is not known what they gave back keep workers of higher ranks from being chosen.
  Their memory is most of what can be had, and the death of others does not bring it sooner.
  """
  @spec waiting_ms() :: pos_integer()
  def waiting_ms, do: 1_500

  @doc """
  While time is short only what cannot have come back yet counts: of those told to leave in this time,
  in ms ...
  """
  @spec leave_ms() :: pos_integer()
  def leave_ms, do: 50

  @doc "... and of those that are gone what goes back at this speed, in bytes/ms (a heap, or an array)."
  @spec return_bytes_per_ms() :: pos_integer()
  def return_bytes_per_ms, do: 4 * @mib

  @doc "Time is short where growth reaches the limit itself within this time, in ms."
  @spec urgent_ms() :: pos_integer()
  def urgent_ms, do: 150

  @doc "What was measured is measured again within this time, in ms, or not counted on either."
  @spec measured_ms() :: pos_integer()
  def measured_ms, do: 2 * measure_at_rest_ms()

  @doc "How long after a kill the VM is measured, in ms: most victims are gone by then."
  @spec measure_after_ms() :: pos_integer()
  def measure_after_ms, do: 30

  @doc "While memory stands still a measure of the VM holds for so long, in ms."
  @spec measure_at_rest_ms() :: pos_integer()
  def measure_at_rest_ms, do: 2_000

  @doc "The VM's memory has moved between two measures if it has by this, in bytes: less is noise."
  @spec moved_bytes() :: pos_integer()
  def moved_bytes, do: 4 * @mib

  @doc """
  At most this part of what lies free inside the VM serves growth: of slack after 9 of 10 processes were killed
  new ones of the same size reused 87 to 98 % ...
  """
  @spec reuse_most() :: float()
  def reuse_most, do: 0.9

  @doc "... others less: so this part where it is not known yet."
  @spec reuse_unknown() :: float()
  def reuse_unknown, do: 0.75

  @doc "A part that was found small grows by this at each measure in which nothing moves. Chosen, not measured."
  @spec reuse_recovers() :: float()
  def reuse_recovers, do: 0.125

  @doc """
  The same where nothing is free inside the VM, in ms: a measure asks all schedulers, and what it could
  find is no growth.
  """
  @spec measure_idle_ms() :: pos_integer()
  def measure_idle_ms, do: 10_000

  # -- When it does not help

  @doc """
  Whether kills help is judged over windows this long, in ms: victims' memory is freed when they get
  their turn.
  """
  @spec judge_ms() :: pos_integer()
  def judge_ms, do: 250

  @doc "After so many windows whose kills freed less than a tenth of what was promised, they end."
  @spec futile_windows() :: pos_integer()
  def futile_windows, do: 4

  @doc "So long without anybody to kill, in ms, and there is nobody."
  @spec nobody_ms() :: pos_integer()
  def nobody_ms, do: 500

  @doc "An episode is over when nothing was needed for so long, in ms."
  @spec episode_ms() :: pos_integer()
  def episode_ms, do: 2_000
end
