%% @doc A supervisor as OTP's `supervisor', which holds children killed under memory pressure instead of
%% restarting them into it, and starts them again when there is room.
%%
%% The behaviour is that of `supervisor': `init/1' returns `{ok, {Flags, ChildSpecs}}' or `ignore'. A map of
%% flags may have the key `oom' with options for all children (see oom:option/0). All functions of `supervisor'
%% work on an oom_supervisor: `supervisor:start_child/2', `which_children/1' and so on.
-module(oom_supervisor).

-export([start_link/2, start_link/3]).
-export_type([name/0]).

-type name() :: {local, atom()} | {global, term()} | {via, module(), term()}.

-callback init(Args :: term()) ->
    {ok, {supervisor:sup_flags() | #{atom() => term()}, [supervisor:child_spec()]}} | ignore.

%% @doc Starts a supervisor without a name; as supervisor:start_link/2.
-spec start_link(module(), term()) -> supervisor:startlink_ret().
start_link(Module, Args) ->
    'Elixir.OOM.Supervisor':start_link(Module, Args, []).

%% @doc Starts a supervisor with a name: `{local, Name}', `{global, Name}' or `{via, Module, Name}'; as
%% supervisor:start_link/3.
-spec start_link(name(), module(), term()) -> supervisor:startlink_ret().
start_link({local, Name}, Module, Args) when is_atom(Name) ->
    'Elixir.OOM.Supervisor':start_link(Module, Args, [{name, Name}]);
start_link({global, _} = Name, Module, Args) ->
    'Elixir.OOM.Supervisor':start_link(Module, Args, [{name, Name}]);
start_link({via, _, _} = Name, Module, Args) ->
    'Elixir.OOM.Supervisor':start_link(Module, Args, [{name, Name}]);
start_link(Name, Module, Args) ->
    erlang:error(badarg, [Name, Module, Args]).
