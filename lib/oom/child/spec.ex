defmodule OOM.Child.Spec do
  @moduledoc false
  # Child specifications whose start is wrapped in OOM.Child, and what the user gave, from these: pure, but that OTP
  # forgets the arguments of some children.

  alias OOM.Child
  alias OOM.Child.Options
  alias OOM.Supervisor.Children

  @doc "Wraps the start of a child specification; options already wrapped in win over `options`."
  @spec wrap(Supervisor.child_spec(), keyword()) :: Supervisor.child_spec()
  # The facts are taken again: the specification may have been changed since, with its id.
  def wrap(%{start: {Child, :start_link, [mfa, _id, inner]}} = spec, options) do
    options = Keyword.merge(options, Options.take(inner))
    %{spec | start: {Child, :start_link, [mfa, Map.get(spec, :id), facts(spec) ++ options]}}
  end

  def wrap(%{start: {module, function, args} = mfa} = spec, options)
      when is_atom(module) and is_atom(function) and is_list(args) do
    start = {Child, :start_link, [mfa, Map.get(spec, :id), facts(spec) ++ options]}
    # The default, which the supervisor would take from the wrapper.
    spec |> Map.put_new(:modules, [module]) |> Map.put(:start, start)
  end

  # Erlang's tuple form.
  def wrap({id, {module, function, args} = mfa, restart, shutdown, type, modules}, options)
      when is_atom(module) and is_atom(function) and is_list(args) do
    facts = [type: type, shutdown: shutdown, restart: restart]
    {id, {Child, :start_link, [mfa, id, facts ++ options]}, restart, shutdown, type, modules}
  end

  # Anything else is the supervisor's to refuse.
  def wrap(other, _options), do: other

  @doc "What a start function that was wrapped tells of its child."
  @spec options({module(), atom(), [term()] | :undefined}) :: keyword()
  def options({Child, :start_link, [_mfa, _id, options]}), do: options
  def options(_other), do: []

  @doc "The specification as the user gave it."
  @spec unwrap(Supervisor.child_spec() | tuple()) :: Supervisor.child_spec() | tuple()
  def unwrap(%{id: id, start: start} = spec), do: %{spec | start: unwrap_mfa(start, id)}

  # OTP's record of a child, as errors tell it.
  def unwrap(record) when is_tuple(record) and elem(record, 0) == :child,
    do: put_elem(record, 3, unwrap_mfa(elem(record, 3), elem(record, 2)))

  def unwrap(other), do: other

  @doc "The start function as the user gave it, of the child `id` of the calling supervisor."
  @spec unwrap_mfa(term(), term()) :: term()
  def unwrap_mfa({Child, :start_link, [mfa, _id, _options]}, _), do: mfa

  # OTP keeps no arguments of a temporary child that was added later.
  def unwrap_mfa({Child, :start_link, :undefined} = mfa, id) do
    with pid when is_pid(pid) <- Children.pid(id),
         {_id, [{:start, {module, function}} | _]} <- Children.get(pid) do
      {module, function, :undefined}
    else
      _ -> mfa
    end
  end

  def unwrap_mfa(mfa, _id), do: mfa

  defp facts(spec),
    do: spec |> Map.take([:type, :shutdown, :restart, :significant]) |> Map.to_list()
end
