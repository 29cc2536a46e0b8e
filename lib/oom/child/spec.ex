defmodule OOM.Child.Spec do
  @moduledoc false
  # Wraps the start of child specifications in OOM.Child, and unwraps it. Pure, except that OTP forgets the
  # arguments of some children.

  alias OOM.Child
  alias OOM.Child.Options
  alias OOM.Supervisor.Children

  @doc "Wraps the start of a child specification; options from an earlier wrap win over `options`."
  @spec wrap(Supervisor.child_spec(), keyword()) :: Supervisor.child_spec()
  # The facts are read again: the specification and its id may have changed since.
  def wrap(%{start: {Child, :start_link, [mfa, _id, inner]}} = spec, options) do
    options = Keyword.merge(options, Options.take(inner))
    %{spec | start: {Child, :start_link, [mfa, Map.get(spec, :id), facts(spec) ++ options]}}
  end

  def wrap(%{start: {module, function, args} = mfa} = spec, options)
      when is_atom(module) and is_atom(function) and is_list(args) do
    start = {Child, :start_link, [mfa, Map.get(spec, :id), facts(spec) ++ options]}
    # The default, which the supervisor would otherwise derive from the wrapper.
    spec |> Map.put_new(:modules, [module]) |> Map.put(:start, start)
  end

  # Erlang's tuple form.
  def wrap({id, {module, function, args} = mfa, restart, shutdown, type, modules}, options)
      when is_atom(module) and is_atom(function) and is_list(args) do
    facts = [type: type, shutdown: shutdown, restart: restart]
    {id, {Child, :start_link, [mfa, id, facts ++ options]}, restart, shutdown, type, modules}
  end

  # The supervisor refuses anything else.
  def wrap(other, _options), do: other

  @doc "Returns the options in a wrapped start function, `[]` for any other."
  @spec options({module(), atom(), [term()] | :undefined}) :: keyword()
  def options({Child, :start_link, [_mfa, _id, options]}), do: options
  def options(_other), do: []

  @doc "Returns the specification as given by the user."
  @spec unwrap(Supervisor.child_spec() | tuple()) :: Supervisor.child_spec() | tuple()
  def unwrap(%{id: id, start: start} = spec), do: %{spec | start: unwrap_mfa(start, id)}

  # OTP's record of a child, as in errors.
  def unwrap(record) when is_tuple(record) and elem(record, 0) == :child,
    do: put_elem(record, 3, unwrap_mfa(elem(record, 3), elem(record, 2)))

  def unwrap(other), do: other

  @doc "Returns the start function as given by the user, for child `id` of the calling supervisor."
  @spec unwrap_mfa(term(), term()) :: term()
  def unwrap_mfa({Child, :start_link, [mfa, _id, _options]}, _), do: mfa

  # OTP keeps no arguments of a temporary child added later.
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
