defmodule OOM.Probe do
  @moduledoc false
  # Asks workers what they hold. `process_info` of another process is a signal to it: one that is
  # in a long collection does not answer until it is done. So whoever asks is a throw-away
  # process; the accountant sees where it stands, and sends another past the one that blocks.
  #
  # A chunk is shared by the probes that work on it: each takes the next pid by one atomic add, and
  # notes in a word of its own which one it is at.

  alias OOM.{Evidence, HeapStep, Level, Mailboxes, Owned, Steps, Tables, Workers}

  @type chunk :: {pids :: tuple(), cursor :: :atomics.atomics_ref()}
  @type probe :: {pid(), place :: {pids :: tuple(), :atomics.atomics_ref()}}

  # What gives these is read without a signal to the worker unless it runs just then (1 us here,
  # among 1,000 runnable processes); `memory` is always a signal, and walks the mailbox.
  @cheap [:garbage_collection_info, :message_queue_len, :reductions, :status]
  # Messages that weigh something; fewer are not worth the dearer question.
  @long_queue 32
  # One that has worked no more than this since the last look holds what it held.
  @worked 500
  @appended 20
  # Its binaries are only asked for where few can be: of a heap this small, at most 20,000.
  @small_heap_words 131_072
  # Reductions per ms; one that does more works hard.
  @hard 20
  @busy_ms 500
  @word 8
  @few 8
  @nothing %{hidden: 0, all: 0, step: 0}
  # Less of a heap than this is copied in no time; see OOM.Steps.
  @large_heap 1_048_576

  @doc """
  The figure: heap, stack and mailbox, the off-heap binaries the heap keeps alive, and what it owns
  besides (OOM.Owned).
  """
  @spec bytes(pid()) :: non_neg_integer() | nil
  def bytes(pid) do
    with {bytes, _state, _step, _work} <- look(pid, nil, 0, 0, 0), do: bytes
  end

  # The figure, what it is worth, what it may take in one step, and what to remember until the next
  # look.
  defp look(pid, work, last_bytes, now_ms, min_bytes) do
    last = if match?({:born, _, _}, work), do: nil, else: work

    case :erlang.process_info(pid, @cheap) do
      [{_, gc}, {_, queue}, {_, reductions}, {_, status}] ->
        {own, flood, mail} = own(pid, gc, queue, mail(last))
        hard_ms = if hard?(reductions, now_ms, last), do: now_ms, else: hard_ms(last)

        found =
          pid |> held(gc, worked(reductions, last, status), last) |> Map.put(:hard_ms, hard_ms)

        bytes = own + binaries(gc) + found.hidden + Owned.bytes(pid)
        state = if bytes < min_bytes and busy?(hard_ms, now_ms), do: :busy, else: :fresh
        waits? = waits?(pid, status, queue)
        free? = waits? or ran?(reductions, last)

        live = live(gc)
        touched = touched(gc, live, last)
        # What growth goes by: of the blocks only what has been written to.
        taken = bytes - heap(gc) + elem(touched, 1)

        evidence = evidence(work, {last_bytes, taken}, now_ms, free?, waits?)
        copied = copied(status, ran?(reductions, last), gc, live, last)
        found = Map.merge(found, %{evidence: evidence, live: live, copied: copied})
        found = Map.merge(found, %{touched: touched, taken: taken, waits?: waits?, mail: mail})
        {bytes, state, Enum.max([found.step, flood, copied]), {reductions, now_ms, found}}

      :undefined ->
        nil
    end
  end

  defp evidence({:born, at_ms, episode}, {_, bytes}, now_ms, _free?, true),
    do: Evidence.started(Evidence.born(episode), bytes, now_ms - at_ms, Level.episode())

  defp evidence(work, {last_bytes, bytes}, now_ms, free?, _waits?),
    do: work |> before(last_bytes, now_ms, free?) |> Evidence.look(bytes, Level.episode())

  # Evidence and figure of the last look, its age, and whether the worker could have grown since.
  defp before({_, at_ms, %{evidence: evidence} = found}, bytes, now_ms, free?),
    do: {evidence, Map.get(found, :taken, bytes), now_ms - at_ms, free?}

  defp before({:born, at_ms, episode}, _bytes, now_ms, _free?),
    do: {Evidence.born(episode), 0, now_ms - at_ms, true}

  defp before(_no_look, _bytes, _now_ms, _free?), do: nil

  # What lives on a heap, at most: garbage since the last collection counts with it.
  defp live(gc), do: @word * (gc[:heap_size] + gc[:old_heap_size] + gc[:mbuf_size])

  # What has been written to of its blocks, which is what the system has given for them. A heap of 100 MB gets
  # a block that is larger by a fifth, and takes that in hundreds of turns, in which the block stays as it is;
  # and one that makes garbage fills its block again and again, and takes nothing more.
  defp touched(gc, live, last) do
    blocks = {gc[:heap_block_size], gc[:old_heap_block_size]}

    case last do
      {_, _, %{touched: {^blocks, before}}} -> {blocks, max(live, before)}
      _ -> {blocks, live}
    end
  end

  # Where a process of OTP stands that waits for a message.
  @waits [
    gen_server: :loop,
    gen_statem: :loop_receive,
    gen_event: :fetch_msg,
    erlang: :hibernate,
    timer: :sleep
  ]

  # Whether it waits for a message. The status of one that was made to stand still does not tell that;
  # but where it stands, with an empty mailbox, does.
  defp waits?(pid, :suspended, 0) do
    case :erlang.process_info(pid, :current_function) do
      {_, {module, function, _}} -> {module, function} in [{Process, :sleep} | @waits]
      _ -> false
    end
  end

  defp waits?(_pid, status, _queue), do: status == :waiting

  defp ran?(_reductions, nil), do: true
  defp ran?(reductions, {before, _, _}), do: reductions - before > @worked

  # What the next collection of a heap that grows copies (OOM.HeapStep). A worker that the throttle has
  # suspended, or that has not come to anything since, goes on where it was.
  defp copied(_status, _ran?, gc, live, {_, _, %{live: before}})
       when live > before and live >= @large_heap,
       do: HeapStep.bytes(gc)

  defp copied(status, false, _gc, _live, {_, _, %{copied: copied}})
       when status in [:suspended, :runnable, :running],
       do: copied

  defp copied(:suspended, _ran?, _gc, _live, {_, _, %{copied: copied}}), do: copied
  defp copied(_status, _ran?, _gc, _live, _last), do: 0

  # Its own memory, and what of it the next collection takes once more on behalf of its mailbox: one
  # that is on the heap is copied with it, and where the worker was flooded before it could be
  # moved, no max_heap_size holds it either. The copy takes about as long as it took the clients to
  # send it (1 GB/s both), so that there is as much again when it is done.
  defp own(_pid, gc, queue, _mail) when queue < @long_queue, do: {heap(gc), 0, nil}

  defp own(pid, gc, queue, mail) do
    case Mailboxes.bytes(mail, queue) do
      nil -> read(pid, gc, queue)
      bytes -> {heap(gc) + bytes, 0, mail}
    end
  end

  # One on the heap may just be moved off it, and is read each time.
  defp read(pid, gc, queue) do
    case :erlang.process_info(pid, [:memory, :message_queue_data]) do
      [{_, bytes}, {_, :on_heap}] -> {max(bytes, heap(gc)), 2 * bytes, nil}
      [{_, bytes}, _] -> {max(bytes, heap(gc)), 0, {queue, max(bytes - heap(gc), 0)}}
      :undefined -> {heap(gc), 0, nil}
    end
  end

  # The last reading of its mailbox.
  defp mail({_, _, found}), do: Map.get(found, :mail)
  defp mail(nil), do: nil

  defp heap(gc),
    do: @word * (gc[:heap_block_size] + gc[:old_heap_block_size] + gc[:mbuf_size])

  # The virtual binary heap counts words of off-heap binaries, shared ones in each holder.
  defp binaries(gc), do: @word * (gc[:bin_vheap_size] + gc[:bin_old_vheap_size])

  # A binary that grows by appending is in the virtual heap as it was when it was made, until the
  # next collection; and whoever appends makes next to no garbage, so that it does not come: 60 MB
  # read as 1,864 bytes. So one that has worked is asked for its binaries, each divided among those
  # that hold it. Not at the first look: the question is a signal, and who is asked at the end of a
  # long run queue gets his turn at once, with all it takes.
  #
  # `step`: where few binaries hold much, and more than at the last look, they are being appended
  # to; see OOM.Steps.
  defp held(_pid, _gc, nil, _last), do: @nothing
  defp held(_pid, _gc, false, {_, _, found}), do: found

  defp held(pid, gc, true, {_, _, last}) do
    with true <- gc[:heap_block_size] + gc[:old_heap_block_size] <= @small_heap_words,
         {_, binaries} <- :erlang.process_info(pid, :binary) do
      shares = for {_, bytes, holders} <- binaries, do: div(bytes, max(holders, 1))
      hidden = max(Enum.sum(shares) - binaries(gc), 0)
      all = binaries(gc) + hidden
      step = if all > last.all and length(binaries) <= @few, do: 2 * all, else: 0
      %{hidden: hidden, all: all, step: step}
    else
      _ -> @nothing
    end
  end

  # Whether it has worked since; `nil` at the first look. One that stands still is asked sooner: it waits
  # for nobody's turn, and an append of 64 KiB is next to no work.
  defp worked(_reductions, nil, _status), do: nil
  defp worked(reductions, {before, _, _}, :suspended), do: reductions - before > @appended
  defp worked(reductions, {before, _, _}, _status), do: reductions - before > @worked

  defp hard?(reductions, now_ms, {before, then, _}) when now_ms > then,
    do: reductions - before > @hard * (now_ms - then)

  defp hard?(_reductions, _now_ms, _last), do: false

  defp hard_ms({_, _, found}), do: found.hard_ms
  defp hard_ms(nil), do: nil

  # One that stands still now may have been made to (OOM.Throttle), and what it began goes on: 13,000
  # processes that had not yet run took 150 MB after who had spawned them was stopped.
  defp busy?(nil, _now_ms), do: false
  defp busy?(hard_ms, now_ms), do: now_ms - hard_ms < @busy_ms

  @spec chunk([pid()]) :: chunk()
  def chunk(pids), do: {List.to_tuple(pids), :atomics.new(1, signed: false)}

  @doc """
  Starts a probe on a chunk. At high priority by default: a signal lends the worker the priority of who asks,
  so that even one at the end of a long run queue answers at once; and a probe of normal priority
  that was sent in calm time would stay behind when it matters.
  """
  @spec start(chunk(), :high | :max) :: {probe(), reference()}
  def start({pids, cursor}, priority \\ :high) do
    place = :atomics.new(1, signed: false)
    args = [pids, cursor, place]
    {pid, ref} = :erlang.spawn_opt(__MODULE__, :run, args, [:monitor, priority: priority])
    {{pid, {pids, place}}, ref}
  end

  @doc "The worker whose answer a probe waits for, with its place; `nil` between two."
  @spec stands_at(probe()) :: {pos_integer(), pid()} | nil
  def stands_at({_pid, {pids, place}}) do
    case :atomics.get(place, 1) do
      0 -> nil
      index -> {index, elem(pids, index - 1)}
    end
  end

  @doc false
  @spec run(tuple(), :atomics.atomics_ref(), :atomics.atomics_ref()) :: :ok
  def run(pids, cursor, place), do: Tables.while_there(fn -> each(pids, cursor, place) end)

  defp each(pids, cursor, place) do
    index = :atomics.add_get(cursor, 1, 1)

    if index <= tuple_size(pids) do
      :atomics.put(place, 1, index)
      sample(elem(pids, index - 1), System.monotonic_time(:millisecond))
      :atomics.put(place, 1, 0)
      each(pids, cursor, place)
    else
      :ok
    end
  end

  @doc "One look at a worker, at this time."
  @spec sample(pid(), integer()) :: :ok | nil
  def sample(pid, now_ms) do
    {work, last_bytes} = Workers.last_look(pid)

    with {bytes, state, step, now} <- look(pid, work, last_bytes, now_ms, min_bytes()) do
      Workers.worked(pid, now)
      Steps.put(pid, step)
      Workers.sampled(pid, bytes, now_ms, state)
    end
  end

  defp min_bytes, do: Tables.config().min_victim_bytes
end
