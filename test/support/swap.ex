defmodule OOM.Test.Swap do
  @moduledoc false
  # Swap in compressed memory, for the length of a test.

  @device "/dev/zram0"

  @doc "Returns why swap is impossible here, or `nil` if possible."
  @spec unavailable() :: String.t() | nil
  def unavailable do
    with "0\n" <- elem(System.cmd("id", ["-u"]), 0),
         true <- File.exists?(@device) or match?({_, 0}, run("modprobe", ["zram"])),
         # The host's swap must not be turned off by a test.
         [_header] <- "/proc/swaps" |> File.read!() |> String.split("\n", trim: true) do
      nil
    else
      _ -> "needs root, zram and a host without swap"
    end
  rescue
    error in ErlangError -> "needs modprobe: #{inspect(error.original)}"
  end

  @spec on!(pos_integer()) :: :ok
  def on!(bytes) do
    File.write!("/sys/block/zram0/disksize", to_string(bytes))
    {_, 0} = run("mkswap", [@device])
    {_, 0} = run("swapon", [@device])

    ExUnit.Callbacks.on_exit(fn ->
      run("swapoff", [@device])
      File.write("/sys/block/zram0/reset", "1")
    end)
  end

  defp run(command, args), do: System.cmd(command, args, stderr_to_stdout: true)
end
