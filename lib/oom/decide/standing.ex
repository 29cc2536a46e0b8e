defmodule OOM.Standing do
  @moduledoc false
  # Tells which processes make the growth that goes on while workers stand still: pure, for OOM.Throttle.
  #
  # A stand is short, and the kernel charges memory in batches, so a single stand shows nothing of slow growth.
  # Growth is added up over stands until the sum is a rate. Such growth comes from the workers that were left
  # alone, or from no worker at all. To tell, all workers stand for as long again: growth that goes on in that
  # time comes from no worker.

  alias OOM.Limits
  alias OOM.Limits.Turn

  defstruct bytes: 0, most: 0, ms: 0, all?: false

  @typedoc """
  `most`: the largest growth of a single stand. `all?`: no worker is left alone, which shows whether the growth
  comes from the workers that were.
  """
  @type t :: %__MODULE__{
          bytes: integer(),
          most: non_neg_integer(),
          ms: non_neg_integer(),
          all?: boolean()
        }

  @doc """
  What memory has grown by in so many ms in which workers stood still; negative where it has shrunk.
  """
  @spec add(t(), integer(), non_neg_integer()) :: t()
  def add(%{bytes: sum, most: most} = standing, bytes, ms),
    do: %{standing | bytes: sum + bytes, most: max(most, bytes), ms: standing.ms + ms}

  @doc """
  What it shows by now: `:own` where nothing grows without those that run; `:all` where it takes all that
  stand to tell; `:foreign` where growth goes on although all stand; or nothing yet, `:wait`.
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

  @doc "From now on all workers stand, because memory grows without the workers that run."
  @spec all() :: t()
  def all, do: %__MODULE__{all?: true}

  @doc "Whether the growth that the workers' figures show explains a part of this growth."
  @spec explained?(t(), non_neg_integer()) :: boolean()
  def explained?(%{bytes: bytes, ms: ms}, grown_bytes) do
    lately = div(bytes * Limits.grown_ms(), max(ms, 1))
    grown_bytes >= Limits.grown_bytes() and grown_bytes * Limits.cause_share() >= lately
  end

  @doc "Whether nothing was seen so far that would become a verdict of growth."
  @spec quiet?(t()) :: boolean()
  def quiet?(standing), do: not standing.all? and not grows?(standing)

  # The largest single step does not count: the kernel may charge a run late.
  defp grows?(%{bytes: bytes, most: most, ms: ms}) do
    bytes = bytes - most
    bytes >= Turn.noise_bytes() and bytes * 1_000 >= Limits.growth_bytes_per_s() * ms
  end
end
