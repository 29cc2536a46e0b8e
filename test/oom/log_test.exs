defmodule OOM.LogTest do
  use ExUnit.Case, async: true

  require OOM.Log, as: Log

  # Keeps the events of the test's own process.
  defmodule Keep do
    def log(%{meta: %{pid: pid}} = event, %{config: %{pid: pid}}), do: send(pid, {:event, event})
    def log(_event, _config), do: :ok
  end

  setup do
    id = :"#{__MODULE__}.#{System.unique_integer([:positive])}"
    :ok = :logger.add_handler(id, Keep, %{config: %{pid: self()}})
    on_exit(fn -> :logger.remove_handler(id) end)
  end

  test "an event says where it comes from, and has no domain: OTP's default handler drops all but its own" do
    assert :ok = Log.warning("memory is short")
    assert_receive {:event, %{level: :warning, msg: {:string, "memory is short"}, meta: meta}}
    assert {__MODULE__, _function, 1} = meta.mfa
    assert List.to_string(meta.file) == "test/oom/log_test.exs"
    refute Map.has_key?(meta, :domain)
  end

  test "a function is called for an event that is logged, and for no other" do
    test = self()
    Log.error(fn -> "called" end)
    assert_receive {:event, %{level: :error, msg: {:string, "called"}}}

    :ok = :logger.set_module_level(__MODULE__, :critical)
    on_exit(fn -> :logger.unset_module_level(__MODULE__) end)
    Log.error(fn -> send(test, :called) && "not called" end)
    refute_received :called
    refute_received {:event, _}
  end
end
