defmodule OOM.WorkerName do
  @moduledoc false
  # A worker's name for a person on call: the registered name, the initial call noted by OTP, and the label (OTP
  # 27). A dead worker has no name any more, so the probe reads the name while the worker lives: once, at the
  # first look at a worker too large to be one of many.

  alias OOM.{InitialCall, Usage, VM}

  @type t :: %{
          name: atom() | nil,
          call: {module(), atom(), arity() | atom()} | nil,
          label: String.t() | nil
        }

  # A smaller worker is reported by its pid and its id alone, in bytes.
  @least 65_536

  @doc "Returns the name of a worker with so many bytes of heap; `nil` where the worker is too small for one."
  @spec read(pid(), non_neg_integer(), non_neg_integer(), t() | nil) :: t() | nil
  def read(_pid, _bytes, _heap_bytes, %{} = known), do: known
  def read(_pid, bytes, _heap_bytes, nil) when bytes < @least, do: nil

  def read(pid, _bytes, heap_bytes, nil), do: ask(pid, heap_bytes)

  defp call({_, _, _} = call), do: call
  defp call(_unknown), do: nil

  if VM.keyed_dictionary?() do
    # A label may be any term.
    @longest_label 60

    defp label(pid) do
      with label when label != nil <- VM.dictionary(pid, :"$process_label"),
           do: label |> inspect(limit: 5, printable_limit: @longest_label) |> short()
    end

    defp short(text), do: String.slice(text, 0, @longest_label)

    defp ask(pid, _heap_bytes),
      do: %{name: Usage.name(pid), call: call(InitialCall.of(pid)), label: label(pid)}
  else
    # Without a keyed read the VM copies the whole dictionary, so a larger process is not asked, in bytes.
    @most_to_copy 1_048_576

    defp ask(pid, heap_bytes) when heap_bytes > @most_to_copy,
      do: %{name: Usage.name(pid), call: nil, label: nil}

    defp ask(pid, _heap_bytes),
      do: %{name: Usage.name(pid), call: call(InitialCall.of(pid)), label: nil}
  end

  @doc "Returns a worker in words, by all that is known of the worker."
  @spec words(pid(), t() | nil) :: String.t()
  def words(pid, nil), do: inspect(pid)

  def words(pid, %{name: name, call: call, label: label}) do
    known = for text <- [label, call && mfa(call)], text != nil, do: text
    Enum.join([inspect(name || pid) | known], " ")
  end

  defp mfa({module, function, arity}), do: "#{inspect(module)}.#{function}/#{arity}"
end
