defmodule Rivals.Memsup do
  @moduledoc false
  # OTP's memory monitor, os_mon's memsup, and a handler acting on both of its alarms.
  #
  # memsup compares with the memory of the host; the limit may be a small part of the host. So its
  # watermarks are set to the share of the host that 80 % and 5 % (its defaults) of the limit make
  # up. memsup looks once a minute, the shortest interval it accepts. `:each_second` sends memsup
  # the undocumented message memsup sends to itself: the best memsup could do on request.
  @behaviour Arena.Guard

  alias Rivals.{Alarms, Largest, Plain}

  @system 0.80
  @process 0.05

  @impl true
  def start(every, job) do
    Application.put_env(:os_mon, :start_cpu_sup, false)
    Application.put_env(:os_mon, :start_disksup, false)
    {:ok, _} = Application.ensure_all_started(:os_mon)
    {total, used, _worst} = :memsup.get_memory_data()
    before = used - :erlang.memory(:total)
    :ok = :memsup.set_sysmem_high_watermark(min((before + @system * job.limit_bytes) / total, 1))
    :ok = :memsup.set_procmem_high_watermark(min(@process * job.limit_bytes / total, 1))

    nil = Largest.kill()
    every_ms = if every == :each_second, do: 1_000, else: :memsup.get_check_interval()
    # Replaces the handler that only logs.
    handlers = [{:alarm_handler, :swap}, {Alarms, every_ms}]
    :ok = apply(:gen_event, :swap_handler, [:alarm_handler | handlers])
    if every == :each_second, do: spawn_link(fn -> ask(every_ms) end)
  end

  @impl true
  defdelegate supervisor(children, oom), to: Plain

  defp ask(every_ms) do
    Process.sleep(every_ms)
    send(:memsup, :time_to_collect)
    ask(every_ms)
  end
end

defmodule Rivals.Alarms do
  @moduledoc false
  # Kills the largest worker when memsup raises an alarm, and again after each of memsup's looks
  # while the alarm stands: memsup reports only changes.
  @behaviour :gen_event

  alias Rivals.Largest

  @ours [:system_memory_high_watermark, :process_memory_high_watermark]

  @impl true
  # The state of the replaced handler comes along.
  def init({every_ms, _alarms}), do: {:ok, {every_ms, []}}

  @impl true
  def handle_event({:set_alarm, {id, _}}, {every_ms, standing}) when id in @ours do
    again(id, every_ms)
    {:ok, {every_ms, [id | standing]}}
  end

  def handle_event({:clear_alarm, id}, {every_ms, standing}),
    do: {:ok, {every_ms, List.delete(standing, id)}}

  def handle_event(_other, state), do: {:ok, state}

  @impl true
  def handle_info({:look, id}, {every_ms, standing}) do
    if id in standing, do: again(id, every_ms)
    {:ok, {every_ms, standing}}
  end

  def handle_info(_other, state), do: {:ok, state}

  @impl true
  def handle_call(_request, state), do: {:ok, :ok, state}

  defp again(id, every_ms) do
    Largest.kill()
    Process.send_after(self(), {:look, id}, every_ms)
  end
end
