defmodule Mix.Tasks.Compile.OomNative do
  @moduledoc false
  # Builds native/oom_nif with cargo and installs the library into the application's priv
  # directory in the build. Never into the source: the source of a dependency must stay unchanged.
  #
  # Cargo decides about staleness. A rename replaces the library, and only a changed library.
  # OOM_NATIVE_PATH names a prebuilt library to install instead, without cargo.

  use Mix.Task.Compiler

  alias Mix.Task.Compiler.Diagnostic

  @recursive true
  @root Path.expand("..", __DIR__)
  @manifest Path.join(@root, "Cargo.toml")
  @library "oom_nif.so"

  @impl true
  def run(_args) do
    with {:ok, library, diagnostics} <- library(System.get_env("OOM_NATIVE_PATH")),
         {:ok, status} <- install(library) do
      {status, diagnostics}
    else
      {:error, diagnostics} -> {:error, diagnostics}
    end
  end

  @impl true
  def manifests, do: [installed()]

  @impl true
  def clean do
    File.rm(installed())
    File.rm_rf(target_dir())
    :ok
  end

  # Source of the library

  defp library(unset) when unset in [nil, ""] do
    case System.find_executable("cargo") do
      nil -> failed(no_cargo())
      cargo -> build(cargo)
    end
  end

  defp library(prebuilt) do
    if File.regular?(prebuilt) do
      {:ok, prebuilt, []}
    else
      failed("OOM_NATIVE_PATH: expected the path of a built library, got: #{prebuilt}")
    end
  end

  defp build(cargo) do
    args =
      ~w(build --release --locked --package oom_nif --color never) ++
        ["--manifest-path", @manifest, "--target-dir", target_dir()]

    case run_cargo(cargo, args) do
      {0, output} -> found(built(), diagnostics(output))
      {_, output} -> {:error, why_failed(cargo, diagnostics(output), output)}
    end
  end

  defp found([library | _], diagnostics), do: {:ok, library, diagnostics}
  defp found([], _), do: failed("cargo built no library in #{target_dir()}")

  # Under <triple>/release when cargo is set up to build for another target.
  defp built do
    triples = Enum.map(File.ls!(target_dir()), &Path.join(target_dir(), &1))

    libraries =
      for dir <- [target_dir() | triples],
          name <- ["liboom_nif.so", "liboom_nif.dylib"],
          library = Path.join([dir, "release", name]),
          File.regular?(library),
          do: library

    Enum.sort_by(libraries, &File.stat!(&1, time: :posix).mtime, :desc)
  end

  # Passes cargo's output on line by line, except for "nothing to do".
  defp run_cargo(cargo, args) do
    options = [:binary, :exit_status, :stderr_to_stdout, :hide, line: 4096, cd: @root, args: args]
    port = Port.open({:spawn_executable, cargo}, options)
    collect(port, [], "")
  end

  defp collect(port, lines, begun) do
    receive do
      {^port, {:data, {:noeol, part}}} ->
        collect(port, lines, begun <> part)

      {^port, {:data, {:eol, part}}} ->
        line = begun <> part
        unless line =~ ~r/^\s+Finished /, do: IO.puts(:stderr, line)
        collect(port, [line | lines], "")

      {^port, {:exit_status, status}} ->
        {status, [begun | lines] |> Enum.reverse() |> Enum.join("\n")}
    end
  end

  # Destination of the library

  defp install(library) do
    content = File.read!(library)
    installed = installed()

    if File.read(installed) == {:ok, content} do
      {:ok, :noop}
    else
      ensure_dir!(Path.dirname(installed))
      # Beside the target, so the rename cannot cross file systems. A VM with the old library
      # mapped keeps the old file.
      aside = "#{installed}.#{System.pid()}"
      File.write!(aside, content)
      File.rename!(aside, installed)
      {:ok, :ok}
    end
  rescue
    error in [File.Error, File.RenameError] -> failed(Exception.message(error))
  end

  # Mix links priv to a source directory of the same name; a stale link leads nowhere.
  defp ensure_dir!(dir) do
    if match?({:ok, _}, File.read_link(dir)) and not File.dir?(dir), do: File.rm!(dir)
    File.mkdir_p!(dir)
  end

  defp installed, do: Path.join([Mix.Project.app_path(), "priv", @library])

  defp target_dir, do: Path.join(Mix.Project.build_path(), "oom_native")

  # Diagnostics

  @said ~r/^(?<severity>error|warning)(?:\[\w+\])?: (?<message>.+)\n\s+--> (?<file>.+?):(?<line>\d+):/m

  defp diagnostics(output) do
    for [_, severity, message, file, line] <- Regex.scan(@said, output) do
      diagnostic(message, Path.expand(file, @root), String.to_integer(line), severity)
    end
  end

  defp why_failed(cargo, diagnostics, output) do
    cond do
      message = too_old(cargo) -> elem(failed(message), 1)
      Enum.any?(diagnostics, &(&1.severity == :error)) -> diagnostics
      true -> [diagnostic("cargo build failed:\n" <> String.trim(output)) | diagnostics]
    end
  end

  # Asked only after a failure, so a good build does not pay for the call.
  defp too_old(cargo) do
    [_, needed] = Regex.run(~r/^rust-version = "([\d.]+)"/m, File.read!(@manifest))

    with {output, 0} <- System.cmd(cargo, ["--version"], stderr_to_stdout: true),
         [_, found] <- Regex.run(~r/cargo (\d+\.\d+)/, output),
         true <- version(found) < version(needed) do
      "cargo is too old: the native part of oom needs cargo #{needed} or newer, got: " <>
        String.trim(output) <> "\n" <> how_to_install()
    else
      _ -> nil
    end
  end

  defp version(text), do: text |> String.split(".") |> Enum.map(&String.to_integer/1)

  defp no_cargo do
    "cargo was not found in PATH: the native part of oom is written in Rust\n" <>
      how_to_install()
  end

  defp how_to_install do
    "Install Rust from https://rustup.rs or with your system's packages (cargo), or set " <>
      "OOM_NATIVE_PATH to a built #{@library}"
  end

  defp failed(message) do
    Mix.shell().error(message)
    {:error, [diagnostic(message)]}
  end

  defp diagnostic(message, file \\ @manifest, line \\ nil, severity \\ "error") do
    %Diagnostic{
      compiler_name: "oom_native",
      file: file,
      message: message,
      position: line || 0,
      severity: if(severity == "error", do: :error, else: :warning)
    }
  end
end
