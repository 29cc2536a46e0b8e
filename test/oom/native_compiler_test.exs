defmodule OOM.NativeCompilerTest do
  # Runs native/compiler.exs in projects of its own, with a fake cargo. The library of this test run is the
  # library that the fake cargo "builds".
  use ExUnit.Case, async: true

  @moduletag :tmp_dir
  @moduletag timeout: 180_000

  @root Path.expand("../..", __DIR__)

  setup %{tmp_dir: tmp_dir} do
    tmp_dir = Path.expand(tmp_dir)
    %{dir: tmp_dir, bin: bin_without_cargo(tmp_dir), build: Path.join(tmp_dir, "build")}
  end

  # Everything in PATH but cargo.
  defp bin_without_cargo(tmp_dir) do
    bin = Path.join(tmp_dir, "bin")
    File.mkdir_p!(bin)

    for dir <- String.split(System.get_env("PATH"), ":"),
        {:ok, names} <- [File.ls(dir)],
        name <- names,
        name != "cargo",
        do: File.ln_s(Path.join(dir, name), Path.join(bin, name))

    bin
  end

  defp cargo(bin, script) do
    path = Path.join(bin, "cargo")
    File.write!(path, "#!/bin/sh\n" <> script)
    File.chmod!(path, 0o755)
  end

  # Finds the target directory among the arguments and puts the library there.
  defp building_cargo(bin) do
    cargo(bin, """
    while [ "$1" != "--target-dir" ]; do shift; done
    mkdir -p "$2/release"
    cp -p "#{library()}" "$2/release/liboom_nif.so"
    echo "    Finished release in 0.01s" >&2
    """)
  end

  defp library, do: Path.join(:code.priv_dir(:oom), "oom_nif.so")

  defp mix(args, context, opts \\ []) do
    env = [
      {"PATH", context.bin},
      {"MIX_ENV", "prod"},
      {"MIX_BUILD_PATH", context.build},
      {"OOM_NATIVE_PATH", nil} | Keyword.get(opts, :env, [])
    ]

    # mix says where it is when run by another mix
    cd = Keyword.get(opts, :cd, @root)
    System.cmd(System.find_executable("mix"), args, env: env, cd: cd, stderr_to_stdout: true)
  end

  # Runs the compiler alone, at the top level. Returns the output, the status and the diagnostics. The
  # diagnostics come by a file: the output is stdout and stderr without an order.
  defp compile(context, opts \\ []) do
    result = Path.join(context.dir, "result")

    code = ~S"""
    {status, diagnostics} = Mix.Task.run("compile.oom_native")
    diagnostics = Enum.map(diagnostics, &{&1.severity, &1.file, &1.position, &1.message})
    File.write!(System.fetch_env!("RESULT"), :erlang.term_to_binary({status, diagnostics}))
    """

    args = ["run", "--no-start", "--no-compile", "--no-deps-check", "-e", code]
    opts = Keyword.update(opts, :env, [{"RESULT", result}], &[{"RESULT", result} | &1])
    {said, 0} = mix(args, context, opts)
    {status, diagnostics} = :erlang.binary_to_term(File.read!(result))
    {String.trim(said), status, diagnostics}
  end

  defp installed(context, app \\ "oom"),
    do: Path.join([context.build, "lib", app, "priv", "oom_nif.so"])

  test "installs what cargo built, once", context do
    building_cargo(context.bin)

    assert {"", :ok, []} = compile(context)
    assert File.read!(installed(context)) == File.read!(library())
    File.touch!(installed(context), 1_000_000_000)

    assert {"", :noop, []} = compile(context)
    assert File.stat!(installed(context), time: :posix).mtime == 1_000_000_000
    assert File.ls!(Path.dirname(installed(context))) == ["oom_nif.so"]
  end

  test "replaces the library by a rename", context do
    building_cargo(context.bin)
    File.mkdir_p!(Path.dirname(installed(context)))
    File.write!(installed(context), "mapped by a running VM")
    {:ok, old} = File.open(installed(context), [:read])

    assert {"", :ok, []} = compile(context)
    assert IO.read(old, :line) == "mapped by a running VM"
  end

  test "a dangling link makes way for a directory", context do
    building_cargo(context.bin)
    priv = Path.dirname(installed(context))
    File.mkdir_p!(Path.dirname(priv))
    File.ln_s!("/nowhere/priv", priv)

    assert {"", :ok, []} = compile(context)
    assert File.lstat!(priv).type == :directory
  end

  test "OOM_NATIVE_PATH needs no cargo", context do
    assert {"", :ok, []} = compile(context, env: [{"OOM_NATIVE_PATH", library()}])
    assert File.read!(installed(context)) == File.read!(library())

    message = "OOM_NATIVE_PATH: expected the path of a built library, got: /nowhere.so"
    context = %{context | build: context.build <> "-other"}

    assert {^message, :error, [{:error, _, _, ^message}]} =
             compile(context, env: [{"OOM_NATIVE_PATH", "/nowhere.so"}])
  end

  test "without cargo the message says what to install", context do
    manifest = Path.join(@root, "Cargo.toml")
    assert {said, :error, [{:error, ^manifest, 0, said}]} = compile(context)
    assert said =~ "cargo was not found"
    assert said =~ "https://rustup.rs"
  end

  test "with an old cargo the message says which version is needed", context do
    cargo(context.bin, """
    [ "$1" = "--version" ] && echo "cargo 1.60.0 (abc 2022-01-01)" && exit
    echo "error: failed to parse lock file"; exit 101
    """)

    assert {_said, :error, [{:error, _, _, message}]} = compile(context)
    assert message =~ ~r/needs cargo 1\.\d+ or newer, got: cargo 1\.60\.0/
  end

  test "errors of the compiler are diagnostics with their place", context do
    cargo(context.bin, """
    [ "$1" = "--version" ] && echo "cargo 1.99.0 (abc 2030-01-01)" && exit
    cat <<'EOT'
       Compiling oom v0.1.0
    warning: unused variable: `x`
     --> native/oom/src/pace.rs:3:9
      |
    error[E0308]: mismatched types
     --> native/oom/src/level.rs:27:5
      |
    error: could not compile `oom` (lib) due to 1 previous error
    EOT
    exit 101
    """)

    assert {said, :error, diagnostics} = compile(context)
    assert said =~ "error[E0308]: mismatched types"

    assert diagnostics == [
             {:warning, Path.join(@root, "native/oom/src/pace.rs"), 3, "unused variable: `x`"},
             {:error, Path.join(@root, "native/oom/src/level.rs"), 27, "mismatched types"}
           ]
  end

  test "a failure without a place is told as it is", context do
    cargo(context.bin, """
    [ "$1" = "--version" ] && echo "cargo 1.99.0 (abc 2030-01-01)" && exit
    echo "error: failed to download from the registry"; exit 101
    """)

    assert {_said, :error, [{:error, _, _, message}]} = compile(context)
    assert message =~ "cargo build failed:"
    assert message =~ "failed to download from the registry"
  end

  describe "as a dependency" do
    setup context do
      building_cargo(context.bin)
      host = Path.join(context.dir, "host")
      File.mkdir_p!(Path.join(host, "lib"))
      File.write!(Path.join(host, "lib/host.ex"), "defmodule Host do\nend\n")

      File.write!(Path.join(host, "mix.exs"), """
      defmodule Host.MixProject do
        use Mix.Project

        def project do
          [app: :host, version: "1.0.0", elixir: "~> 1.14", deps: [{:oom, path: "#{@root}"}]]
        end
      end
      """)

      %{host: host}
    end

    test "the library is in the build of the host, and in its release", context do
      assert {output, 0} = mix(["release"], context, cd: context.host)
      refute output =~ "Finished"
      assert File.read!(installed(context)) == File.read!(library())
      refute File.exists?(Path.join(@root, "priv"))

      bin = Path.join([context.build, "rel", "host", "bin", "host"])
      code = "true = OOM.Native.loaded?(); IO.puts(:code.priv_dir(:oom))"
      assert {output, 0} = System.cmd(bin, ["eval", code], stderr_to_stdout: true)
      assert output =~ "rel/host/lib/oom-"

      assert {_, 0} = mix(["deps.clean", "oom"], context, cd: context.host)
      refute File.exists?(installed(context))
    end
  end

  test "mix clean removes the library and what cargo built", context do
    building_cargo(context.bin)
    compile(context)
    assert {_, 0} = mix(["clean"], context)
    refute File.exists?(installed(context))
    refute File.exists?(Path.join(context.build, "oom_native"))
  end
end
