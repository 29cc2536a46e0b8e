defmodule OOM.VM do
  @moduledoc false
  # The features of newer VMs, decided here and nowhere else. The module tries each feature while it is
  # compiled, so that no release has to be known by number.
  #
  # Not used: process iterators (OTP 28), because a walk sorts the whole list in order to skip known
  # processes, and a fold over 100,000 processes makes a list of 1.6 MB at most in a throw-away process; and
  # trace sessions (OTP 27), because nothing here traces. Heap caps count shared binaries only where asked
  # to: the VM counts a binary once for each message or table it came from, so workers sharing a large
  # binary would be killed for a binary in memory once.

  @doc "Returns the number of the OTP release, such as 27."
  @spec otp_release() :: pos_integer()
  def otp_release, do: :otp_release |> :erlang.system_info() |> List.to_integer()

  # From OTP 26.2 on.
  @keyed_dictionary (try do
                       :erlang.process_info(self(), {:dictionary, :none})
                       true
                     rescue
                       ArgumentError -> false
                     end)

  @doc "Tells whether a single key of another process's dictionary can be read without a copy of all keys."
  @spec keyed_dictionary?() :: boolean()
  def keyed_dictionary?, do: @keyed_dictionary

  @doc "Returns the value of a key in another process's dictionary, or `nil`; newer VMs copy no other key."
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
