defmodule Arena.Record do
  @moduledoc false
  # The runs in a file, for other programs and for an arena that goes on where another has stopped:
  # tab-separated, a line for each; figures as they were seen.

  alias Arena.{Job, Run}

  @outside ~w(shape workers limit_bytes bytes_per_s seconds canary status hung oom_kills peak_bytes)
  @facts ~w(ms low_kills low_caps normal_deaths inversions other_deaths exhausted critical
            relief_ms victims_bytes deficit_bytes calm_us worst_us)a

  @spec write([Run.t()], Path.t()) :: :ok
  def write(runs, path) do
    lines =
      for %{job: job} = run <- runs do
        status = if is_integer(run.status), do: run.status, else: "-"

        [job.shape, job.workers, job.limit_bytes, job.bytes_per_s, job.seconds, job.canary] ++
          [status, run.hung?, run.oom_kills || "-", run.peak || "-"] ++
          Enum.map(@facts, &Keyword.get(run.facts, &1, "-"))
      end

    text = Enum.map_join([@outside ++ @facts | lines], "\n", &Enum.join(&1, "\t"))
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, text <> "\n")
  end

  @doc "What `write/2` has written."
  @spec read(Path.t()) :: {:ok, [Run.t()]} | {:error, String.t()}
  def read(path) do
    head = Enum.join(@outside ++ @facts, "\t")

    with {:ok, text} <- File.read(path),
         [^head | lines] <- String.split(text, "\n", trim: true) do
      {:ok, for(line <- lines, do: line |> String.split("\t") |> run())}
    else
      {:error, reason} -> {:error, "#{path}: #{:file.format_error(reason)}"}
      _ -> {:error, "#{path} is no record of an arena"}
    end
  end

  defp run([shape, workers, limit, rate, seconds, canary, status, hung, kills, peak | facts]) do
    job = %Job{
      shape: String.to_existing_atom(shape),
      workers: number(workers),
      limit_bytes: number(limit),
      bytes_per_s: if(rate == "unlimited", do: :unlimited, else: number(rate)),
      seconds: number(seconds),
      canary: if(canary == "high", do: :high, else: :normal)
    }

    facts = for {key, text} <- Enum.zip(@facts, facts), text != "-", do: {key, number(text)}
    seen = [status: number(status), hung?: hung == "true"]

    struct!(
      Run,
      [job: job, log: "", facts: facts, oom_kills: number(kills), peak: number(peak)] ++ seen
    )
  end

  defp number("-"), do: nil
  defp number(text), do: String.to_integer(text)
end
