defmodule OOM.Standing do
  @moduledoc false
  # Whose growth it is that goes on while workers stand still: pure, for OOM.Throttle.
  #
  # A stand is short, and the kernel charges in batches: of slow growth a single stand shows nothing. So it
  # is added up over stands until it is a rate. Where it is one, it is of those that were left alone, or of
  # nobody's here: then all stand for as long again, and what grows on in that time is none of theirs.

  alias OOM.Limits

  # So much standing tells, in ms: three stands. And after so much without growth there is none.
  @least_ms 45
  @most_ms 300
  # Less than this is what the kernel charges in advance on a few CPUs, and others' noise.
  @least_bytes 524_288

  defstruct bytes: 0, most: 0, ms: 0, all?: false

  @typedoc """
  `most` is the most of a single time; `all?`: nobody is left alone, so that it shows whether the growth is of
  those that were.
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
      ms >= @least_ms and grows?(standing) and all? -> {:foreign, %__MODULE__{}}
      ms >= @least_ms and grows?(standing) -> {:all, all()}
      ms >= @most_ms -> {:own, %__MODULE__{}}
      true -> {:wait, standing}
    end
  end

  @doc "From now on all stand: growth was seen to go on without those that run."
  @spec all() :: t()
  def all, do: %__MODULE__{all?: true}

  @doc "Whether what workers are known to have grown by lately is a part of this growth."
  @spec explained?(t(), non_neg_integer()) :: boolean()
  def explained?(%{bytes: bytes, ms: ms}, grown_bytes) do
    lately = div(bytes * Limits.grown_ms(), max(ms, 1))
    grown_bytes >= Limits.grown_bytes() and grown_bytes * Limits.cause_share() >= lately
  end

  @doc "Whether nothing was seen by now that would show such growth if it went on."
  @spec quiet?(t()) :: boolean()
  def quiet?(standing), do: not standing.all? and not grows?(standing)

  # What came all at once may be of a run that is over, charged late.
  defp grows?(%{bytes: bytes, most: most, ms: ms}) do
    bytes = bytes - most
    bytes >= @least_bytes and bytes * 1_000 >= Limits.growth_bytes_per_s() * ms
  end
end
