defmodule Usable.Record do
  @moduledoc false
  # A record of finished runs, a line for each, so an interrupted search can continue. Runs
  # without a guard do not depend on its code, and have a separate file.

  @head Enum.join(~w(guard otp kind limit_mib percent seconds verdict share facts), "\t")

  @enforce_keys [:path, :runs]
  defstruct [:path, :runs]

  @type key ::
          {guard :: atom(), kind :: atom(), limit_mib :: pos_integer(), percent :: pos_integer(),
           seconds :: pos_integer()}
  @type result :: {verdict :: atom(), share :: float() | nil}

  @doc "Opens the record with the runs on this OTP; with none, to begin again."
  @spec open(Path.t(), boolean()) :: %__MODULE__{}
  def open(path, continue?) do
    File.mkdir_p!(Path.dirname(path))
    unless File.exists?(path), do: File.write!(path, @head <> "\n")
    [@head | lines] = path |> File.read!() |> String.split("\n", trim: true)
    otp = System.otp_release()

    runs =
      for line <- lines,
          continue?,
          [guard, ^otp, kind, limit, percent, seconds, verdict, share, _] <-
            [String.split(line, "\t")] do
        [limit, percent, seconds] = Enum.map([limit, percent, seconds], &String.to_integer/1)
        key = {String.to_atom(guard), String.to_atom(kind), limit, percent, seconds}

        {key, {String.to_atom(verdict), share(share)}}
      end

    %__MODULE__{path: path, runs: Enum.group_by(runs, &elem(&1, 0), &elem(&1, 1))}
  end

  @doc "Returns the runs of a kind, in the order in which they were recorded."
  @spec runs(%__MODULE__{}, key()) :: [result()]
  def runs(record, key), do: Map.get(record.runs, key, [])

  @spec add(%__MODULE__{}, key(), {atom(), keyword()}) :: %__MODULE__{}
  def add(record, {guard, kind, limit, percent, seconds} = key, {verdict, facts}) do
    {share, facts} = Keyword.pop(facts, :share)

    cells =
      [guard, System.otp_release(), kind, limit, percent, seconds] ++
        [verdict, share || "-", inspect(facts)]

    File.write!(record.path, [Enum.join(cells, "\t"), "\n"], [:append])

    %{
      record
      | runs: Map.update(record.runs, key, [{verdict, share}], &(&1 ++ [{verdict, share}]))
    }
  end

  defp share("-"), do: nil
  defp share(text), do: String.to_float(text)
end
