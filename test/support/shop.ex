defmodule OOM.Test.Shop do
  @moduledoc false
  # A separate application depending on OOM, in a separate directory: the package's files in
  # `sources/oom`, and the output of `mix new --sup` in `sources/shop`. Leaks on request.

  defstruct [:dir, :sources]

  @type t :: %__MODULE__{dir: Path.t(), sources: Path.t()}

  # All commands the release may call. The release brings its Erlang.
  @commands ~w(sh basename cat cut date dirname env grep head id ls mkdir od pwd readlink sed tr uname)

  @spec root() :: Path.t()
  def root, do: File.cwd!()

  @spec new!() :: t()
  def new! do
    dir = Path.join(System.tmp_dir!(), "oom_shop_#{System.pid()}_#{:os.system_time()}")
    shop = %__MODULE__{dir: dir, sources: Path.join(dir, "sources")}
    File.mkdir_p!(shop.sources)

    for file <- Mix.Project.config()[:package][:files], do: copy!(file, shop)
    {_, 0} = mix(shop, ["new", "--sup", "shop"], [], shop.sources)

    edit!(
      shop,
      "mix.exs",
      ~r/defp deps do\s+\[.*?\]/s,
      ~s(defp deps do\n[{:oom, path: "../oom"}])
    )

    write!(shop, "lib/shop/application.ex", application())
    write!(shop, "config/runtime.exs", runtime())
    keep_crates!(shop)
    shop
  end

  defp copy!(file, shop) do
    to = Path.join([shop.sources, "oom", file])
    File.mkdir_p!(Path.dirname(to))
    File.cp_r!(Path.join(root(), file), to)
  end

  # Keeps cargo's builds of foreign crates, so cargo need not repeat them; OOM's crates have
  # another path here, and are built.
  defp keep_crates!(shop) do
    built = Path.join(Mix.Project.build_path(), "oom_native")
    to = Path.join(build(shop), "oom_native")
    File.mkdir_p!(Path.dirname(to))
    # With the file times, which cargo goes by.
    if File.dir?(built), do: {_, 0} = System.cmd("cp", ["-a", built, to])
    :ok
  end

  defp edit!(shop, file, what, new) do
    path = Path.join([shop.sources, "shop", file])
    old = File.read!(path)
    File.write!(path, String.replace(old, what, new))
    true = File.read!(path) != old
  end

  defp write!(shop, file, content) do
    path = Path.join([shop.sources, "shop", file])
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, content)
  end

  defp build(shop), do: Path.join(shop.dir, "build")

  @spec library(t()) :: Path.t()
  def library(shop), do: Path.join(build(shop), "lib/oom/priv/oom_nif.so")

  @doc "Returns OOM's files in the build, each with the time it was written."
  @spec files(t()) :: [{Path.t(), integer()}]
  def files(shop) do
    for path <- Path.wildcard(Path.join(build(shop), "lib/oom/{ebin,priv}/*")),
        do: {path, File.stat!(path, time: :posix).mtime}
  end

  @spec mix!(t(), [String.t()], [{String.t(), String.t() | nil}]) :: String.t()
  def mix!(shop, args, env \\ []) do
    case mix(shop, args, env) do
      {output, 0} -> output
      {output, status} -> raise "mix #{Enum.join(args, " ")} ended with #{status}:\n#{output}"
    end
  end

  @spec mix(t(), [String.t()], [{String.t(), String.t() | nil}], Path.t()) ::
          {String.t(), non_neg_integer()}
  def mix(shop, args, env \\ [], cd \\ nil) do
    env = [
      {"MIX_ENV", "prod"},
      {"MIX_BUILD_PATH", build(shop)},
      # Where there is no compiler (script/lab v2), a prebuilt library is used.
      {"OOM_NATIVE_PATH", System.get_env("OOM_TEST_PREBUILT")} | env
    ]

    cd = cd || Path.join(shop.sources, "shop")
    # mix reports its directory when run by another mix
    System.cmd(System.find_executable("mix"), args, env: env, cd: cd, stderr_to_stdout: true)
  end

  @doc "Runs a release with only this environment, in the cgroup of these `cgroup.procs`."
  @spec release(t(), Path.t(), [String.t()], [{String.t(), String.t()}], Path.t() | nil) ::
          {String.t(), non_neg_integer()}
  def release(shop, release, args, env \\ [], procs \\ nil) do
    enter = if procs, do: ~s(echo $$ > "#{procs}" && ), else: ""

    env =
      for {name, value} <- [
            {"PATH", path_of(shop, @commands)},
            {"HOME", shop.dir},
            {"LC_ALL", "C.UTF-8"},
            {"RELEASE_NODE", Path.basename(shop.dir)},
            # With a name, but without a lasting daemon.
            {"ERL_FLAGS", "-start_epmd false -erl_epmd_port 0"},
            {"ERL_CRASH_DUMP_BYTES", "0"} | env
          ],
          do: "#{name}=#{value}"

    script = ~s(#{enter}exec env -i "$@")
    command = [Path.join(release, "bin/shop") | args]
    System.cmd("sh", ["-c", script, "sh" | env ++ command], cd: shop.dir, stderr_to_stdout: true)
  end

  @doc "Returns a PATH with every command except `names`."
  @spec path_without(t(), [String.t()]) :: Path.t()
  def path_without(shop, names) do
    everything =
      for dir <- String.split(System.get_env("PATH"), ":"),
          {:ok, found} <- [File.ls(dir)],
          name <- found,
          do: name

    path_of(shop, Enum.uniq(everything) -- names)
  end

  defp path_of(shop, names) do
    bin = Path.join(shop.dir, "bin-#{:erlang.phash2(names)}")

    unless File.dir?(bin) do
      File.mkdir_p!(bin)

      for name <- names,
          path = System.find_executable(name),
          do: File.ln_s!(path, Path.join(bin, name))
    end

    bin
  end

  # A backoff so short that the leak never ends for long.
  defp runtime do
    """
    import Config
    config :oom, backoff: [initial_ms: 50, max_ms: 400]
    """
  end

  # 5 leakers of priority :low take 50 MiB/s each, as lists, until all together took the requested
  # amount. Beside them is state that must not be lost.
  defp application do
    ~S'''
    defmodule Shop.Application do
      use Application

      @impl true
      def start(_type, _args) do
        taken = :counters.new(1, [])

        leakers =
          for i <- 1..5, do: %{id: {:leaker, i}, start: {Shop.Leaker, :start_link, [taken]}}

        children = [Shop.Ledger] ++ leakers ++ [{Shop.Judge, taken}]
        options = [strategy: :one_for_one, name: Shop.Supervisor]

        if System.get_env("SHOP_SUPERVISOR") == "plain",
          do: Supervisor.start_link(children, options),
          else: OOM.Supervisor.start_link(Enum.map(children, &guarded/1), options)
      end

      defp guarded(%{id: {:leaker, _}} = child), do: OOM.child_spec(child, priority: :low)
      defp guarded(child), do: OOM.child_spec(child, priority: :protected)

      def to_leak, do: String.to_integer(System.get_env("SHOP_LEAK_MIB", "0"))
    end

    # What must not be lost: who was started since the beginning.
    defmodule Shop.Ledger do
      use Agent

      def start_link(_), do: Agent.start_link(fn -> [:beginning] end, name: __MODULE__)
      def note(entry), do: Agent.cast(__MODULE__, &[entry | &1])
      def read, do: Agent.get(__MODULE__, &Enum.reverse/1)
    end

    defmodule Shop.Leaker do
      use GenServer

      def start_link(taken), do: GenServer.start_link(__MODULE__, taken)

      @impl true
      def init(taken) do
        Shop.Ledger.note({:started, self()})
        if Shop.Application.to_leak() > 0, do: send(self(), :more)
        {:ok, {taken, []}}
      end

      # Half a MiB.
      @impl true
      def handle_info(:more, {taken, held}) do
        Process.send_after(self(), :more, 10)
        :counters.add(taken, 1, 1)
        {:noreply, {taken, [Enum.to_list(1..32_768) | held]}}
      end
    end

    # Says how it went, when all has leaked, and ends the node.
    defmodule Shop.Judge do
      use GenServer

      def start_link(taken), do: GenServer.start_link(__MODULE__, taken)

      @impl true
      def init(taken), do: {:ok, taken, 10}

      @impl true
      def handle_info(:timeout, taken) do
        leaked = div(:counters.get(taken, 1), 2)

        if Shop.Application.to_leak() in 1..leaked//1 do
          [first | starts] = Shop.Ledger.read()

          IO.puts(
            "leaked #{leaked} MiB; 5 leakers started #{length(starts)} times; " <>
              "ledger kept since the #{first}"
          )

          System.stop(0)
        end

        {:noreply, taken, 10}
      end
    end
    '''
  end
end
