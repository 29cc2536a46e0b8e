defmodule OOM.Supervisor.Otp do
  @moduledoc false
  # Requests to OTP's `:supervisor`, which keeps the state, from inside the supervisor process: each call is
  # a callback of OTP's, and no other code reads the state.
  #
  # From OTP 28 on, the result of a callback may end with an action for `:gen_server` (a timer after which
  # the supervisor hibernates). `split/1` and `idle/1` pass the action on.

  alias OOM.Supervisor.Children

  @typedoc "OTP's state, and an action if there is one."
  @type rest :: [term()]

  @doc "Splits a reply into its result and the rest."
  @spec split(tuple()) :: {term(), rest()}
  def split(reply) do
    [:reply, result | rest] = Tuple.to_list(reply)
    {result, rest}
  end

  @spec reply(term(), rest()) :: tuple()
  def reply(result, rest), do: List.to_tuple([:reply, result | rest])

  @doc """
  Returns `:noreply` with the state and the action OTP wants now. OTP gives the action in the answer to a
  request that changes nothing.
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

  @doc "Returns the children in start order."
  @spec children(term()) :: [{id :: term(), pid() | :undefined | :restarting}]
  def children(state) do
    {children, _} = split(:supervisor.handle_call(:which_children, from(), state))
    for {id, pid, _, _} <- Enum.reverse(children), do: {id, pid}
  end

  @doc """
  Ends a child that is dead and whose exit has left the mailbox. `terminate_child` keeps the specification,
  without a process and without a restart. Put back with the reason terminate_child expects, the exit
  leaves no error report either.
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

  # No process waits for the answer.
  defp from, do: {self(), make_ref()}
end
