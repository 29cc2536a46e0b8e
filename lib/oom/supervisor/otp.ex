defmodule OOM.Supervisor.Otp do
  @moduledoc false
  # What is asked of OTP's `:supervisor`, which keeps the state, in the supervisor itself: each call is a callback of
  # OTP's, whose state nobody else reads.
  #
  # From OTP 28 on, what `:supervisor` returns may end with an action for `:gen_server` (a timer
  # after which the supervisor hibernates). The action is passed on where a return is, see `split/1` and `idle/1`.

  alias OOM.Supervisor.Children

  @typedoc "OTP's state, and an action where there is one."
  @type rest :: [term()]

  @doc "A reply, and the rest of what was returned."
  @spec split(tuple()) :: {term(), rest()}
  def split(reply) do
    [:reply, result | rest] = Tuple.to_list(reply)
    {result, rest}
  end

  @spec reply(term(), rest()) :: tuple()
  def reply(result, rest), do: List.to_tuple([:reply, result | rest])

  @doc """
  Nothing more to do; with the action that OTP wants now. OTP answers a question that changes nothing with just
  that.
  """
  @spec idle(term()) :: tuple()
  def idle(state) do
    request = {:get_childspec, make_ref()}
    {_, rest} = split(:supervisor.handle_call(request, from(), state))
    List.to_tuple([:noreply | rest])
  end

  @spec childspec(term(), term()) :: Supervisor.child_spec()
  def childspec(id, state) do
    {{:ok, spec}, _} = split(:supervisor.handle_call({:get_childspec, id}, from(), state))
    spec
  end

  @doc "In start order."
  @spec children(term()) :: [{id :: term(), pid() | :undefined | :restarting}]
  def children(state) do
    {children, _} = split(:supervisor.handle_call(:which_children, from(), state))
    for {id, pid, _, _} <- Enum.reverse(children), do: {id, pid}
  end

  @doc """
  The child is dead and its exit already taken from the mailbox. `terminate_child` is what
  leaves a specification without a process and without a restart; put back as the exit that
  terminate_child expects, the exit also leaves no error report.
  """
  @spec end_quietly(pid(), Supervisor.child_spec(), term()) :: term()
  def end_quietly(pid, spec, state) do
    expected = if spec.shutdown == :brutal_kill, do: :killed, else: :shutdown
    send(self(), {:EXIT, pid, expected})
    terminate_child(spec.id, state)
  end

  @spec terminate_child(term(), term()) :: term()
  def terminate_child(id, state) do
    {_, [state | _]} = split(:supervisor.handle_call({:terminate_child, id}, from(), state))
    Children.forget(id)
    state
  end

  # Nobody waits for an answer.
  defp from, do: {self(), make_ref()}
end
