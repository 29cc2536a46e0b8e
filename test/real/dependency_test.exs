defmodule OOM.Real.DependencyTest do
  @moduledoc false
  # OOM as users have it: the files of its package, as a path dependency of an application made by
  # `mix new --sup`, built with the real cargo, and its release.

  # Most of the time is spent in compilers, and nothing here depends on time.
  use ExUnit.Case, async: true

  alias OOM.Test.{Cgroup, Shop}

  # Needs cargo, and a minute where everything has to be built.
  @moduletag :cargo
  @moduletag timeout: 600_000

  @mib 1_048_576
  @limit 256 * @mib

  setup_all do
    shop = Shop.new!()
    on_exit(fn -> File.rm_rf!(shop.dir) end)
    built = Shop.mix!(shop, ["do", "deps.get", "+", "compile", "--warnings-as-errors"])
    %{shop: shop, built: built}
  end

  test "the package has all the files it lists, and what is needed to build", context do
    assert context.built =~ "Compiling oom_nif"
    assert context.built =~ "Generated shop app"
    package = Mix.Project.config()[:package]
    assert Enum.filter(package[:files], &(Path.wildcard(Path.join(Shop.root(), &1)) == [])) == []
    assert package[:licenses] == ["Apache-2.0"]
    assert File.read!(Path.join(Shop.root(), "LICENSE")) =~ "Apache License"
    assert Mix.Project.config()[:description] =~ ~r/^.{10,300}$/
  end

  test "compiled again there is nothing to do", %{shop: shop} do
    before = Shop.files(shop)
    assert Enum.any?(before, fn {path, _} -> path =~ "oom_nif.so" end)
    assert Enum.any?(before, fn {path, _} -> path =~ "Elixir.OOM.Guard.beam" end)

    for args <- [["compile"], ["deps.compile", "oom"]] do
      output = Shop.mix!(shop, args)
      refute output =~ "Compiling"
      refute output =~ "Generated"
      assert Shop.files(shop) == before
    end
  end

  test "without cargo there is one clear message", %{shop: shop} do
    env = [{"PATH", Shop.path_without(shop, ["cargo"])}, {"MIX_BUILD_PATH", shop.dir <> "/none"}]
    assert {output, 1} = Shop.mix(shop, ["compile"], env)
    assert [_, how] = String.split(output, "cargo was not found in PATH")
    assert how =~ "Install Rust from https://rustup.rs"
    assert how =~ "OOM_NATIVE_PATH"
    refute output =~ "** ("
  end

  test "without cargo a prebuilt library will do", %{shop: shop} do
    path = {"PATH", Shop.path_without(shop, ["cargo"])}
    build = {"MIX_BUILD_PATH", shop.dir <> "/prebuilt"}
    # Aside, so the library in use is not the library built in place.
    library = Path.join(shop.dir, "prebuilt.so")
    File.cp!(Shop.library(shop), library)

    Shop.mix!(shop, ["compile", "--warnings-as-errors"], [
      path,
      build,
      {"OOM_NATIVE_PATH", library}
    ])

    File.rm!(library)

    # The library was copied: it loads with the original removed.
    code = "IO.inspect({OOM.Native.loaded?(), OOM.level()})"
    args = ["run", "--no-compile", "--no-deps-check", "-e", code]
    assert Shop.mix!(shop, args, [path, build]) =~ "{true, :normal}"
  end

  describe "a release, moved, with neither sources nor Mix nor cargo in reach" do
    setup %{shop: shop} do
      made = Path.join(shop.dir, "made")
      release = Path.join(shop.dir, "elsewhere/shop")
      unless File.exists?(release), do: make(shop, made, release)

      # The sources are away while the release runs.
      away = shop.sources <> ".away"
      File.rename!(shop.sources, away)
      on_exit(fn -> File.rename!(away, shop.sources) end)
      %{release: release}
    end

    defp make(shop, made, release) do
      Shop.mix!(shop, ["release", "--path", made])
      File.mkdir_p!(Path.dirname(release))
      File.rename!(made, release)
    end

    test "starts, watches and stops", %{shop: shop, release: release} do
      code = """
      {:ok, _} = Application.ensure_all_started(:shop)
      IO.inspect({OOM.snapshot().source != nil, :code.which(Mix), :os.find_executable('cargo')})
      """

      assert {output, 0} = Shop.release(shop, release, ["eval", code])
      assert output =~ "{true, :non_existing, false}"
    end

    @tag :cgroup
    @tag skip: Cgroup.unavailable()
    test "survives a leak", %{shop: shop, release: release} do
      assert {output, 0, 0} = leak(shop, release, "oom")

      said = ~r/^leaked \d+ MiB; 5 leakers started (\d+) times; ledger kept since the beginning$/m

      assert [_, starts] = Regex.run(said, output)
      assert String.to_integer(starts) > 5
    end

    @tag :cgroup
    @tag skip: Cgroup.unavailable()
    test "dies of the same leak under a plain Supervisor", %{shop: shop, release: release} do
      assert {output, 137, 1} = leak(shop, release, "plain")
      refute output =~ "leaked"
    end

    defp leak(shop, release, supervisor) do
      cgroup = Cgroup.create!(@limit)
      on_exit(fn -> Cgroup.destroy(cgroup) end)
      env = [{"SHOP_SUPERVISOR", supervisor}, {"SHOP_LEAK_MIB", "#{div(5 * @limit, 4 * @mib)}"}]
      {output, status} = Shop.release(shop, release, ["start"], env, Cgroup.procs(cgroup))
      {output, status, Cgroup.oom_kills(cgroup)}
    end
  end
end
