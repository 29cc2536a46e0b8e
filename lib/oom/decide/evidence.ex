defmodule OOM.Evidence do
  @moduledoc false
  # Growth that was seen in a worker, from the figures of the looks at the worker: pure.
  #
  # Growth is a rate: the memory taken between two looks in close succession, as under pressure. More memory
  # than long ago shows nothing: the worker may have taken it before memory grew. Shown growth fades while the
  # worker could have gone on and did not, so a cache that has been loaded is no suspect of a later leak. A
  # worker that takes a step each half second stays shown between two steps.

  alias OOM.{Limits, Workers}

  @typedoc """
  `more`: the growth from the look before to the last look, `since_ms` apart, which shows nothing alone; `nil`
  before two looks. `once?`: only one look, at a worker that had just started. `started?`: the worker waited
  at that look, and has taken nothing since.
  """
  @type t :: %{
          optional(:once?) => true,
          optional(:started?) => true,
          grown: non_neg_integer(),
          shown?: boolean(),
          episode: non_neg_integer(),
          more: integer() | nil,
          since_ms: non_neg_integer()
        }

  @doc "Returns the evidence on a worker that has just started: it has taken all its memory since."
  @spec born(non_neg_integer()) :: t()
  def born(episode), do: %{grown: 0, shown?: true, episode: episode, more: nil, since_ms: 0}

  @doc """
  Returns the evidence of the first look at a worker that started `since_ms` ago and waits already. The worker
  took its memory at the start, and no next step of it is known.
  """
  @spec started(t(), non_neg_integer(), integer(), non_neg_integer()) :: t()
  def started(born, bytes, since_ms, episode) do
    since_ms = max(since_ms, 0)

    case look({born, 0, since_ms, true}, bytes, episode) do
      %{shown?: true} = evidence ->
        Map.merge(evidence, %{grown: faded(bytes, since_ms, Limits.started_ms()), started?: true})

      not_shown ->
        not_shown
    end
  end

  @doc """
  Returns the evidence of a look in this episode. The first argument is `nil` at the first look; later the
  evidence and the figure of the last look, its age, and whether the worker could have grown since (the worker
  ran, or did not want to).
  """
  @spec look(
          {t(), non_neg_integer(), integer(), boolean()} | nil,
          non_neg_integer(),
          non_neg_integer()
        ) :: t()
  def look(nil, _bytes, episode),
    do: %{grown: 0, shown?: false, episode: episode, more: nil, since_ms: 0}

  # A look that began earlier may end later.
  def look({last, last_bytes, since_ms, free?}, bytes, episode) when since_ms < 0,
    do: look({last, last_bytes, 0, free?}, bytes, episode)

  def look({last, last_bytes, since_ms, free?}, bytes, episode) do
    more = bytes - last_bytes

    # Time in which the throttle held the worker, or the worker had no turn, is no time between two looks.
    free? = free? or last.episode != episode
    known? = last.shown? and (not free? or since_ms <= Limits.fresh_ms())

    cond do
      known? and free? and started?(last, more) ->
        last.grown
        |> faded(since_ms, Limits.started_ms())
        |> shown(more, since_ms, episode)
        |> Map.put(:started?, true)

      known? and free? ->
        grown = faded(last.grown, since_ms) + lately(more, since_ms)
        grown |> max(0) |> shown(more, since_ms, episode) |> once(last)

      known? ->
        shown(max(last.grown + more, 0), more, since_ms, episode)

      since_ms <= Limits.shown_ms() ->
        shown(max(more, 0), more, since_ms, episode)

      true ->
        %{grown: 0, shown?: false, episode: episode, more: more, since_ms: since_ms}
    end
  end

  defp shown(grown, more, since_ms, episode),
    do: %{grown: grown, shown?: true, episode: episode, more: more, since_ms: since_ms}

  defp started?(last, more), do: Map.get(last, :started?, false) and more < Limits.grown_bytes()

  # The memory of a new worker at the first look may be all the worker ever takes.
  defp once(evidence, %{shown?: true, more: nil}), do: Map.put(evidence, :once?, true)
  defp once(evidence, _last), do: evidence

  # Of growth over a longer time, the part taken to be recent.
  defp lately(more, since_ms) do
    if since_ms <= Limits.shown_ms(),
      do: more,
      else: div(more * Limits.shown_ms(), since_ms)
  end

  @doc "Returns the part of shown growth that is left after `since_ms`, in bytes."
  @spec faded(non_neg_integer(), non_neg_integer(), pos_integer()) :: non_neg_integer()
  def faded(grown, since_ms, within_ms \\ Limits.grown_ms()),
    do: round(grown * :math.exp(-since_ms / within_ms))

  @doc "Returns the growth that the last look showed, in bytes; 0 where no growth was shown."
  @spec grown_bytes(Workers.row()) :: non_neg_integer()
  def grown_bytes({_, _, _, _, _, _, _, _, {_, _, %{evidence: %{grown: grown}}}}), do: grown
  def grown_bytes(_row), do: 0

  @doc """
  Returns the growth of `grown_bytes/1` as of now, in bytes. A growing worker may be in a collection, where no
  look reaches it, so its growth does not fade at once. A worker that waited is in no collection, and a new
  worker took its memory at the start, so their growth fades.
  """
  @spec grown_bytes(Workers.row(), integer()) :: non_neg_integer()
  def grown_bytes({_, _, _, _, _, _, _, _, {_, at_ms, %{evidence: evidence} = found}}, now_ms) do
    since_ms = max(now_ms - at_ms - Limits.suspect_ms(), 0)

    cond do
      since_ms > Limits.fresh_ms() ->
        0

      Map.get(evidence, :started?, false) ->
        faded(evidence.grown, max(now_ms - at_ms, 0), Limits.started_ms())

      Map.get(evidence, :once?, false) or Map.get(found, :waits?, false) ->
        faded(evidence.grown, since_ms)

      true ->
        evidence.grown
    end
  end

  def grown_bytes(_row, _now_ms), do: 0

  @doc "Tells whether the looks in this episode are enough to show growth, or to rule growth out."
  @spec shown?(Workers.row(), non_neg_integer()) :: boolean()
  def shown?({_, _, _, _, _, _, _, _, {_, _, %{evidence: evidence}}}, episode),
    do: evidence.shown? and evidence.episode == episode

  def shown?(_row, _episode), do: false

  @doc """
  Tells whether a worker that was stopped while memory grows may be a cause: the worker has grown since the
  look before, or there was no such look. A recent look makes a smaller growth enough.
  """
  @spec suspect?(Workers.row()) :: boolean()
  def suspect?({_, _, _, _, _, _, _, _, {_, _, %{evidence: %{more: more, since_ms: since_ms}}}})
      when is_integer(more) do
    least = Limits.grown_bytes()
    more >= least or (since_ms < Limits.suspect_ms() and more * Limits.suspect_ms() >= least)
  end

  def suspect?(_row), do: true

  @doc "Tells whether growth of `grown_bytes` matters, where the fastest worker has grown by `most_bytes`."
  @spec grower?(non_neg_integer(), non_neg_integer()) :: boolean()
  def grower?(grown_bytes, most_bytes) do
    grown_bytes >= Limits.grown_bytes() and
      grown_bytes * Limits.grown_share() >= most_bytes
  end

  @doc """
  Tells whether a rank that has grown by `rank_bytes` is a cause. All ranks have grown by `total_bytes`, and
  memory by `recent_bytes`, in the time in which growth is remembered.
  """
  @spec cause?(non_neg_integer(), non_neg_integer(), pos_integer()) :: boolean()
  def cause?(rank_bytes, total_bytes, recent_bytes) do
    rank_bytes > 0 and rank_bytes * Limits.grown_share() >= total_bytes and
      rank_bytes * Limits.cause_share() >= recent_bytes
  end
end
