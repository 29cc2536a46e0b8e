defmodule OOM.ApplicationTest do
  # Starts VMs with the configuration a release would give.
  use ExUnit.Case, async: true

  @script """
  case Application.ensure_all_started(:oom) do
    {:ok, _} -> IO.puts("started at " <> Atom.to_string(OOM.level()))
    {:error, {:oom, {:bad_return, {_, {:EXIT, {error, _}}}}}} -> IO.puts(Exception.message(error))
  end
  """

  test "starts without configuration" do
    assert start([]) =~ ~r/^started at \w+$/m
  end

  test "starts with a limit above the VM's usage" do
    assert start(limit: 100_000_000_000) =~ ~r/^started at \w+$/m
  end

  test "does not start with a limit below the VM's usage" do
    assert start(limit: 1_000_000) =~
             ~r/^expected :limit to be more than the \d+ bytes this VM uses already, got: 1000000$/m
  end

  test "does not start with watermarks out of order" do
    assert start(watermarks: [elevated: 0.9, high: 0.5, critical: 0.7]) =~
             "expected :watermarks to be :auto or [elevated: e, high: h, critical: c] with " <>
               "0 < e < h < c <= 1, got: [elevated: 0.9, high: 0.5, critical: 0.7]"
  end

  test "does not start with an unknown option" do
    assert start(limits: 1) =~ "unknown option :limits for :oom, expected one of :limit, "
  end

  defp start(config) do
    flags = for {name, value} <- config, flag <- ["-oom", "#{name}", term(value)], do: flag

    {output, 0} =
      System.cmd(
        System.find_executable("elixir"),
        ["--erl", Enum.join(flags, " "), "-pa", Application.app_dir(:oom, "ebin"), "-e", @script],
        stderr_to_stdout: true
      )

    output
  end

  # Without spaces, which would divide the argument.
  defp term(value), do: :io_lib.format("~0p", [value]) |> to_string() |> String.replace(" ", "")
end
