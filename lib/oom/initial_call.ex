defmodule OOM.InitialCall do
  @moduledoc false
  # The initial call of a process. `:proc_lib` notes the call in the process's dictionary, and every
  # supervisor notes `{:supervisor, module, 1}`.

  alias OOM.VM

  @typedoc "`:unknown` for a process too large to ask."
  @type t :: {module(), atom(), arity() | atom()} | :unknown | nil

  # Supervisors with a loop of their own: ranch's, and RabbitMQ's copy of OTP's.
  @special [:ranch_conns_sup, :supervisor2]

  @doc "Tells whether this is the initial call of a supervisor with a loop of its own."
  @spec special?(t()) :: boolean()
  def special?({module, _, _}), do: module in @special
  def special?(_call), do: false

  @doc "Returns the initial call of a process. Asks the process, and waits for the end of its present step."
  @spec of(pid()) :: t()
  def of(pid), do: call(word(pid, :"$initial_call"))

  @doc "Returns the initial call of a process said to be a supervisor, with a dictionary of that size."
  @spec of_supervisor(pid()) :: t()
  def of_supervisor(pid), do: call(VM.dictionary(pid, :"$initial_call"))

  defp call({_, _, _} = call), do: call
  defp call(:unknown), do: :unknown
  defp call(_none), do: nil

  if VM.keyed_dictionary?() do
    defp word(pid, key), do: VM.dictionary(pid, key)
  else
    # An older VM copies the whole dictionary for a single key. So a process larger than this is not asked:
    # a cache kept in the dictionary would be in memory twice.
    @most_words 4_194_304

    defp word(pid, key), do: if(large?(pid), do: :unknown, else: VM.dictionary(pid, key))

    defp large?(pid) do
      case :erlang.process_info(pid, :garbage_collection_info) do
        {_, gc} -> gc[:heap_block_size] + gc[:old_heap_block_size] + gc[:mbuf_size] > @most_words
        :undefined -> false
      end
    end
  end
end
