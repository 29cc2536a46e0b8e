defmodule OOM.Waiting do
  @moduledoc false
  # Where processes of OTP and Elixir stand while they wait for a message. The status of a suspended process does not
  # tell whether the process waits; the current function does, and is read without a signal from a process that waits
  # or is suspended.
  #
  # A hundred acceptors that waited for a connection were once taken for workers without a turn, and each for as dear as
  # the dearest request.

  # In its loop a process reads the next message, whatever the message is.
  @loops [gen_server: :loop, gen_statem: :loop_receive, gen_event: :fetch_msg, erlang: :hibernate]
  # For the answer of another process. In Elixir 1.18 and later Task.await stands in a function of its own.
  @answers [{:gen, :do_call}, {Task, :await}, {Task, :await_receive}, {Task, :await_many}]
  @sockets [prim_inet: :accept0, prim_inet: :recv0]
  @clocks [{:timer, :sleep}, {Process, :sleep}]
  @all @loops ++ @answers ++ @sockets ++ @clocks

  @type place :: {module(), function :: atom()} | nil

  @doc "Returns the function in which a process stands; `nil` where the process has ended."
  @spec place(pid()) :: place()
  def place(pid) do
    case :erlang.process_info(pid, :current_function) do
      {_, {module, function, _arity}} -> {module, function}
      _ -> nil
    end
  end

  @doc "Tells whether a process that stands there waits for a message."
  @spec waits?(place()) :: boolean()
  def waits?(place), do: place in @all

  @doc "Tells whether a process that stands there reads the next message at once."
  @spec loop?(place()) :: boolean()
  def loop?(place), do: place in @loops

  @doc "Tells whether a process that stands there fails when the process it waits for ends. Task.yield does not fail."
  @spec answer?(place()) :: boolean()
  def answer?(place), do: place in @answers
end
