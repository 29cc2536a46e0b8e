defmodule OOM.ConfigTest do
  use ExUnit.Case, async: true

  alias OOM.Config

  doctest OOM.Config

  @good [
    adopt: [
      [],
      [rabbit_sup: [priority: :low, priorities: [{:queues, :high}], exit_reason: :kill]],
      [{{:application, :rabbit}, [priority: 100]}]
    ],
    limit: [nil, 1, 512 * 1024 * 1024],
    watermarks: [
      :auto,
      [elevated: 0.5, high: 0.7, critical: 0.9],
      [elevated: 0.001, high: 0.01, critical: 1]
    ],
    time_to_exhaustion_ms: [
      [elevated: 3, high: 2, critical: 1],
      [elevated: 0, high: 0, critical: 0]
    ],
    sample_interval_ms: [[min: 1, max: 1], [min: 5, max: 10_000]],
    max_heap_size: [
      :infinity,
      1,
      {:percent_of_limit, 100},
      {:percent_of_limit, 0.5},
      %{size: {:percent_of_limit, 5}, include_shared_binaries: true}
    ],
    backoff: [[initial_ms: 1, max_ms: 1], [initial_ms: 10, max_ms: 50]],
    max_kills: [1, 10, :infinity],
    stable_ms: [1, 60_000],
    grace_ms: [1, 5_000],
    min_victim_bytes: [1, 1_000_000],
    trim: [:auto, true, false],
    kill: [true, false],
    # What is in the list is in the test of OOM.Bridge.
    bridges: [[]],
    on_exhausted: [nil, :stop, {Kernel, :send, []}, &Function.identity/1]
  ]

  # {option, expected value, wrong values}
  @bad [
    {:adopt, "a list of {supervisor, options}", [:rabbit_sup, [:rabbit_sup], nil]},
    {:bridges, "a list of targets, or of {target, options}", [:rabbit_alarm, nil, %{}]},
    {:limit, "a positive number of bytes",
     [0, -1, 1.5, "512M", :infinity, {:bytes, 1}, 0x8000000000000000]},
    {:watermarks, ":auto or [elevated: e, high: h, critical: c] with 0 < e < h < c <= 1",
     [
       nil,
       0.5,
       [],
       [elevated: 0.9, high: 0.7, critical: 0.5],
       [elevated: 0.5, high: 0.5, critical: 0.9],
       [elevated: 0.5, high: 0.7, critical: 1.01],
       [elevated: 50, high: 70, critical: 90],
       [elevated: 0, high: 0.7, critical: 0.9],
       [elevated: -0.1, high: 0.7, critical: 0.9],
       [elevated: 0.5, high: 0.7],
       [elevated: 0.5, high: 0.7, ciritcal: 0.9],
       [elevated: 0.5, high: 0.7, critical: 0.9, exhausted: 1],
       [elevated: 0.5, high: 0.7, critical: 0.9, critical: 0.95],
       [elevated: "0.5", high: 0.7, critical: 0.9],
       %{elevated: 0.5, high: 0.7, critical: 0.9}
     ]},
    {:time_to_exhaustion_ms,
     "[elevated: e, high: h, critical: c] in ms with 4294967295 >= e >= h >= c >= 0",
     [
       nil,
       [elevated: 4_294_967_296, high: 2, critical: 1],
       1_000,
       [elevated: 1, high: 2, critical: 3],
       [elevated: 3, high: 2, critical: -1],
       [elevated: 3.0, high: 2, critical: 1],
       [elevated: 3, high: 2],
       [elevatd: 3, high: 2, critical: 1]
     ]},
    {:sample_interval_ms, "[min: min, max: max] in ms with 1 <= min <= max <= 4294967295",
     [
       nil,
       10,
       [min: 1, max: 4_294_967_296],
       [min: 0, max: 1],
       [min: 2, max: 1],
       [min: 1],
       [min: 1, max: 2.0],
       [mni: 1, max: 2]
     ]},
    {:max_heap_size,
     "bytes, {:percent_of_limit, p} with 0 < p <= 100, :infinity, or one of these as " <>
       "%{size: size, include_shared_binaries: boolean}",
     [
       nil,
       0,
       -1,
       1.5,
       "1GB",
       {:percent, 10},
       {:percent_of_limit, 0},
       {:percent_of_limit, 100.1},
       {:percent_of_limit, "10"},
       %{size: 1},
       %{size: 0, include_shared_binaries: true},
       %{size: 1, include_shared_binaries: 1},
       %{size: 1, include_shared_binaries: true, kill: true},
       %{size: %{size: 1, include_shared_binaries: true}, include_shared_binaries: true}
     ]},
    {:backoff, "[initial_ms: i, max_ms: m] with 0 < i <= m",
     [
       nil,
       1_000,
       [initial_ms: 0],
       [initial_ms: 2, max_ms: 1],
       [initial_ms: 1.0],
       [inital_ms: 1],
       [initial_ms: 1, max_ms: :infinity],
       [initial_ms: 1, initial_ms: 2],
       %{initial_ms: 1}
     ]},
    {:max_kills, "a positive integer or :infinity", [nil, 0, -1, 1.0, :never]},
    {:stable_ms, "a positive integer", [nil, 0, -1, 1.0, :infinity, 0x8000000000000000]},
    {:grace_ms, "a positive integer, at most 4294967295",
     [nil, 0, -1, 1.0, :brutal_kill, 4_294_967_296]},
    {:min_victim_bytes, "a positive integer", [nil, 0, -1, 1.0]},
    {:trim, "one of :auto, true, false", [nil, :always, "auto", 1]},
    {:kill, "one of true, false", [nil, :auto, 0]},
    {:on_exhausted, "a function of one argument, {module, function, args} or :stop",
     [
       :halt,
       {Kernel, :send, [1 | 2]},
       {Kernel, :send},
       {Kernel, :send, :args},
       {"Kernel", :send, []},
       &Kernel.+/2
     ]}
  ]

  for {name, _} <- @good do
    test "#{name} takes what it documents" do
      for value <- @good[unquote(name)] do
        assert Map.fetch!(Config.new!([{unquote(name), value}]), unquote(name)) == value
      end
    end
  end

  for {name, _, _} <- @bad do
    test "#{name} refuses all else" do
      {name, expected, values} = List.keyfind(@bad, unquote(name), 0)

      for value <- values do
        message = "expected #{inspect(name)} to be #{expected}, got: #{inspect(value)}"
        assert_raise ArgumentError, message, fn -> Config.new!([{name, value}]) end
      end
    end
  end

  test "every option has good and bad values above" do
    options = Map.keys(Map.from_struct(%Config{})) -- [:root]
    assert Enum.sort(options) == Enum.sort(Keyword.keys(@good))
    assert Enum.sort(options) == Enum.sort(for {name, _, _} <- @bad, do: name)
  end

  test "without options there are the defaults, each good itself" do
    defaults = Config.new!([])
    assert defaults == %Config{}

    for {name, value} <- Map.from_struct(defaults), name != :root do
      assert Config.new!([{name, value}]) == defaults
    end
  end

  test "undefined, in Erlang's configuration, is the default" do
    for {name, _default} <- Config.new!([]) |> Map.from_struct() |> Map.delete(:root) do
      assert Config.new!([{name, :undefined}]) == Config.new!([])
    end

    assert Config.shed!(:undefined) == nil
  end

  test "the order of the keys within an option does not matter" do
    assert Config.new!(watermarks: [critical: 0.9, elevated: 0.5, high: 0.7]).watermarks ==
             [elevated: 0.5, high: 0.7, critical: 0.9]

    assert Config.new!(sample_interval_ms: [max: 2, min: 1]).sample_interval_ms ==
             [min: 1, max: 2]
  end

  test "a backoff may leave one of its keys out" do
    assert Config.new!(backoff: [initial_ms: 5]).backoff == [initial_ms: 5, max_ms: 60_000]
    assert Config.new!(backoff: [max_ms: 5_000]).backoff == [initial_ms: 1_000, max_ms: 5_000]
    assert Config.new!(backoff: []).backoff == [initial_ms: 1_000, max_ms: 60_000]
  end

  test "an unknown option is named, with those that there are" do
    error = assert_raise ArgumentError, fn -> Config.new!(watermark: :auto) end

    assert error.message =~
             ~r/^unknown option :watermark for :oom, expected one of :limit, :watermarks, .*, got: \[watermark: :auto\]$/
  end

  test "the inner :root is no option" do
    assert_raise ArgumentError, ~r/^unknown option :root for :oom/, fn ->
      Config.new!(root: "/tmp")
    end
  end

  test "an option list that is no keyword list is refused" do
    for options <- [%{limit: 1}, [:limit], [{"limit", 1}], nil] do
      message = "expected :oom options to be a keyword list, got: #{inspect(options)}"
      assert_raise ArgumentError, message, fn -> Config.new!(options) end
    end
  end

  test "docs/0 tells every option, its default and nothing else" do
    documented =
      for [_, name, default] <-
            Regex.scan(~r/^  \* `:(\w+)` - .+ Default: `(.+)`$/m, Config.docs()),
          do: {String.to_existing_atom(name), default}

    expected =
      for {name, default} <- Map.from_struct(%Config{}),
          name != :root,
          do: {name, inspect(default)}

    assert Enum.sort(documented) == Enum.sort(expected)
    assert length(String.split(Config.docs(), "\n")) == length(documented)
  end

  describe "reachable!/2" do
    @describetag :tmp_dir

    test "refuses a limit already used up", %{tmp_dir: dir} do
      status =
        status(dir, "Name:\tbeam.smp\nVmPeak:\t  200 kB\nVmRSS:\t    100 kB\nThreads:\t1\n")

      full = "expected :limit to be more than the 102400 bytes this VM uses already, got: "

      for limit <- [1, 102_399, 102_400] do
        assert_raise ArgumentError, full <> "#{limit}", fn ->
          Config.reachable!(Config.new!(limit: limit), status)
        end
      end
    end

    test "takes a limit that leaves room", %{tmp_dir: dir} do
      config = Config.new!(limit: 102_401)
      assert Config.reachable!(config, status(dir, "VmRSS:\t    100 kB\n")) == config
    end

    test "refuses nothing where the use is not known", %{tmp_dir: dir} do
      config = Config.new!(limit: 1)
      assert Config.reachable!(config, Path.join(dir, "none")) == config

      for text <- ["", "VmRSS:", "VmRSS:\t kB\n", "VmRSS:\t100 MB\n", "XVmRSS:\t100 kB\n"] do
        assert Config.reachable!(config, status(dir, text)) == config
      end
    end

    test "does not look without a limit", %{tmp_dir: dir} do
      config = Config.new!([])
      assert Config.reachable!(config, status(dir, "VmRSS:\t100 kB\n")) == config
    end

    test "knows the usage of the running VM" do
      assert_raise ArgumentError, ~r/^expected :limit to be more than the \d{8,} bytes/, fn ->
        Config.reachable!(Config.new!(limit: 1_000_000))
      end
    end
  end

  defp status(dir, text) do
    path = Path.join(dir, "status")
    File.write!(path, text)
    path
  end
end
