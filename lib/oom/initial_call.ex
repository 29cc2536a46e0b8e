defmodule OOM.InitialCall do
  @moduledoc false
  # What a process was started as. `:proc_lib` notes it in the process's dictionary, and so does
  # every supervisor: `{:supervisor, module, 1}`.

  alias OOM.VM

  @typedoc "`:unknown` of a process that is too large to ask."
  @type t :: {module(), atom(), arity() | atom()} | :unknown | nil

  @doc "Asks the process, which may take as long as what it does just now."
  @spec of(pid()) :: t()
  def of(pid), do: call(word(pid, :"$initial_call"))

  @doc "The same of one that was said to be a supervisor, and has a dictionary like one."
  @spec of_supervisor(pid()) :: t()
  def of_supervisor(pid), do: call(VM.dictionary(pid, :"$initial_call"))

  defp call({_, _, _} = call), do: call
  defp call(:unknown), do: :unknown
  defp call(_none), do: nil

  if VM.keyed_dictionary?() do
    defp word(pid, key), do: VM.dictionary(pid, key)
  else
    # An older VM copies all of a dictionary for one word of it. Of a process as large as this nobody
    # asks: a cache that is kept there would be in memory twice.
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
