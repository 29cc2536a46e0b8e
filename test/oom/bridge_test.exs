defmodule OOM.BridgeTest do
  # Every subscriber of the VM hears the changes of these tests.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import OOM.Test.Eventually

  alias OOM.Bridge
  alias OOM.Bridge.Alarm
  alias OOM.{Level, Notifier}

  defp change(from, to) do
    Level.put(to)
    report = OOM.Native.watcher_report(eventually(&OOM.Tables.watcher/0))
    Notifier.level(from, %{report | level: to})
    # All have been told.
    :sys.get_state(Notifier)
  end

  setup do
    change(:high, :normal)

    on_exit(fn ->
      change(:high, :normal)
      :ets.match_delete(OOM.State, {{:bridged, :_}, :_})
    end)
  end

  describe "the alarm" do
    @options [at: :high, clear_headroom_percent: 15, clear_after_ms: 1_000]

    defp look(alarm, level, percent, now_ms) do
      seen = %{level: level, headroom_bytes: percent, limit_bytes: 100}
      Alarm.look(alarm, seen, @options, now_ms)
    end

    test "is set from the level on, and at no headroom alone" do
      assert Alarm.new(false) |> look(:high, 50, 0) |> Map.fetch!(:set?)
      assert Alarm.new(false) |> look(:critical, 50, 0) |> Map.fetch!(:set?)
      refute Alarm.new(false) |> look(:elevated, 1, 0) |> Map.fetch!(:set?)
    end

    test "stays while the headroom is small, whatever the level" do
      alarm = Enum.reduce(0..100_000//1_000, Alarm.new(true), &look(&2, :normal, 14, &1))
      assert alarm.set?
    end

    test "is cleared once there has been room for a while" do
      alarm = Alarm.new(true) |> look(:normal, 15, 0) |> look(:normal, 15, 999)
      assert alarm.set?
      refute look(alarm, :normal, 15, 1_000).set?
      # The time counts anew after each look without room, or at the level.
      for {level, percent} <- [{:normal, 14}, {:high, 50}],
          do:
            assert(
              alarm
              |> look(level, percent, 1_000)
              |> look(:normal, 15, 1_001)
              |> Map.fetch!(:set?)
            )
    end

    test "stays until twice the memory fits that was taken after it was set" do
      set = Alarm.new(false) |> look(:high, 60, 0) |> look(:high, 35, 100)
      later = &(set |> look(:normal, &1, 200) |> look(:normal, &1, 1_200) |> Map.fetch!(:set?))
      assert later.(49)
      refute later.(50)
      # Of the next alarm, half of it counts.
      again = set |> look(:normal, 60, 200) |> look(:normal, 60, 1_200) |> look(:high, 60, 2_000)
      assert again |> look(:normal, 23, 2_100) |> look(:normal, 23, 3_100) |> Map.fetch!(:set?)
      refute again |> look(:normal, 60, 2_100) |> look(:normal, 60, 3_100) |> Map.fetch!(:set?)
    end

    test "is cleared by the level alone where no limit is known" do
      seen = %{level: :normal, headroom_bytes: nil, limit_bytes: nil}

      alarm =
        Alarm.new(true) |> Alarm.look(seen, @options, 0) |> Alarm.look(seen, @options, 1_000)

      refute alarm.set?
    end
  end

  # The host of these tests has room.
  @quick [clear_headroom_percent: 1, clear_after_ms: 1]

  defp bridge(options), do: start_supervised!({Bridge, Keyword.merge(@quick, options)})

  test "a function is told each alarm once, and its end" do
    test = self()
    bridge(to: &send(test, &1))
    change(:normal, :elevated)
    change(:elevated, :high)
    assert_receive :set
    change(:high, :critical)
    change(:critical, :normal)
    assert_receive :clear
    refute_received _
  end

  test "a module's function is told with its arguments" do
    bridge(to: {__MODULE__, :told, [self()]}, at: :elevated)
    change(:normal, :elevated)
    assert_receive {:told, :set}
  end

  def told(what, test), do: send(test, {:told, what})

  test "an alarm survives a crash of the bridge, and is cleared when the bridge is stopped" do
    test = self()
    pid = bridge(to: to = &send(test, &1))
    change(:normal, :high)
    assert_receive :set
    Process.exit(pid, :kill)
    eventually(fn -> (new = named(to)) != pid && new end)
    :ok = stop_supervised({Bridge, to})
    assert_receive :clear
    refute_received _
  end

  defp named(to) do
    Enum.find_value(Supervisor.which_children(ExUnit.fetch_test_supervisor() |> elem(1)), fn
      {{Bridge, ^to}, pid, _, _} -> is_pid(pid) && pid
      _other -> nil
    end)
  end

  test "alarm handlers hear of the alarm; a manager of events that starts later hears of it then" do
    defmodule Handler do
      @behaviour :gen_event
      def init(test), do: {:ok, test}
      def handle_event(event, test), do: {:ok, _ = send(test, event) && test}
      def handle_call(_request, test), do: {:ok, :ok, test}
    end

    for {name, alarm} <- [
          alarm_handler: {:oom, :high},
          rabbit_alarm: {:resource_limit, :memory, node()}
        ] do
      log =
        capture_log(fn ->
          bridge(to: name)
          change(:normal, :high)
          # The bridge has looked.
          :sys.get_state(named(name))
        end)

      assert log =~ "bridge to #{inspect(name)}"
      {:ok, manager} = :gen_event.start({:local, name})
      :ok = :gen_event.add_handler(manager, Handler, self())
      assert_receive {:set_alarm, {^alarm, []}}, 5_000
      change(:high, :normal)
      assert_receive {:clear_alarm, ^alarm}, 5_000
      :gen_event.stop(manager)
    end
  end

  test "a target that fails is told again" do
    test = self()
    count = :counters.new(1, [])

    to = fn what ->
      :counters.add(count, 1, 1)
      if :counters.get(count, 1) == 1, do: raise("no"), else: send(test, what)
    end

    log =
      capture_log(fn ->
        bridge(to: to)
        change(:normal, :high)
        assert_receive :set, 5_000
      end)

    assert log =~ "tries again each second: no"
  end

  test "goes on after the notifier has started anew" do
    test = self()
    bridge(to: to = &send(test, &1))
    before = Process.whereis(Notifier)
    Process.exit(before, :kill)
    pid = named(to)

    eventually(fn ->
      new = Process.whereis(Notifier)
      new != before and new != nil and :ets.member(Notifier, pid)
    end)

    change(:normal, :high)
    assert_receive :set, 5_000
  end

  test "options are checked" do
    assert_raise ArgumentError, ~r/the option :to of a bridge, got: \[\]/, fn ->
      Bridge.child_spec([])
    end

    for {options, expected} <- [
          {[to: :rabbit], ":to to be :rabbit_alarm, :alarm_handler"},
          {[at: :normal], ":at to be :elevated, :high or :critical, got: :normal"},
          {[clear_headroom_percent: 100], "an integer from 1 to 99, got: 100"},
          {[clear_after_ms: 0], "a positive integer, got: 0"},
          {[when: :high], "one of the options :to, :at, :clear_headroom_percent"}
        ] do
      assert_raise ArgumentError, ~r/#{Regex.escape(expected)}/, fn ->
        Bridge.child_spec([to: :alarm_handler] ++ options)
      end
    end
  end

  test "bridges are configured by target" do
    config = OOM.Config.new!(bridges: [:rabbit_alarm, alarm_handler: [at: :critical]])
    assert [[_ | _] = rabbit, other] = config.bridges
    assert rabbit[:to] == :rabbit_alarm and rabbit[:at] == :high
    assert other[:to] == :alarm_handler and other[:at] == :critical

    for {bridges, got} <- [
          {:rabbit_alarm, ":rabbit_alarm"},
          {[:a], ":a"},
          {[:alarm_handler, :alarm_handler], "once"}
        ] do
      assert_raise ArgumentError, ~r/expected :(bridges|to).*#{got}/, fn ->
        OOM.Config.new!(bridges: bridges)
      end
    end
  end
end
