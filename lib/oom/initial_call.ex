defmodule OOM.InitialCall do
  @moduledoc false
  # What a process was started as. `:proc_lib` notes it in the process's dictionary, and so does
  # every supervisor: `{:supervisor, module, 1}`.

  # An older VM copies all of a dictionary for one word of it. Of a process as large as this nobody
  # asks: a cache that is kept there would be in memory twice.
  @most_words 4_194_304

  @typedoc "`:unknown` of a process that is too large to ask."
  @type t :: {module(), atom(), arity() | atom()} | :unknown | nil

  # `of/1` asks the process, which may take as long as what it does just now. `of_supervisor/1` is the
  # same of one that was said to be a supervisor, and has a dictionary like one.
  @spec of(pid()) :: t()
  @spec of_supervisor(pid()) :: t()

  # One key where the VM can read one (OTP 26.2); decided once.
  if match?(
       {{:dictionary, _}, _},
       try do
         :erlang.process_info(self(), {:dictionary, :none})
       rescue
         ArgumentError -> nil
       end
     ) do
    def of(pid), do: of_supervisor(pid)

    def of_supervisor(pid) do
      case :erlang.process_info(pid, {:dictionary, :"$initial_call"}) do
        {_, {_, _, _} = call} -> call
        _ -> nil
      end
    end
  else
    def of(pid), do: if(large?(pid), do: :unknown, else: of_supervisor(pid))

    def of_supervisor(pid) do
      with {_, dictionary} <- :erlang.process_info(pid, :dictionary),
           {_, {_, _, _} = call} <- List.keyfind(dictionary, :"$initial_call", 0) do
        call
      else
        _ -> nil
      end
    end

    defp large?(pid) do
      case :erlang.process_info(pid, :garbage_collection_info) do
        {_, gc} -> gc[:heap_block_size] + gc[:old_heap_block_size] + gc[:mbuf_size] > @most_words
        :undefined -> false
      end
    end
  end
end
