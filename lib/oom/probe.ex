defmodule OOM.Probe do
  @moduledoc false
  # Asks workers for their memory. `process_info` of another process is a signal to the process, and a worker
  # in a long collection does not answer before the end of the collection. So throw-away processes ask. The
  # accountant sees where a probe stands, and sends another probe past the worker that blocks.
  #
  # The probes on a chunk share the chunk: each takes the next pid by one atomic add, and notes the index of
  # the current worker in a word of its own.

  alias OOM.{Evidence, HeapStep, Level, Limits, Mailboxes, Owned, Steps, Tables, Workers}

  @type chunk :: {pids :: tuple(), cursor :: :atomics.atomics_ref()}
  @type probe :: {pid(), place :: {pids :: tuple(), :atomics.atomics_ref()}}

  # Read without a signal to the worker, unless the worker runs at that moment (1 us here, among 1,000
  # runnable processes); `memory` always takes a signal, and walks the mailbox.
  @cheap [:garbage_collection_info, :message_queue_len, :reductions, :status]
  # Fewer messages weigh too little for the dearer question.
  @long_queue 32
  # A worker that has done no more reductions than this since the last look holds the same memory as before.
  @worked 500
  @appended 20
  # A worker is asked for its binaries only where there can be few: at most 20,000 in a heap of this size.
  @small_heap_words 131_072
  # Reductions per ms; a worker that does more works hard.
  @hard 20
  @busy_ms 500
  @word 8
  @few 8
  @nothing %{hidden: 0, all: 0, step: 0}
  # A smaller heap is copied in no time; see OOM.Steps.
  @large_heap 1_048_576

  @doc """
  Returns the memory of a worker in bytes, or `nil` where the worker has ended: heap, stack and mailbox, the
  off-heap binaries that the heap keeps alive, and the worker's other memory (OOM.Owned).
  """
  @spec bytes(pid()) :: non_neg_integer() | nil
  def bytes(pid) do
    with {bytes, _state, _step, _work} <- look(pid, nil, 0, 0, 0), do: bytes
  end

  # The figure, whether the figure is fresh, the worker's next step, and the state to keep until the next
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
        free? = waits? or had_turn?(reductions, now_ms, last)

        live = live(gc)
        touched = touched(gc, live, last)
        # Growth is measured by this: of the heap blocks only the part written to.
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

  # The live part of a heap at most: garbage since the last collection is included.
  defp live(gc), do: @word * (gc[:heap_size] + gc[:old_heap_size] + gc[:mbuf_size])

  # The part of the heap blocks that was written to; the system has provided only this part. A heap of 100 MB
  # gets a block that is larger by a fifth, and fills the block in hundreds of turns, in which the block's
  # size does not change. A worker that makes garbage fills its block again and again, and takes no new
  # memory.
  defp touched(gc, live, last) do
    blocks = {gc[:heap_block_size], gc[:old_heap_block_size]}

    case last do
      {_, _, %{touched: {^blocks, before}}} -> {blocks, max(live, before)}
      _ -> {blocks, live}
    end
  end

  # Where OTP processes stand while they wait for a message.
  @waits [
    gen_server: :loop,
    gen_statem: :loop_receive,
    gen_event: :fetch_msg,
    erlang: :hibernate,
    timer: :sleep
  ]

  # Whether the worker waits for a message. The status of a suspended worker does not tell; the current
  # function, with an empty mailbox, does.
  defp waits?(pid, :suspended, 0) do
    case :erlang.process_info(pid, :current_function) do
      {_, {module, function, _}} -> {module, function} in [{Process, :sleep} | @waits]
      _ -> false
    end
  end

  defp waits?(_pid, status, _queue), do: status == :waiting

  defp ran?(_reductions, nil), do: true
  defp ran?(reductions, {before, _, _}), do: reductions - before > @worked

  # The throttle looks in each turn at each worker that it holds. So a worker without a look for many turns was
  # not held, and a few reductions show that it ran. Without this, a worker that rests would keep the growth of
  # its last load.
  defp had_turn?(_reductions, _now_ms, nil), do: true

  defp had_turn?(reductions, now_ms, {before, then, _} = last) do
    long? = now_ms - then > Limits.shown_ms()
    ran?(reductions, last) or (long? and reductions - before > Limits.rested_reductions())
  end

  # What the next collection of a growing heap copies (OOM.HeapStep). A worker that the throttle has
  # suspended, or that has not run since, still has the step of the last look.
  defp copied(_status, _ran?, gc, live, {_, _, %{live: before}})
       when live > before and live >= @large_heap,
       do: HeapStep.bytes(gc)

  defp copied(status, false, _gc, _live, {_, _, %{copied: copied}})
       when status in [:suspended, :runnable, :running],
       do: copied

  defp copied(:suspended, _ran?, _gc, _live, {_, _, %{copied: copied}}), do: copied
  defp copied(_status, _ran?, _gc, _live, _last), do: 0

  # The worker's own memory, and the memory that the next collection takes again for the mailbox. A mailbox on
  # the heap is copied with the heap; where the worker was flooded before the mailbox could be moved off, no
  # max_heap_size stops the copy either. The copy takes about as long as the clients took to send the messages
  # (1 GB/s both), so as much has come again by the end of the copy.
  defp own(_pid, gc, queue, _mail) when queue < @long_queue, do: {heap(gc), 0, nil}

  defp own(pid, gc, queue, mail) do
    case Mailboxes.bytes(mail, queue) do
      nil -> read(pid, gc, queue)
      bytes -> {heap(gc) + bytes, 0, mail}
    end
  end

  # A mailbox on the heap may just be moving off the heap, so it is read each time.
  defp read(pid, gc, queue) do
    case :erlang.process_info(pid, [:memory, :message_queue_data]) do
      [{_, bytes}, {_, :on_heap}] -> {max(bytes, heap(gc)), 2 * bytes, nil}
      [{_, bytes}, _] -> {max(bytes, heap(gc)), 0, {queue, max(bytes - heap(gc), 0)}}
      :undefined -> {heap(gc), 0, nil}
    end
  end

  # The last reading of the mailbox.
  defp mail({_, _, found}), do: Map.get(found, :mail)
  defp mail(nil), do: nil

  defp heap(gc),
    do: @word * (gc[:heap_block_size] + gc[:old_heap_block_size] + gc[:mbuf_size])

  # The virtual binary heap counts words of off-heap binaries, and shared binaries in each holder.
  defp binaries(gc), do: @word * (gc[:bin_vheap_size] + gc[:bin_old_vheap_size])

  # The virtual heap shows a binary that grows by appending in its first size until the next collection. A
  # worker that appends makes next to no garbage, so the collection does not come: 60 MB read as 1,864 bytes.
  # So a worker that has run is asked for its binaries, and each binary is divided among its holders. Not at
  # the first look: the question is a signal, and a worker at the end of a long run queue would get its turn
  # at once, with all the memory of that turn.
  #
  # `step`: few binaries that hold much, and more than at the last look, are being appended to; see OOM.Steps.
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

  # Whether the worker has run since; `nil` at the first look. The limit is lower for a suspended worker: the
  # worker answers without a turn, and an append of 64 KiB takes next to no reductions.
  defp worked(_reductions, nil, _status), do: nil
  defp worked(reductions, {before, _, _}, :suspended), do: reductions - before > @appended
  defp worked(reductions, {before, _, _}, _status), do: reductions - before > @worked

  defp hard?(reductions, now_ms, {before, then, _}) when now_ms > then,
    do: reductions - before > @hard * (now_ms - then)

  defp hard?(_reductions, _now_ms, _last), do: false

  defp hard_ms({_, _, found}), do: found.hard_ms
  defp hard_ms(nil), do: nil

  # A worker that stands still now may be suspended (OOM.Throttle), and the work it has begun goes on: 13,000
  # processes that had not run yet took 150 MB after the process that spawned them was suspended.
  defp busy?(nil, _now_ms), do: false
  defp busy?(hard_ms, now_ms), do: now_ms - hard_ms < @busy_ms

  @spec chunk([pid()]) :: chunk()
  def chunk(pids), do: {List.to_tuple(pids), :atomics.new(1, signed: false)}

  @doc """
  Starts a probe on a chunk. The default is high priority: a signal lends the worker the priority of the
  sender, so even a worker at the end of a long run queue answers at once. A probe of normal priority, sent in
  calm time, would be late under pressure.
  """
  @spec start(chunk(), :high | :max) :: {probe(), reference()}
  def start({pids, cursor}, priority \\ :high) do
    place = :atomics.new(1, signed: false)
    args = [pids, cursor, place]
    {pid, ref} = :erlang.spawn_opt(__MODULE__, :run, args, [:monitor, priority: priority])
    {{pid, {pids, place}}, ref}
  end

  @doc "Returns the worker whose answer a probe waits for, with its place; `nil` between two workers."
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

  @doc "Reads a worker once, and stores the figure with this time."
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
