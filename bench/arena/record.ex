defmodule Arena.Record do
  @moduledoc false
  # The runs in a file, for other programs and for an arena continuing after an interruption:
  # tab-separated, a line for each; figures as measured. A finished run adds a line at once, so an
  # interrupted arena keeps its results.

  alias Arena.{Job, Run}

  @code ~w(hash otp)
  @options ~w(shape workers limit_bytes bytes_per_s seconds canary held return burn quota config)
  @seen ~w(status hung oom_kills peak_bytes)
  @facts ~w(ms decision decided_ms culprits_left low_kills low_caps innocents_lost normal_deaths timeouts
            asked_us filled_bytes inversions other_deaths exhausted critical relief_ms victims_bytes
            deficit_bytes calm_us worst_us)a

  @head Enum.join(@code ++ @options ++ @seen ++ @facts, "\t")

  @doc "Returns the default file for runs of this code."
  @spec path(String.t()) :: Path.t()
  def path(hash), do: "tmp/arena-#{hash}.tsv"

  @spec append(Run.t(), Path.t()) :: :ok
  def append(run, path) do
    File.mkdir_p!(Path.dirname(path))
    head = if File.exists?(path), do: [], else: [@head, "\n"]
    File.write!(path, [head, line(run), "\n"], [:append])
  end

  @doc "Returns the runs in a file; none where the file does not exist yet."
  @spec read(Path.t()) :: {:ok, [Run.t()]} | {:error, String.t()}
  def read(path) do
    with {:ok, text} <- File.read(path),
         [@head | lines] <- String.split(text, "\n", trim: true) do
      {:ok, Enum.map(lines, &run(String.split(&1, "\t")))}
    else
      {:error, :enoent} -> {:ok, []}
      {:error, reason} -> {:error, "#{path}: #{:file.format_error(reason)}"}
      _ -> {:error, "#{path} is no record of this arena: its columns are others"}
    end
  end

  @spec line(Run.t()) :: String.t()
  def line(%{job: job} = run) do
    status = if is_integer(run.status), do: run.status, else: "-"

    Enum.join(
      [run.hash, run.otp] ++
        [job.shape, job.workers, job.limit_bytes, job.bytes_per_s, job.seconds, job.canary] ++
        [job.held_percent, job.return?, job.burners, job.quota_percent || "-"] ++
        [inspect(job.config, limit: :infinity)] ++
        [status, run.hung?, run.oom_kills || "-", run.peak || "-"] ++
        Enum.map(@facts, &Keyword.get(run.facts, &1, "-")),
      "\t"
    )
  end

  # The counterpart of line/1, in the order of the columns.
  defp run(cells) do
    {[hash, otp], cells} = Enum.split(cells, length(@code))
    {options, cells} = Enum.split(cells, length(@options))
    {[status, hung, kills, peak], facts} = Enum.split(cells, length(@seen))

    %Run{
      hash: hash,
      otp: otp,
      job: job(options),
      log: "",
      status: value(status),
      hung?: hung == "true",
      oom_kills: value(kills),
      peak: value(peak),
      facts: for({key, text} <- Enum.zip(@facts, facts), text != "-", do: {key, value(text)})
    }
  end

  defp job([shape, workers, limit, rate, seconds, canary, held, return, burn, quota, config]) do
    job = %Job{
      shape: String.to_atom(shape),
      workers: value(workers),
      limit_bytes: value(limit),
      bytes_per_s: value(rate),
      seconds: value(seconds),
      canary: value(canary),
      held_percent: value(held),
      burners: value(burn),
      quota_percent: value(quota),
      config: config |> Code.eval_string() |> elem(0)
    }

    if return == "true", do: Job.returning(job), else: job
  end

  defp value("-"), do: nil

  defp value(text) do
    case Integer.parse(text) do
      {number, ""} -> number
      _ -> String.to_atom(text)
    end
  end
end
