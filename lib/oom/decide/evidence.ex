defmodule OOM.Evidence do
  @moduledoc false
  # Growth that was seen in a worker, from the figures of its looks: pure.
  #
  # Growth is a rate: what was taken between two looks that follow each other closely, as they do under
  # pressure. What a worker holds more than long ago shows nothing: it may have been there before anything
  # grew. What was shown fades while the worker could have gone on and did not: a cache that has been loaded
  # is no suspect of the leak that begins later. One that takes a step each half second stays shown between
  # two of them.

  alias OOM.{Limits, Workers}

  @typedoc """
  `more`: what the last look found above the one before, so long before it; nothing is shown by it. `once?`:
  there was one look, at one that has just started. `started?`: it waited then, and has taken nothing since.
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

  @doc "Of one that has just started: what it holds at its first look it has taken since."
  @spec born(non_neg_integer()) :: t()
  def born(episode), do: %{grown: 0, shown?: true, episode: episode, more: nil, since_ms: 0}

  @doc """
  The first look at one that has just started, so long ago, and waits already: what it holds was taken at its
  start, and it goes on to nothing that anybody knows of.
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
  What a look in this episode shows, given the evidence and figure of the last, how long ago it was, and
  whether the worker could have grown since (it ran, or did not want to); `nil` at the first.
  """
  @spec look(
          {t(), non_neg_integer(), integer(), boolean()} | nil,
          non_neg_integer(),
          non_neg_integer()
        ) :: t()
  def look(nil, _bytes, episode),
    do: %{grown: 0, shown?: false, episode: episode, more: nil, since_ms: 0}

  # A look that was begun earlier may be through later.
  def look({last, last_bytes, since_ms, free?}, bytes, episode) when since_ms < 0,
    do: look({last, last_bytes, 0, free?}, bytes, episode)

  def look({last, last_bytes, since_ms, free?}, bytes, episode) do
    more = bytes - last_bytes
    # Time in which it stood still by our order, or had no turn, is no time between two looks.
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

  # What one has at its first look that has just started may be all it ever takes.
  defp once(evidence, %{shown?: true, more: nil}), do: Map.put(evidence, :once?, true)
  defp once(evidence, _last), do: evidence

  # Of what was taken over a longer time, what is taken to be of the last.
  defp lately(more, since_ms) do
    if since_ms <= Limits.shown_ms(),
      do: more,
      else: div(more * Limits.shown_ms(), since_ms)
  end

  @doc "What is left of growth that was shown so long ago."
  @spec faded(non_neg_integer(), non_neg_integer(), pos_integer()) :: non_neg_integer()
  def faded(grown, since_ms, within_ms \\ Limits.grown_ms()),
    do: round(grown * :math.exp(-since_ms / within_ms))

  @doc "What this worker was shown to have grown by at its last look; 0 where nothing was shown."
  @spec grown_bytes(Workers.row()) :: non_neg_integer()
  def grown_bytes({_, _, _, _, _, _, _, _, {_, _, %{evidence: %{grown: grown}}}}), do: grown
  def grown_bytes(_row), do: 0

  @doc """
  The same as of now, where nobody has looked since. One that goes on may be in a collection, and cannot be
  looked at; but one that waited is in none, and what one has that has just started was taken then.
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

  @doc "Whether it has been looked at often enough to show growth in this episode, or that there is none."
  @spec shown?(Workers.row(), non_neg_integer()) :: boolean()
  def shown?({_, _, _, _, _, _, _, _, {_, _, %{evidence: evidence}}}, episode),
    do: evidence.shown? and evidence.episode == episode

  def shown?(_row, _episode), do: false

  @doc """
  Whether this worker, stopped while memory grows, may be at it: it holds more than at the look before, or
  there was none. Where that was a moment ago a little more is enough.
  """
  @spec suspect?(Workers.row()) :: boolean()
  def suspect?({_, _, _, _, _, _, _, _, {_, _, %{evidence: %{more: more, since_ms: since_ms}}}})
      when is_integer(more) do
    least = Limits.grown_bytes()
    more >= least or (since_ms < Limits.suspect_ms() and more * Limits.suspect_ms() >= least)
  end

  def suspect?(_row), do: true

  @doc "Whether growth by so much matters, where the fastest worker has grown by `most_bytes`."
  @spec grower?(non_neg_integer(), non_neg_integer()) :: boolean()
  def grower?(grown_bytes, most_bytes) do
    grown_bytes >= Limits.grown_bytes() and
      grown_bytes * Limits.grown_share() >= most_bytes
  end

  @doc """
  Whether a rank that has grown by so much is a cause, where all ranks have by `total_bytes`, and memory
  has by `recent_bytes` in the time in which growth is remembered.
  """
  @spec cause?(non_neg_integer(), non_neg_integer(), pos_integer()) :: boolean()
  def cause?(rank_bytes, total_bytes, recent_bytes) do
    rank_bytes > 0 and rank_bytes * Limits.grown_share() >= total_bytes and
      rank_bytes * Limits.cause_share() >= recent_bytes
  end
end
