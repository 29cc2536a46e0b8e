defmodule OOM.Tree.Adoption do
  @moduledoc false
  # The adoption of foreign supervisors (`OOM.adopt/2`, `config :oom, adopt:`). Adoption is a row in OOM.Tree:
  # the walk then finds, ranks and watches the workers below, and the guard kills with the supervisor's consent.
  #
  # The process waits for supervisors to start, also for the restart of an adopted supervisor. The table of the
  # application keeps the adoptions, so a crash of the process loses none.

  use GenServer

  require OOM.Log, as: Log

  alias OOM.{InitialCall, Tables, Tree}
  alias OOM.Child.Options
  alias OOM.Tree.Census

  # Time between two looks for missing supervisors, and the longest delay of an adoption.
  @look_ms 1_000

  @typedoc "A pid, a registered name, or an application, whose top supervisor is meant."
  @type target :: pid() | atom() | {:application, atom()}

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Adopts a supervisor now, or as soon as it runs; options are checked. Raises `ArgumentError`."
  @spec adopt(target(), keyword()) :: :ok
  def adopt(target, options) do
    options = Options.adopted!(options)

    case find!(target) do
      nil -> :ok
      pid -> enter!(pid, target, options)
    end

    # A pid has no next process.
    unless is_pid(target), do: Tables.put_adopted(target, options)
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, :look)
    :ok
  end

  @doc "Checks a configured list of adoptions."
  @spec check!(term()) :: [{target(), keyword()}]
  def check!(adoptions) do
    unless is_list(adoptions) and Enum.all?(adoptions, &match?({_target, _options}, &1)),
      do: Options.wrong!(":adopt to be a list of {supervisor, options}", adoptions)

    for {target, options} <- adoptions do
      unless is_atom(target) or match?({:application, app} when is_atom(app), target),
        do: Options.wrong!("a supervisor in :adopt to be a name or {:application, name}", target)

      {target, Options.adopted!(options)}
    end
  end

  @impl true
  def init(nil) do
    for {target, options} <- Tables.config().adopt, do: Tables.put_adopted(target, options)
    {:ok, look(%{seen: %{}, timer: nil})}
  end

  @impl true
  def handle_info(:look, state), do: {:noreply, look(state)}

  # The supervisor has ended, and its restart brings a new process.
  def handle_info({:DOWN, ref, :process, _, _}, state),
    do: {:noreply, look(%{state | seen: state.seen |> Map.reject(&match?({_, {_, ^ref}}, &1))})}

  def handle_info(_other, state), do: {:noreply, state}

  defp look(state) do
    adopted = Tables.adopted()
    state = Enum.reduce(adopted, state, &look/2)
    _ = state.timer && Process.cancel_timer(state.timer)
    waits? = Enum.any?(adopted, fn {target, _} -> not is_map_key(state.seen, target) end)
    %{state | timer: if(waits?, do: Process.send_after(self(), :look, @look_ms))}
  end

  defp look({target, options}, state) do
    case find(target) do
      pid when is_pid(pid) ->
        enter(pid, target, options)
        see(state, target, pid)

      nil ->
        state
    end
  end

  defp see(%{seen: seen} = state, target, pid) do
    case seen do
      %{^target => {^pid, _ref}} -> state
      _ -> %{state | seen: Map.put(seen, target, {pid, Process.monitor(pid)})}
    end
  end

  # A configured name may belong to a plain process: the error must not end the application.
  defp enter(pid, target, options) do
    enter!(pid, target, options)
  rescue
    error in ArgumentError -> Log.error("OOM: adoption failed: " <> Exception.message(error))
  end

  defp enter!(pid, target, options) do
    case Tree.kind(pid) do
      :oom ->
        Options.wrong!(
          "a supervisor of others, which #{inspect(target)} is not: it is an OOM.Supervisor",
          pid
        )

      kind when kind in [:unit, :inside] ->
        Options.wrong!("a supervisor outside of units, which #{inspect(target)} is not", pid)

      _other ->
        unless match?({:supervisor, _, _}, InitialCall.of_supervisor(pid)),
          do:
            Options.wrong!("a supervisor of OTP or Elixir, which #{inspect(target)} is not", pid)

        Tree.adopt(pid, options)
        Census.anew()
    end
  end

  defp find!(pid) when is_pid(pid) do
    if node(pid) == node() and Process.alive?(pid),
      do: pid,
      else: Options.wrong!("a live process of this node", pid)
  end

  defp find!(name) when is_atom(name) and name != nil, do: find(name)
  defp find!({:application, name}) when is_atom(name), do: find({:application, name})

  defp find!(other),
    do: Options.wrong!("a supervisor as a pid, a name or {:application, name}", other)

  defp find({:application, name}) do
    with master when is_pid(master) <- :application_controller.get_master(name),
         {pid, _module} when is_pid(pid) <- :application_master.get_child(master) do
      pid
    else
      _not_running -> nil
    end
  end

  defp find(name), do: Process.whereis(name)
end
