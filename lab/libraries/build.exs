# Builds the libraries of script/lab libraries: elixir build.exs SOURCES TO NAME...
#
# Each library is an application in TO/NAME/ebin, built without Mix's dependencies, as these need Hex.
defmodule Build do
  def library(name, sources, to) do
    ebin = Path.join([to, name, "ebin"])
    File.mkdir_p!(ebin)
    Code.prepend_path(ebin)

    File.cd!(Path.join(sources, name), fn ->
      if File.exists?("src/#{name}.app.src"), do: erlang(name, ebin), else: elixir(name, ebin)
    end)

    IO.puts("built #{name}")
  end

  defp elixir(name, ebin) do
    Code.compile_file("mix.exs")
    project = Mix.Project.get!()
    files = Path.wildcard("lib/**/*.ex")
    {:ok, modules, _warnings} = Kernel.ParallelCompiler.compile_to_path(files, ebin)
    application = project.application()

    properties = [
      vsn: to_charlist(project.project()[:version]),
      modules: modules,
      registered: [],
      applications:
        [:kernel, :stdlib, :elixir] ++ Keyword.get(application, :extra_applications, []),
      mod: application[:mod],
      env: application[:env] || []
    ]

    properties = Enum.reject(properties, &match?({_, nil}, &1))
    term = {:application, String.to_atom(name), properties}
    File.write!(Path.join(ebin, "#{name}.app"), :io_lib.format("~tp.~n", [term]))
    Mix.Project.pop()
  end

  defp erlang(name, ebin) do
    {_, 0} = System.cmd("erlc", ["-o", ebin | Path.wildcard("src/*.erl")])
    File.cp!("src/#{name}.app.src", Path.join(ebin, "#{name}.app"))
  end
end

[sources, to | names] = System.argv()
Mix.start()
Mix.env(:prod)
Code.compiler_options(ignore_module_conflict: true)
# Those built before.
for ebin <- Path.wildcard(Path.join(to, "*/ebin")), do: Code.prepend_path(ebin)
for name <- names, do: Build.library(name, sources, to)
