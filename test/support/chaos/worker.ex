defmodule OOM.Test.Chaos.Worker do
  @moduledoc false
  # Grows on request, in the requested way and pace, and drops everything on request. Notes every
  # start by name, and a name still in use.

  @tick_ms 10

  @table OOM.Test.Chaos

  @type options :: [name: term(), priority: OOM.priority() | nil, trap_exit: boolean()]

  @spec start_link(options()) :: {:ok, pid()}
  def start_link(options), do: :proc_lib.start_link(__MODULE__, :init, [self(), options])

  @doc "Runs the worker as a function, for a Task.Supervisor."
  @spec run(options()) :: no_return()
  def run(options) do
    note(options[:name])
    loop(%{parent: nil, data: [], table: nil, grow: nil})
  end

  @spec init(pid(), options()) :: no_return()
  def init(parent, options) do
    if options[:trap_exit], do: Process.flag(:trap_exit, true)
    if options[:priority], do: OOM.set_priority(options[:priority])
    note(options[:name])
    :proc_lib.init_ack(parent, {:ok, self()})
    loop(%{parent: parent, data: [], table: nil, grow: nil})
  end

  defp note(name) do
    for {_, pid} <- :ets.lookup(@table, {:worker, name}),
        pid != self() and Process.alive?(pid),
        do: :ets.insert(@table, {{:broken, make_ref()}, "#{inspect(name)} runs twice"})

    :ets.insert(@table, {{:worker, name}, self()})
    :ets.update_counter(@table, :starts, 1, {:starts, 0})
  end

  defp loop(state) do
    receive do
      {:grow, how, bytes, ticks} ->
        state |> Map.put(:grow, {how, bytes, ticks}) |> tick() |> loop()

      :tick ->
        state |> tick() |> loop()

      :drop ->
        state |> drop() |> loop()

      {:EXIT, parent, reason} when parent == state.parent ->
        exit(reason)

      # A user's worker that traps exits and leaves on request.
      {:EXIT, _, reason} ->
        exit(reason)

      {:system, from, request} ->
        :sys.handle_system_msg(request, from, state.parent, __MODULE__, [], state)

      other when elem(other, 0) != :kept ->
        loop(state)
    end
  end

  @spec system_continue(pid(), [], map()) :: no_return()
  def system_continue(_parent, _debug, state), do: loop(state)

  @spec system_terminate(term(), pid(), [], map()) :: no_return()
  def system_terminate(reason, _parent, _debug, _state), do: exit(reason)

  @spec system_get_state(map()) :: {:ok, map()}
  def system_get_state(state), do: {:ok, state}

  @spec system_replace_state((map() -> map()), map()) :: {:ok, map(), map()}
  def system_replace_state(fun, state) do
    state = fun.(state)
    {:ok, state, state}
  end

  defp tick(%{grow: {how, bytes, ticks}} = state) when ticks > 0 do
    Process.send_after(self(), :tick, @tick_ms)
    grow(how, bytes, %{state | grow: {how, bytes, ticks - 1}})
  end

  defp tick(state), do: %{state | grow: nil}

  defp grow(:list, bytes, state),
    do: %{state | data: [Enum.to_list(1..max(div(bytes, 16), 1)) | state.data]}

  defp grow(:binary, bytes, state),
    do: %{state | data: [:binary.copy(<<1>>, bytes) | state.data]}

  defp grow(:append, bytes, %{data: [appended | data]} = state) when is_binary(appended),
    do: %{state | data: [<<appended::binary, 0::size(bytes)-unit(8)>> | data]}

  defp grow(:append, bytes, state), do: %{state | data: [<<0::size(bytes)-unit(8)>> | state.data]}

  defp grow(:dictionary, bytes, state) do
    Process.put(make_ref(), Enum.to_list(1..max(div(bytes, 16), 1)))
    state
  end

  defp grow(:table, bytes, state) do
    table = state.table || :ets.new(:chaos, [:public])
    :ets.insert(table, {make_ref(), :binary.copy(<<1>>, 32), List.duplicate(0, div(bytes, 16))})
    %{state | table: table}
  end

  defp grow(:mailbox, bytes, state) do
    for _ <- 1..max(div(bytes, 1_024), 1), do: send(self(), {:kept, List.duplicate(0, 60)})
    # The loop never receives these messages.
    state
  end

  defp drop(state) do
    for key <- Process.get_keys(), is_reference(key), do: Process.delete(key)
    if state.table, do: :ets.delete(state.table)
    flush()
    state = %{state | data: [], table: nil, grow: nil}
    :erlang.garbage_collect()
    state
  end

  defp flush do
    receive do
      {:kept, _} -> flush()
    after
      0 -> :ok
    end
  end
end
