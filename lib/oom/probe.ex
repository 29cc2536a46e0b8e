defmodule OOM.Probe do
  @moduledoc false
  # Asks workers for their memory. `process_info` of another process is a signal to the process, and a worker
  # in a long collection does not answer before the end of the collection. So throw-away processes ask. The
  # accountant sees where a probe stands, and sends another probe past the worker that blocks.
  #
  # The probes on a chunk share the chunk: each takes the next pid by one atomic add, and notes the index of
  # the current worker in a word of its own.

  alias OOM.{Evidence, Heap, HeapStep, HeldBinaries, Level, Limits, OffHeap, Owned}
  alias OOM.{Steps, Tables, Waiting, WorkerName, Workers}

  @type chunk :: {pids :: tuple(), cursor :: :atomics.atomics_ref()}
  @type probe :: {pid(), place :: {pids :: tuple(), :atomics.atomics_ref()}}

  # Read without a signal to the worker, unless the worker runs at that moment (1 us here, among 1,000
  # runnable processes). What needs a signal is in OOM.OffHeap and OOM.HeldBinaries.
  @cheap [:garbage_collection_info, :message_queue_len, :reductions, :status]
  # A worker that has done no more reductions than this since the last look has not run.
  @worked 500
  # Reductions per ms; a worker that does more works hard.
  @hard 20
  @busy_ms 500
  # Growth of a heap counts for so long.
  @shown_ms Limits.shown_ms()
  # Less growth than this, in bytes, is the growth of a worker that works.
  @grown Limits.grown_bytes()
  # A smaller heap is copied in no time; see OOM.Steps.
  @large_heap 1_048_576

  @doc """
  Returns the memory of a worker in bytes, or `nil` where the worker has ended: heap, stack and mailbox, the
  off-heap binaries that the heap keeps alive, and the worker's other memory (OOM.Owned).
  """
  @spec bytes(pid()) :: non_neg_integer() | nil
  def bytes(pid) do
    with {bytes, _state, _step, _work} <- look(pid, {nil, 0, nil}, 0, 0), do: bytes
  end

  # The figure, whether the figure is fresh, the worker's next step, and the state to keep until the next
  # look.
  defp look(pid, {work, last_bytes, rank}, now_ms, min_bytes) do
    last = if match?({:born, _, _}, work), do: nil, else: work

    case :erlang.process_info(pid, @cheap) do
      [{_, gc}, {_, queue}, {_, reductions}, {_, status}] ->
        seen = %{queue: queue, reductions: reductions, at_ms: now_ms}
        beside = OffHeap.read(pid, seen, found(last, :beside), rank != :protected)
        held = HeldBinaries.read(pid, gc, reductions, status, found(last, :held))
        hard_ms = if hard?(reductions, now_ms, last), do: now_ms, else: found(last, :hard_ms)

        bytes =
          Heap.block_bytes(gc) + beside.bytes + binaries(gc, held, beside) + Owned.bytes(pid)

        state = if bytes < min_bytes and busy?(hard_ms, now_ms), do: :busy, else: :fresh
        children = children_step(Owned.children(pid), found(last, :children), now_ms)
        idle? = waits?(pid, status, queue)
        # A worker whose child grows waits for nothing.
        waits? = idle? and elem(children, 1) == 0
        free? = idle? or had_turn?(reductions, now_ms, last)

        live = Heap.live_bytes(gc)
        touched = touched(gc, live, last)
        # Growth is measured by this: of the heap blocks only the part written to.
        taken = bytes - Heap.block_bytes(gc) + elem(touched, 1)

        evidence = evidence(work, {last_bytes, taken}, now_ms, free?, waits?)
        grew_ms = if grew?(live, last), do: now_ms, else: found(last, :grew_ms)
        append_ms = if held.grew?, do: now_ms, else: found(last, :append_ms)
        lately? = grew_ms != nil and now_ms - grew_ms <= @shown_ms
        copied = copied({status, lately?}, ran?(reductions, last), gc, last)

        found = %{
          hard_ms: hard_ms,
          held: HeldBinaries.kept(held),
          beside: OffHeap.kept(beside),
          evidence: evidence,
          live: live,
          copied: copied,
          grew_ms: grew_ms,
          append_ms: append_ms,
          children: children,
          touched: touched,
          taken: taken,
          waits?: waits?,
          name: WorkerName.read(pid, bytes, Heap.block_bytes(gc), found(last, :name))
        }

        append = append(held, evidence, append_ms, now_ms)
        step = Enum.max([append, flood(beside, gc), copied, elem(children, 1)])
        {bytes, state, step, {reductions, now_ms, found}}

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

  # The status of a suspended worker does not tell; where the worker stands, with an empty mailbox, does.
  defp waits?(pid, :suspended, 0), do: pid |> Waiting.place() |> Waiting.waits?()
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

  # What the next collection of a growing heap copies (OOM.HeapStep). A worker may sleep between its steps,
  # so growth counts for a while. A worker that the throttle has suspended, or that has not run since, still
  # has the step of the last look.
  defp copied({_status, true}, _ran?, gc, _last), do: HeapStep.bytes(gc)

  defp copied({status, _lately?}, false, _gc, {_, _, %{copied: copied}})
       when status in [:suspended, :runnable, :running],
       do: copied

  defp copied({:suspended, _lately?}, _ran?, _gc, {_, _, %{copied: copied}}), do: copied
  defp copied(_status, _ran?, _gc, _last), do: 0

  defp grew?(live, {_, _, %{live: before}}), do: live > before and live >= @large_heap
  defp grew?(_live, _no_look), do: false

  # A child of the worker collects, too. The step counts while the child's heap grows, and for a while after.
  defp children_step({_, _, reading}, {_, _, reading, _} = before, _now_ms), do: before

  defp children_step({live, step, reading}, {before, _, _, _}, now_ms) when live > before,
    do: {live, step, reading, now_ms}

  defp children_step({live, step, reading}, {_, _, _, grew_ms}, now_ms)
       when grew_ms != nil and now_ms - grew_ms <= @shown_ms,
       do: {live, step, reading, grew_ms}

  defp children_step({live, _step, reading}, _before, _now_ms), do: {live, 0, reading, nil}

  defp found({_, _, found}, key), do: Map.get(found, key)
  defp found(nil, _key), do: nil

  defp binaries(gc, held, beside),
    do: OffHeap.binaries(HeldBinaries.virtual_bytes(gc) + held.hidden, beside)

  # A worker that has appended to a binary appends on, for as long as its growth counts, and the figure is no older
  # than a figure to act on. A worker may keep the binary and grow in other ways.
  defp append(%{step: step, grew?: true}, _evidence, _append_ms, _now_ms), do: step
  defp append(_held, _evidence, nil, _now_ms), do: 0

  defp append(%{step: step}, %{grown: grown}, append_ms, now_ms) do
    lately? = now_ms - append_ms <= Limits.fresh_ms()
    if lately? and grown >= @grown, do: step, else: 0
  end

  # The memory that the next collection takes again for a mailbox on the heap. The mailbox is copied with the
  # heap; where the worker was flooded before the mailbox could be moved off, no max_heap_size stops the copy
  # either. The copy takes about as long as the clients took to send the messages (1 GB/s both), so as much has
  # come again by the end of the copy.
  defp flood(%{on_heap?: true, queue: queue, bytes: bytes}, gc) when queue > 0,
    do: 2 * (bytes + Heap.block_bytes(gc))

  defp flood(_beside, _gc), do: 0

  defp hard?(reductions, now_ms, {before, then, _}) when now_ms > then,
    do: reductions - before > @hard * (now_ms - then)

  defp hard?(_reductions, _now_ms, _last), do: false

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
    last = Workers.last_look(pid)

    with {bytes, state, step, now} <- look(pid, last, now_ms, min_bytes()) do
      Workers.worked(pid, now)
      Steps.put(pid, step)
      Workers.sampled(pid, bytes, now_ms, state)
    end
  end

  defp min_bytes, do: Tables.config().min_victim_bytes
end
