defmodule OOM.Limits.Turn do
  @moduledoc false
  # The constants of the throttle and of its turns, as in OOM.Limits: unit, meaning, and source of the value.

  @mib 1_048_576

  # -- A stand

  @doc """
  The least stand, in ms: by then freed memory is back, and a decision has taken effect. The longest is
  `OOM.Limits.longest_stand_ms/0`.
  """
  @spec stand_ms() :: pos_integer()
  def stand_ms, do: 15

  @doc """
  A stand waits at most this time until all workers stand, in ms: a worker in a long collection takes
  hundreds.
  """
  @spec settle_ms() :: pos_integer()
  def settle_ms, do: 10

  @doc """
  A stand waits at most this time more until the workers that have just come stand too (OOM.Tree.Newborns), in ms.
  Chosen, not measured.
  """
  @spec born_ms() :: pos_integer()
  def born_ms, do: 3

  @doc """
  More growth than this while the others stand, in bytes, comes from the workers left alone, and ends the
  stand. A worker at full speed takes 5 to 8 MB in one slice.
  """
  @spec alert_bytes() :: pos_integer()
  def alert_bytes, do: 4 * @mib

  @doc "The time between two looks at memory during a stand or a run, in ms. Chosen, not measured."
  @spec watch_ms() :: pos_integer()
  def watch_ms, do: 5

  @doc """
  A worker that has come in this time, in ms, stands before the others and for as long as there is no room: its client
  waits for a first answer, as in a queue. Chosen, not measured.
  """
  @spec newcomer_ms() :: pos_integer()
  def newcomer_ms, do: 3_000

  @doc "A newcomer that holds so much, in bytes, is in the middle of its work. Chosen, not measured."
  @spec begun_bytes() :: pos_integer()
  def begun_bytes, do: @mib

  # -- Who is left alone (OOM.Lineup)

  @doc """
  A worker with so many reductions in a turn and no growth takes nothing: a leak that does next to nothing
  else takes 64 KiB with far fewer.
  """
  @spec ran_reductions() :: pos_integer()
  def ran_reductions, do: 20_000

  @doc "Such a worker is left alone for this time, in ms, unless a probe sees growth. Chosen, not measured."
  @spec alone_ms() :: pos_integer()
  def alone_ms, do: 800

  # -- A run (OOM.Slices)

  @doc """
  The assumed cost of a worker that has not run yet, in bytes: a turn spent on arrays or binaries took 17 MB.
  """
  @spec unknown_bytes() :: pos_integer()
  def unknown_bytes, do: 16 * @mib

  @doc "With so many known costs, the highest known cost is assumed instead. Chosen, not measured."
  @spec known_enough() :: pos_integer()
  def known_enough, do: 3

  @doc """
  The cost of a worker without a turn fades by this part in each run in which others had a turn: after 90 runs the
  worker is cheap. Chosen, not measured.
  """
  @spec late_fades() :: pos_integer()
  def late_fades, do: 16

  @doc """
  The same in a run in which nobody had a turn. Chosen, not measured: to read whether a worker waits is a signal to a
  running worker, and the throttle waits for nobody.
  """
  @spec idle_fades() :: pos_integer()
  def idle_fades, do: 4

  @doc "A turn may take this part of the room above the floor. Chosen, not measured."
  @spec share() :: pos_integer()
  def share, do: 4

  @doc """
  A turn may always take this part of the floor: at the floor a worker is killed, and slower growth only
  delays the kill. Chosen, not measured.
  """
  @spec floor_share() :: pos_integer()
  def floor_share, do: 8

  @doc "The shortest run, in ms: the resolution of a VM timer."
  @spec shortest_ms() :: pos_integer()
  def shortest_ms, do: 1

  @doc "The longest run, in ms: a longer run is no throttle."
  @spec longest_ms() :: pos_integer()
  def longest_ms, do: 100

  # -- Growth while workers stand (OOM.Standing)

  @doc "The time of standing that a verdict of growth takes, in ms: three of the least stands."
  @spec verdict_ms() :: pos_integer()
  def verdict_ms, do: 3 * stand_ms()

  @doc """
  After this time of standing without growth, in ms, the growth comes from the workers that run: twenty
  stands.
  """
  @spec own_ms() :: pos_integer()
  def own_ms, do: 20 * stand_ms()

  @doc """
  Less is no growth, in bytes: the kernel charges less than this in advance on a few CPUs, and other processes
  make noise.
  """
  @spec noise_bytes() :: pos_integer()
  def noise_bytes, do: div(@mib, 2)

  # -- The end of the throttle

  @doc "The throttle ends after so many turns without growth towards the floor. Chosen, not measured."
  @spec calm_turns() :: pos_integer()
  def calm_turns, do: 3

  # -- When the next throttle begins

  @doc "The least pause between two throttles, in ms. Chosen, not measured."
  @spec again_ms() :: pos_integer()
  def again_ms, do: 5

  @doc """
  The same after a throttle that found foreign growth, in ms: another throttle would tell the same, and
  standing costs the workers a part of their time. Chosen, not measured.
  """
  @spec again_foreign_ms() :: pos_integer()
  def again_foreign_ms, do: 500
end
