# Lets Mix build a project where hex.pm cannot be reached: packages come from checkouts in OOM_LAB_SOURCES/NAME.
#
#     OOM_LAB_SOURCES=DIR elixir -r lab/phoenix/offline.exs -S mix compile
#
# Versions are checked as with Hex. Checkouts of Erlang packages get a mix.exs, as rebar3 fetches from Hex, too.

defmodule Offline do
  @behaviour Mix.SCM

  @sources Path.expand(System.fetch_env!("OOM_LAB_SOURCES"))

  def fetchable?, do: false
  def format(opts), do: opts[:dest]
  def format_lock(_opts), do: nil
  def managers(_opts), do: [:mix]
  def lock_status(_opts), do: :ok
  def checked_out?(opts), do: File.dir?(opts[:dest])
  def equal?(one, other), do: one[:dest] == other[:dest]
  def checkout(_opts), do: nil
  def update(_opts), do: nil

  # Taken after those of git and path, so what comes here is a package.
  def accepts_options(app, opts) do
    Keyword.merge(opts, dest: Path.join(@sources, to_string(app)), hex: to_string(app))
  end

  def erlang_packages do
    for dir <- Path.wildcard(Path.join(@sources, "*")),
        not File.exists?(Path.join(dir, "mix.exs")),
        file <- dir |> app_files() |> Enum.take(1) do
      {:ok, [{:application, app, facts}]} = :file.consult(file)
      File.write!(Path.join(dir, "mix.exs"), mix_exs(app, Map.new(facts)))
    end
  end

  defp app_files(dir) do
    for pattern <- ["src/*.app.src", "ebin/*.app"], file <- Path.wildcard(Path.join(dir, pattern)), do: file
  end

  defp mix_exs(app, facts) do
    known = &File.dir?(Path.join(@sources, to_string(&1)))
    {packages, others} = Enum.split_with(facts[:applications] || [], known)
    deps = for package <- packages, do: {package, ">= 0.0.0"}

    application = [
      extra_applications: others -- [:kernel, :stdlib],
      registered: facts[:registered] || []
    ]

    application =
      if facts[:mod] in [nil, []], do: application, else: [{:mod, facts[:mod]} | application]

    """
    defmodule #{Macro.camelize(to_string(app))}.OfflineMixProject do
      use Mix.Project

      def project do
        [app: #{inspect(app)}, version: #{inspect(version(facts[:vsn]))}, language: :erlang, deps: #{inspect(deps)}]
      end

      def application, do: #{inspect(application, limit: :infinity)}
    end
    """
  end

  # Some take their version from git's tag.
  defp version(text) when is_list(text), do: text |> to_string() |> three()
  defp version(_), do: "99.0.0"

  defp three(text), do: if(text =~ ~r/^\d+\.\d+$/, do: text <> ".0", else: text)
end

Mix.start()
Mix.SCM.append(Offline)
Offline.erlang_packages()
