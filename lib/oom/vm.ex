defmodule OOM.VM do
  @moduledoc false
  # What newer VMs can do and older ones cannot, decided here and nowhere else. Each is found by
  # trying it while this is compiled, so that no release has to be known by its number.
  #
  # Left aside, because it brings nothing here: process iterators (OTP 28), as a walk sorts the whole
  # list in order to pass by whom it knows, and a fold over 100,000 processes makes no more than
  # 1.6 MB of a list in a process that is thrown away; and trace sessions (OTP 27), as nothing here
  # traces. Nor do heap caps count shared binaries (OTP 27): the VM counts one once for each message
  # or table it came from, so workers that share a large one would be killed for what is there once.

  @doc "The release, such as 27."
  @spec otp_release() :: pos_integer()
  def otp_release, do: :otp_release |> :erlang.system_info() |> List.to_integer()

  # From OTP 26.2 on.
  @keyed_dictionary (try do
                       :erlang.process_info(self(), {:dictionary, :none})
                       true
                     rescue
                       ArgumentError -> false
                     end)

  @doc "Whether one note of a process can be read without a copy of all of them."
  @spec keyed_dictionary?() :: boolean()
  def keyed_dictionary?, do: @keyed_dictionary

  @doc "What another process has noted under this key, or `nil`; its other notes are not copied."
  @spec dictionary(pid(), atom()) :: term()
  if @keyed_dictionary do
    def dictionary(pid, key) do
      case :erlang.process_info(pid, {:dictionary, key}) do
        {_, :undefined} -> nil
        {_, value} -> value
        :undefined -> nil
      end
    end
  else
    def dictionary(pid, key) do
      with {_, dictionary} <- :erlang.process_info(pid, :dictionary),
           {_, value} <- List.keyfind(dictionary, key, 0) do
        value
      else
        _ -> nil
      end
    end
  end
end
