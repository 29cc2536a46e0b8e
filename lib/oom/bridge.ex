defmodule OOM.Bridge do
  @moduledoc """
  Gives pressure to a host's own back-pressure: an alarm is set when memory becomes short, and cleared when
  there is room again.

      config :oom, bridges: [:rabbit_alarm]
      config :oom, bridges: [{:alarm_handler, at: :critical}, {{MyApp.Intake, :pressure, []}, at: :high}]

  Or in a supervision tree:

      {OOM.Bridge, to: &MyApp.Intake.pressure/1, at: :high}

  The level alone would not do: a level ends as soon as growth ends, and growth ends because the host has
  stopped its producers. So an alarm stays until the headroom has come back, as a host's own watermark does.

  ## Targets

    * `:rabbit_alarm` - RabbitMQ's alarm for memory: publishers are blocked while the alarm is set
    * `:alarm_handler` - SASL's, with the alarm `{{:oom, level}, []}`, where `level` is the level of `:at`
    * a function of one argument, or `{module, function, args}` with this argument put first: called with `:set`
      and with `:clear`, in a process of the bridge's own

  ## Options

    * `:to` - the target. Required; in `config :oom` it stands in front of the other options
    * `:at` - the level from which on the alarm is set: `:elevated`, `:high` or `:critical`. Default: `:high`
    * `:clear_headroom_percent` - the alarm is cleared once the level is below `:at` and so much of the limit
      is free, in percent, 1 to 99; and twice as much memory as was still taken after the alarm was set, because
      all producers begin anew at the same time. Default: 15
    * `:clear_after_ms` - both must have held for so long, in ms. Default: 1000

  An alarm that is set stays set through a crash of the bridge, and is cleared where the bridge is stopped. A
  target that fails, or does not run yet, is told again once a second, and a log message says so once.
  """

  use GenServer

  require OOM.Log, as: Log

  alias OOM.Bridge.{Alarm, Options, Target}
  alias OOM.{Level, Notifier, Snapshot, Tables}

  # Between two looks at the headroom while the alarm is set; and between two attempts to reach a target, or to
  # subscribe where OOM does not run.
  @look_ms 250
  @retry_ms 1_000

  @type target ::
          :rabbit_alarm
          | :alarm_handler
          | (:set | :clear -> term())
          | {module(), atom(), [term()]}

  @type option ::
          {:to, target()}
          | {:at, :elevated | :high | :critical}
          | {:clear_headroom_percent, 1..99}
          | {:clear_after_ms, pos_integer()}

  @doc "Returns a specification for a supervision tree; its id is the target."
  @spec child_spec([option()]) :: Supervisor.child_spec()
  def child_spec(options) do
    options = Options.check!(options)
    %{id: {__MODULE__, options[:to]}, start: {__MODULE__, :start_link, [options]}}
  end

  @doc "Starts a bridge. Raises `ArgumentError` for a wrong option."
  @spec start_link([option()]) :: GenServer.on_start()
  def start_link(options) do
    # Before normal processes, of which a node under pressure may have thousands in line.
    GenServer.start_link(__MODULE__, Options.check!(options), spawn_opt: [priority: :high])
  end

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)
    set? = Tables.bridged?(options[:to])

    state = %{
      options: options,
      alarm: Alarm.new(set?),
      told: set?,
      said?: false,
      notifier: nil,
      timer: nil
    }

    {:ok, look(subscribe(state))}
  end

  @impl true
  def handle_info({:oom, _level, _snapshot}, state), do: {:noreply, look(state)}

  def handle_info(:look, state),
    do: {:noreply, %{state | timer: nil} |> resubscribe() |> look()}

  # The notifier starts again, and another notifier may have been told of levels meanwhile.
  def handle_info({:DOWN, ref, :process, _, _}, %{notifier: ref} = state),
    do: {:noreply, look(subscribe(%{state | notifier: nil}))}

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, %{told: set?} = state) do
    _ = if set?, do: tell(false, state)
    :ok
  end

  defp resubscribe(%{notifier: nil} = state), do: subscribe(state)
  defp resubscribe(state), do: state

  defp subscribe(state) do
    with pid when is_pid(pid) <- Process.whereis(Notifier) do
      ref = Process.monitor(pid)
      :ok = Notifier.subscribe()
      %{state | notifier: ref}
    else
      nil -> state
    end
  catch
    # The notifier has ended just now.
    :exit, _reason -> state
  end

  defp look(state) do
    now = System.monotonic_time(:millisecond)
    alarm = Alarm.look(state.alarm, seen(), state.options, now)
    again(told(%{state | alarm: alarm}))
  end

  defp seen do
    snapshot = Snapshot.now()

    %{
      level: Level.get(),
      headroom_bytes: snapshot.headroom_bytes,
      limit_bytes: snapshot.limit_bytes
    }
  end

  defp told(%{alarm: %{set?: set?}, told: set?} = state), do: state

  defp told(%{alarm: %{set?: set?}} = state) do
    case tell(set?, state) do
      :ok ->
        %{state | told: set?, said?: false}

      {:error, reason} ->
        unless state.said?, do: say(reason, state)
        %{state | said?: true}
    end
  end

  # The table tells the next bridge, after a crash, what the target knows.
  defp tell(set?, %{options: options}) do
    with :ok <- Target.tell(options[:to], if(set?, do: :set, else: :clear), options[:at]) do
      Tables.put_bridged(options[:to], set?)
      :ok
    end
  end

  defp say(reason, state) do
    Log.warning(
      "OOM: the bridge to #{inspect(state.options[:to])} cannot tell the alarm, and tries again each second: " <>
        reason
    )
  end

  # A timer runs only while there is something to wait for.
  defp again(state) do
    cond do
      state.notifier == nil or state.told != state.alarm.set? -> timer(state, @retry_ms)
      state.alarm.set? -> timer(state, @look_ms)
      true -> state
    end
  end

  defp timer(%{timer: timer} = state, _ms) when timer != nil, do: state
  defp timer(state, ms), do: %{state | timer: Process.send_after(self(), :look, ms)}
end
