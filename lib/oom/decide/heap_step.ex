defmodule OOM.HeapStep do
  @moduledoc false
  # The most that the next collection of a heap copies: pure, as the VM decides it (erl_gc.c; the same rules
  # from OTP 25 to 29). The VM asks for larger blocks, but the system provides only the part written to.
  #
  # A minor collection copies the young heap with its fragments. Data that has survived an earlier collection
  # (`recent`) goes to the old heap, the rest to a new young heap. A major collection copies the old heap as
  # well. A major collection is due where `recent` does not fit into the rest of the old heap, where there is
  # no old heap and nothing has survived yet, or where the binaries of the old heap exceed their own limit. A
  # major collection also follows after `fullsweep_after` minor ones, by default 65,535. A reader needs a
  # signal for that setting, so a worker with a lower setting may take larger steps than this module tells.

  @word 8

  @typedoc "The `garbage_collection_info` of a process, in words."
  @type info :: keyword(non_neg_integer())

  @doc "Returns the most that the next collection copies, in bytes."
  @spec bytes(info()) :: non_neg_integer()
  def bytes(info) do
    young = info[:heap_size] + info[:mbuf_size]
    @word * if(minor?(info), do: young, else: young + info[:old_heap_size])
  end

  @doc "Tells whether the next collection is a minor one, by the default `fullsweep_after`."
  @spec minor?(info()) :: boolean()
  def minor?(info) do
    fits? =
      if info[:old_heap_block_size] == 0,
        do: info[:recent_size] > 0,
        else: info[:recent_size] <= info[:old_heap_block_size] - info[:old_heap_size]

    fits? and info[:bin_old_vheap_size] < info[:bin_old_vheap_block_size]
  end
end
