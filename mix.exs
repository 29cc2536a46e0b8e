Code.require_file("native/compiler.exs", __DIR__)

defmodule OOM.MixProject do
  use Mix.Project

  @version "0.1.0"

  def project do
    [
      app: :oom,
      version: @version,
      elixir: "~> 1.14",
      compilers: [:oom_native] ++ Mix.compilers(),
      elixirc_paths: elixirc_paths(Mix.env()),
      start_permanent: Mix.env() == :prod,
      deps: [],
      name: "OOM",
      description: "Keeps a BEAM node alive when memory runs out",
      package: package(),
      docs: docs()
    ]
  end

  def application do
    [mod: {OOM.Application, []}, extra_applications: extra_applications(Mix.env())]
  end

  # The library logs by OTP's logger. The tests capture the log by Elixir's.
  defp extra_applications(:test), do: [:logger]
  defp extra_applications(_), do: []

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_), do: ["lib"]

  # What ex_doc goes by; see script/docs. No functions or regexes: it is written to a file.
  defp docs do
    [
      main: "readme",
      extras: [
        "README.md",
        "docs/trees.md",
        "docs/how-it-decides.md",
        "docs/operating.md",
        "docs/containers.md",
        "docs/limits.md",
        "docs/architecture.md",
        "docs/evidence.md",
        "docs/glossary.md",
        "CHANGELOG.md",
        "LICENSE"
      ],
      assets: %{"docs" => "docs"},
      # Names modules that have no pages.
      skip_undefined_reference_warnings_on: ["docs/architecture.md", "CHANGELOG.md"],
      groups_for_modules: [
        "What it sends": [OOM.Bridge],
        "What it tells": [OOM.Snapshot, OOM.Usage, OOM.Branch, OOM.Held, OOM.Pressure]
      ]
    ]
  end

  defp package do
    [
      licenses: ["Apache-2.0"],
      links: %{},
      files: ~w(lib src native/compiler.exs native/oom/src native/oom/Cargo.toml
                native/oom_nif/src native/oom_nif/Cargo.toml Cargo.toml Cargo.lock
                mix.exs .formatter.exs README.md CHANGELOG.md LICENSE docs)
    ]
  end
end
