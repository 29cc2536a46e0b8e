defmodule OOM.Snapshot do
  @moduledoc """
  The state of memory at one moment.

  All `_bytes` fields are bytes, `_ms` fields milliseconds. A field is `nil` where the figure is
  unknown; 0 always means zero.

    * `:level` - `:normal`, `:elevated`, `:high` or `:critical`
    * `:source` - the limit that binds, nearest to its floor, the headroom that
      has to stay free: `:cgroup_v2` (`memory.max`), `:cgroup_v2_high` (`memory.high`),
      `:cgroup_v1` (`memory.limit_in_bytes`), `:cgroup_v1_memsw` (`memory.memsw.limit_in_bytes`,
      memory and swap together), `:host` (MemAvailable), `:rlimit_as`, `:rlimit_data`, `:commit`
      (CommitLimit, in overcommit mode 2), `:configured` (`limit:`), or `:none`
    * `:file` - the file the limit was read from
    * `:cgroup` - the cgroup the limit belongs to, the VM's own or an ancestor
    * `:limit_bytes`, `:usage_bytes` - the limit, and the usage charged against it at the same place
    * `:reclaimable_bytes` - the part of the usage that the kernel takes back by itself before it kills:
      pages of files, whether read once or often, and reclaimable slab. A reserve stays used: program
      text up to 1/32 of the limit (at most 32 MiB), pages not yet written up to 1/16
      (at most 128 MiB), pages being written, and pages taken and read again all the time.
      Shared memory and files in a tmpfs are not reclaimable. cgroup v1 does not tell its slab,
      which is inferred. 0 where the usage has no such part (`:host`, rlimits)
    * `:working_set_bytes` - usage less the reclaimable bytes
    * `:headroom_bytes` - limit less working set
    * `:critical_headroom_bytes` - the floor: with less headroom the guard acts at once
    * `:elevated_headroom_bytes`, `:high_headroom_bytes` - the level begins when the headroom is
      smaller, or when growth would reach the floor soon
    * `:slack_bytes` - the part of the working set that is free inside the VM's carriers: the system does
      not get slack back, but the VM uses slack before it grows. Slack counts as headroom for the level;
      `nil` while there is no need to measure
    * `:growth_bytes_per_s` - how fast the working set grows; negative when it shrinks
    * `:surge_bytes_per_s` - the same over the last 4 ms, and never negative; `:trend_bytes_per_s` -
      over the last 60 ms; `:drift_bytes_per_s` - over the last 1.2 s, as of workers that take a step
      now and then, and never negative
    * `:peak_bytes` - the highest working set of the last 10 s
    * `:time_to_exhaustion_ms` - until the floor is reached, at the fastest of growth, surge and drift; `nil`
      when nothing grows
    * `:ledger` - whose the working set is, an `OOM.Ledger`; only in a snapshot of `OOM.snapshot/0`, `nil` in
      one of a message or a callback
    * `:rss_bytes` - resident memory of this VM
    * `:swap_limit_bytes`, `:swap_usage_bytes`
    * `:psi_some_avg10`, `:psi_full_avg10` - percent of the last 10 s in which some or all tasks
      stalled on memory; `:psi_some_total_us`, `:psi_full_total_us` - since boot
    * `:interval_us` - until the next sample; `:age_us` - since the last; `:samples` - how many
  """

  alias OOM.{Native, Tables}

  @fields [
    :level,
    :source,
    :file,
    :cgroup,
    :limit_bytes,
    :usage_bytes,
    :reclaimable_bytes,
    :working_set_bytes,
    :headroom_bytes,
    :elevated_headroom_bytes,
    :high_headroom_bytes,
    :critical_headroom_bytes,
    :slack_bytes,
    :growth_bytes_per_s,
    :surge_bytes_per_s,
    :drift_bytes_per_s,
    :trend_bytes_per_s,
    :peak_bytes,
    :time_to_exhaustion_ms,
    :rss_bytes,
    :ledger,
    :swap_limit_bytes,
    :swap_usage_bytes,
    :psi_some_avg10,
    :psi_some_total_us,
    :psi_full_avg10,
    :psi_full_total_us,
    :interval_us,
    :age_us,
    :samples
  ]

  defstruct [level: :normal, source: :none] ++ (@fields -- [:level, :source])

  @type bytes :: non_neg_integer()
  @type source ::
          :cgroup_v2
          | :cgroup_v2_high
          | :cgroup_v1
          | :cgroup_v1_memsw
          | :host
          | :rlimit_as
          | :rlimit_data
          | :commit
          | :configured
          | :none

  @type t :: %__MODULE__{
          level: OOM.level(),
          source: source(),
          file: String.t() | nil,
          cgroup: String.t() | nil,
          limit_bytes: bytes() | nil,
          usage_bytes: bytes() | nil,
          reclaimable_bytes: bytes() | nil,
          working_set_bytes: bytes() | nil,
          headroom_bytes: bytes() | nil,
          elevated_headroom_bytes: bytes() | nil,
          high_headroom_bytes: bytes() | nil,
          critical_headroom_bytes: bytes() | nil,
          slack_bytes: bytes() | nil,
          growth_bytes_per_s: integer() | nil,
          surge_bytes_per_s: bytes() | nil,
          drift_bytes_per_s: bytes() | nil,
          trend_bytes_per_s: integer() | nil,
          peak_bytes: bytes() | nil,
          time_to_exhaustion_ms: non_neg_integer() | nil,
          rss_bytes: bytes() | nil,
          ledger: OOM.Ledger.t() | nil,
          swap_limit_bytes: bytes() | nil,
          swap_usage_bytes: bytes() | nil,
          psi_some_avg10: float() | nil,
          psi_some_total_us: non_neg_integer() | nil,
          psi_full_avg10: float() | nil,
          psi_full_total_us: non_neg_integer() | nil,
          interval_us: non_neg_integer() | nil,
          age_us: non_neg_integer() | nil,
          samples: non_neg_integer() | nil
        }

  @doc false
  # Without the ledger, which takes longer than all the rest.
  @spec now() :: t()
  def now do
    with watcher when watcher != nil <- Tables.watcher(),
         report when is_map(report) <- Native.watcher_report(watcher) do
      from_report(report)
    else
      _ -> %__MODULE__{}
    end
  end

  @doc false
  # A report is the flat map sent by the watcher; `source` is `nil` where no limit binds.
  @spec from_report(map()) :: t()
  def from_report(report) do
    # The guard adds the growth its throttle has seen; no reader of a snapshot needs the field.
    report = Map.delete(report, :standing_bytes_per_s)
    struct!(__MODULE__, %{report | source: report.source || :none})
  end
end
