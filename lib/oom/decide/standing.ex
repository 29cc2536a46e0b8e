defmodule OOM.Standing do
  @moduledoc false
  # Tells which processes grow while workers stand still: pure, for OOM.Throttle.
  #
  # A stand is short, and the kernel charges memory in batches, so a single stand shows nothing of slow
  # growth. Growth is added up over stands until the sum is a rate. Such growth comes from the workers left
  # alone, or is foreign. To tell, all workers stand for as long again: growth in that time is foreign.

  alias OOM.Limits
  alias OOM.Limits.Turn

  defstruct bytes: 0, most: 0, ms: 0, all?: false

  @typedoc """
  `most`: the largest growth of a single stand. `all?`: no worker is left alone, which shows whether the
  growth comes from the workers that were.
  """
  @type t :: %__MODULE__{
          bytes: integer(),
          most: non_neg_integer(),
          ms: non_neg_integer(),
          all?: boolean()
        }

  @doc """
  Adds the growth of memory, in bytes, in `ms` of a stand; negative where memory has shrunk.
  """
  @spec add(t(), integer(), non_neg_integer()) :: t()
  def add(%{bytes: sum, most: most} = standing, bytes, ms),
    do: %{standing | bytes: sum + bytes, most: max(most, bytes), ms: standing.ms + ms}

  @doc """
  Returns the verdict: `:own` where nothing grows without the running workers; `:all` where only a stand of
  all workers can tell; `:foreign` where growth goes on although all stand; `:wait` where it is too soon.
  """
  @spec judge(t()) :: {:own | :all | :foreign | :wait, t()}
  def judge(%{ms: ms, all?: all?} = standing) do
    cond do
      ms >= Turn.verdict_ms() and grows?(standing) and all? -> {:foreign, %__MODULE__{}}
      ms >= Turn.verdict_ms() and grows?(standing) -> {:all, all()}
      ms >= Turn.own_ms() -> {:own, %__MODULE__{}}
      true -> {:wait, standing}
    end
  end

  @doc "Begins a stand of all workers, because memory grows without the running workers."
  @spec all() :: t()
  def all, do: %__MODULE__{all?: true}

  @doc "Tells whether the growth in the workers' figures explains a part of this growth."
  @spec explained?(t(), non_neg_integer()) :: boolean()
  def explained?(%{bytes: bytes, ms: ms}, grown_bytes) do
    lately = div(bytes * Limits.grown_ms(), max(ms, 1))
    grown_bytes >= Limits.grown_bytes() and grown_bytes * Limits.cause_share() >= lately
  end

  @doc "Tells whether nothing points to a verdict of growth so far."
  @spec quiet?(t()) :: boolean()
  def quiet?(standing), do: not standing.all? and not grows?(standing)

  # The largest single step does not count: the kernel may charge a run late.
  defp grows?(%{bytes: bytes, most: most, ms: ms}) do
    bytes = bytes - most
    bytes >= Turn.noise_bytes() and bytes * 1_000 >= Limits.growth_bytes_per_s() * ms
  end
end
