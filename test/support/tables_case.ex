defmodule OOM.Test.TablesCase do
  @moduledoc false
  # The tables alone, empty, without the processes working on them. Not for async tests: the
  # application is stopped meanwhile.

  use ExUnit.CaseTemplate

  setup_all do
    :ok = Application.stop(:oom)
    on_exit(fn -> :ok = Application.start(:oom) end)
  end

  setup do
    start_supervised!({OOM.Tables, OOM.Config.new!([])})
    :ok
  end

  using do
    quote do
      import OOM.Test.TablesCase
    end
  end

  @doc "Starts an idle process unknown to the library."
  @spec idle() :: pid()
  def idle, do: ExUnit.Callbacks.start_supervised!({Agent, fn -> nil end}, id: make_ref())
end
