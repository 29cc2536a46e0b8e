defmodule Usable.Record do
  @moduledoc false
  # Runs that were made, a line for each, so that what was interrupted can be continued. Those
  # without a guard do not depend on its code, and have a file of their own.

  @head Enum.join(~w(guard otp kind limit_mib percent seconds verdict share facts), "\t")

  @enforce_keys [:path, :runs]
  defstruct [:path, :runs]

  @type key ::
          {guard :: atom(), kind :: atom(), limit_mib :: pos_integer(), percent :: pos_integer()}
  @type result :: {verdict :: atom(), share :: float() | nil}

  @doc "With the runs that lasted as long, on this OTP; or, to begin again, with none."
  @spec open(Path.t(), pos_integer(), boolean()) :: %__MODULE__{}
  def open(path, seconds, continue?) do
    File.mkdir_p!(Path.dirname(path))
    unless File.exists?(path), do: File.write!(path, @head <> "\n")
    [@head | lines] = path |> File.read!() |> String.split("\n", trim: true)
    otp = System.otp_release()

    runs =
      for line <- lines,
          continue?,
          [guard, ^otp, kind, limit, percent, length, verdict, share, _] <-
            [String.split(line, "\t")],
          String.to_integer(length) == seconds do
        key =
          {String.to_atom(guard), String.to_atom(kind), String.to_integer(limit),
           String.to_integer(percent)}

        {key, {String.to_atom(verdict), share(share)}}
      end

    %__MODULE__{path: path, runs: Enum.group_by(runs, &elem(&1, 0), &elem(&1, 1))}
  end

  @doc "The n-th run of its kind, counted from 1, if it was made."
  @spec run(%__MODULE__{}, key(), pos_integer()) :: result() | nil
  def run(record, key, n), do: record.runs |> Map.get(key, []) |> Enum.at(n - 1)

  @spec add(%__MODULE__{}, key(), pos_integer(), {atom(), keyword()}) :: %__MODULE__{}
  def add(record, {guard, kind, limit, percent} = key, seconds, {verdict, facts}) do
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
