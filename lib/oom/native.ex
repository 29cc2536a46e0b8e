defmodule OOM.Native do
  @moduledoc false
  # Stubs of the NIFs in native/oom_nif, and their loading. Where the library cannot be loaded, the module
  # loads all the same: `loaded?/0` returns false, `load_error/0` returns the reason, and all further
  # functions raise `:nif_not_loaded`.
  #
  # A watcher sends its owner `{:oom_watch, :level | :tick, report}`, `{:oom_watch, :problem, message}` when
  # a source cannot be read any more, and `{:oom_watch, :down, message}` when the watcher's thread ends by a
  # panic.

  @on_load :load
  @load_error {__MODULE__, :load_error}

  @type watcher :: reference()
  @type settled :: reference()
  @type level :: :normal | :elevated | :high | :critical
  @type report :: %{required(atom()) => term()}

  @spec watcher_start(pid(), map()) :: {:ok, watcher()} | {:error, {atom(), String.t()}}
  def watcher_start(_owner, _config), do: not_loaded()

  @spec watcher_ack(watcher()) :: :ok
  def watcher_ack(_watcher), do: not_loaded()

  @spec watcher_feed(watcher(), non_neg_integer()) :: :ok
  def watcher_feed(_watcher, _usage_bytes), do: not_loaded()

  @spec watcher_slack(watcher(), non_neg_integer()) :: :ok
  def watcher_slack(_watcher, _bytes), do: not_loaded()

  @spec watcher_workers(watcher(), boolean()) :: :ok
  def watcher_workers(_watcher, _any?), do: not_loaded()

  @spec watcher_sample(watcher()) :: :ok
  def watcher_sample(_watcher), do: not_loaded()

  @spec watcher_stop(watcher()) :: :ok
  def watcher_stop(_watcher), do: not_loaded()

  @spec watcher_report(watcher()) :: report() | nil
  def watcher_report(_watcher), do: not_loaded()

  # One atomic word, and no garbage.
  @spec watcher_samples(watcher()) :: non_neg_integer()
  def watcher_samples(_watcher), do: not_loaded()

  @spec watcher_level(watcher()) :: level()
  def watcher_level(_watcher), do: not_loaded()

  @spec watcher_alive(watcher()) :: boolean()
  def watcher_alive(_watcher), do: not_loaded()

  @spec watcher_priority_raised(watcher()) :: boolean()
  def watcher_priority_raised(_watcher), do: not_loaded()

  @spec trim() :: :ok | :unsupported
  def trim, do: not_loaded()

  @spec trim_supported() :: boolean()
  def trim_supported, do: not_loaded()

  @spec settled_new() :: settled()
  def settled_new, do: not_loaded()

  # Processes of this node alone; anything else is a bad argument.
  @spec settled_begin(settled(), [pid()]) :: [pid()]
  def settled_begin(_settled, _processes), do: not_loaded()

  @spec settled_end(settled(), [pid()]) :: :ok
  def settled_end(_settled, _outside), do: not_loaded()

  @doc false
  @spec loaded() :: boolean()
  def loaded, do: not_loaded()

  @spec loaded?() :: boolean()
  def loaded? do
    loaded()
  rescue
    ErlangError -> false
  end

  @spec load_error() :: String.t() | nil
  def load_error, do: :persistent_term.get(@load_error, nil)

  @doc false
  @spec load() :: :ok | {:error, term()}
  def load do
    path = path()

    case :erlang.load_nif(String.to_charlist(path), 0) do
      :ok ->
        :persistent_term.erase(@load_error)
        :ok

      # The old version of the module has the library, and a thread may run there. Refused, the VM keeps the
      # old version; stubs in its place would blind the guard.
      {:error, {:upgrade, _}} = refused ->
        refused

      {:error, {_reason, message}} ->
        :persistent_term.put(@load_error, "#{path}: #{message}")
        :ok
    end
  end

  # Without the suffix: load_nif adds it.
  defp path do
    case System.get_env("OOM_NATIVE_PATH") do
      unset when unset in [nil, ""] -> Path.join(priv_dir(), "oom_nif")
      path -> Path.rootname(path, ".so")
    end
  end

  defp priv_dir do
    case :code.priv_dir(:oom) do
      {:error, :bad_name} -> "priv"
      path -> path
    end
  end

  defp not_loaded, do: :erlang.nif_error(:nif_not_loaded)
end
