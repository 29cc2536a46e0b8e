defmodule OOM.HeldBinaries do
  @moduledoc false
  # The off-heap binaries that a worker's heap refers to.
  #
  # The virtual binary heap costs nothing to read, but counts badly. A binary that grows by appending shows in
  # its first size until the next collection: 60 MB read as 1,864 bytes. A part of a binary shows as the part,
  # and keeps the whole: a worker with 100 bytes of each of 100 messages of 200 KiB reads as 10 KB. So the probe
  # asks the worker for its binaries, and divides each binary among its holders. The question is a signal to the
  # worker, so the probe asks again only after some work, or after a change of the virtual heap. The probe never
  # asks a worker without off-heap binaries, and no worker at the first look: a worker at the end of a long run
  # queue would get its turn at once, with all the memory of the turn.

  # After no more reductions than this since the last answer a worker holds the same as before.
  @worked 500
  # A suspended worker answers without a turn, and an append of 64 KiB takes next to no reductions.
  @appended 20
  # A heap of this size holds at most 65,000 binaries; the answer takes 5 ms. A larger heap is asked where the
  # last answer, scaled to the present heap, promises fewer binaries than this.
  @small_heap_words 524_288
  @many 65_536
  # Few binaries may be one that is being appended to.
  @few 8
  # A binary that grows by appending is mostly seen below this size first, in bytes.
  @first_seen 16 * 1_048_576
  # A binary of this size that has grown since the last look is being appended to, in bytes.
  @large 1_048_576
  @word 8

  @enforce_keys [:at]
  defstruct at: 0,
            asked?: false,
            words: 0,
            virtual: 0,
            count: 0,
            largest: 0,
            # the bytes that the virtual heap does not show, and all
            hidden: 0,
            all: 0,
            # what the next append past the room of the binary takes; see OOM.Steps
            step: 0,
            # the binary has grown since the last look
            grew?: false

  @type t :: %__MODULE__{}

  @doc """
  Returns the binaries of a worker at this look, `last` being those of the last look, or `nil`. `gc` is the
  worker's `garbage_collection_info`.
  """
  @spec read(pid(), keyword(), non_neg_integer(), atom(), t() | :none | nil) :: t()
  def read(_pid, _gc, reductions, _status, nil), do: %__MODULE__{at: reductions}

  def read(pid, gc, reductions, status, :none),
    do: read(pid, gc, reductions, status, %__MODULE__{at: 0})

  def read(pid, gc, reductions, status, last) do
    virtual = virtual_bytes(gc)
    words = gc[:heap_block_size] + gc[:old_heap_block_size]

    cond do
      virtual == 0 ->
        %{last | hidden: 0, all: 0, step: 0, grew?: false, virtual: 0, count: 0, largest: 0}

      due?(virtual, reductions, status, last) and few?(words, last) ->
        ask(pid, words, virtual, reductions, last)

      true ->
        %{last | all: virtual + last.hidden, grew?: false}
    end
  end

  @doc "Returns the part of a finding to keep until the next look: most workers have no binaries."
  @spec kept(t()) :: t() | :none
  def kept(%{virtual: 0, asked?: false, count: 0}), do: :none
  def kept(found), do: found

  @doc "Returns the bytes of binaries that the virtual heap shows; a shared binary counts in each holder."
  @spec virtual_bytes(keyword()) :: non_neg_integer()
  def virtual_bytes(gc), do: @word * (gc[:bin_vheap_size] + gc[:bin_old_vheap_size])

  defp due?(_virtual, _reductions, _status, %{asked?: false}), do: true

  defp due?(virtual, reductions, status, last),
    do: virtual != last.virtual or reductions - last.at > least(status)

  defp least(:suspended), do: @appended
  defp least(_status), do: @worked

  defp few?(words, _last) when words <= @small_heap_words, do: true
  defp few?(_words, %{asked?: false}), do: false
  defp few?(words, last), do: last.count * words <= @many * max(last.words, 1)

  defp ask(pid, words, virtual, reductions, last) do
    case :erlang.process_info(pid, :binary) do
      {_, binaries} ->
        shares = for {_, bytes, holders} <- binaries, do: div(bytes, max(holders, 1))
        hidden = max(Enum.sum(shares) - virtual, 0)
        largest = Enum.max(shares, fn -> 0 end)

        found = %__MODULE__{
          at: reductions,
          asked?: true,
          words: words,
          virtual: virtual,
          count: length(binaries),
          largest: largest,
          hidden: hidden,
          all: virtual + hidden
        }

        step(found, last)

      :undefined ->
        last
    end
  end

  # Few binaries that hold much, and more than at the last look, are being appended to. Between two steps the size
  # stands still, because appends fill the room that the last step made.
  defp step(%{count: count, all: all} = found, last) when count <= @few and all > last.all do
    if appended?(found, last), do: %{found | step: 2 * all, grew?: true}, else: found
  end

  defp step(%{count: count, largest: largest} = found, %{largest: largest} = last)
       when count <= @few,
       do: %{found | step: last.step}

  defp step(found, _last), do: found

  # A large new binary made in one piece takes no further step. The virtual heap shows such a binary in full, and
  # a binary that grows by appending in its size at the last collection.
  defp appended?(%{all: all}, _last) when all <= @first_seen, do: true
  defp appended?(%{hidden: hidden, largest: largest}, _last) when 2 * hidden >= largest, do: true
  defp appended?(found, last), do: last.largest >= @large and found.largest > last.largest
end
