%% @doc OOM for Erlang: the functions of the Elixir module OOM in Erlang's terms.
%%
%% Priorities are `low', `normal', `high', `protected' and the integers from 0 to 1000. Bytes and milliseconds
%% are the units wherever a name says so. A wrong argument is `badarg', and the error's description says what
%% was expected. Where nothing else is said, the application `oom' has to run.
-module(oom).

-export([
    set_priority/1, set_priority/2,
    child_spec/2,
    adopt/2,
    level/0,
    admit/1,
    snapshot/0,
    subscribe/0, unsubscribe/0,
    top/1,
    held/0,
    release/2
]).
-export([format_error/2]).

-export_type([priority/0, level/0, option/0, snapshot/0, usage/0, hold/0]).

-type priority() :: low | normal | high | protected | 0..1000.
-type level() :: normal | elevated | high | critical.
-type option() ::
    {priority, priority()}
    | {max_heap_size, pos_integer() | {percent_of_limit, number()} | infinity | map()}
    | {backoff, [{initial_ms | max_ms, pos_integer()}]}
    | {max_kills, pos_integer() | infinity}
    | {handle_pressure, boolean()}
    | {shed, undefined | {fraction, number()} | {fraction, number(), atom()}}
    | {unit, boolean()}.
%% The fields of Elixir's `OOM.Snapshot'; a figure that is not known is `nil'.
-type snapshot() :: #{atom() => term()}.
%% The fields of Elixir's `OOM.Usage'.
-type usage() :: #{atom() => term()}.
%% The fields of Elixir's `OOM.Held'.
-type hold() :: #{atom() => term()}.

%% @doc Declares the priority of the calling worker, usually in `init/1'; in the `init/1' of a supervisor, the
%% priority of all workers below.
-spec set_priority(priority()) -> ok.
set_priority(Priority) ->
    call([Priority], fun() -> 'Elixir.OOM':set_priority(Priority) end).

%% @doc Declares the priority of another worker, or the caller's with options: `max_heap_size' and
%% `handle_pressure'.
-spec set_priority(pid(), priority()) -> ok;
                  (priority(), [option()]) -> ok.
set_priority(PidOrPriority, Other) ->
    call([PidOrPriority, Other], fun() ->
        'Elixir.OOM':set_priority(PidOrPriority, Other)
    end).

%% @doc Returns a child specification, given as a map or a tuple, with options for OOM. Works without the
%% application.
-spec child_spec(supervisor:child_spec(), [option()]) -> supervisor:child_spec().
child_spec(Spec, Options) ->
    call([Spec, Options], fun() -> 'Elixir.OOM':child_spec(map(Spec), Options) end).

map({Id, Start, Restart, Shutdown, Type, Modules}) ->
    #{
        id => Id,
        start => Start,
        restart => Restart,
        shutdown => Shutdown,
        type => Type,
        modules => Modules
    };
map(Spec) when is_map(Spec) ->
    Spec;
map(Other) ->
    erlang:error({expected, "a child specification as a map or a tuple of six", Other}).

%% @doc Guards the workers below a supervisor that others have started: a pid, a registered name, or
%% `{application, Name}' for the top supervisor of an application.
-spec adopt(pid() | atom() | {application, atom()}, [Option]) -> ok when
    Option :: option() | {priorities, [{term(), priority()}]} | {exit_reason, kill | shutdown}.
adopt(Supervisor, Options) ->
    call([Supervisor, Options], fun() -> 'Elixir.OOM':adopt(Supervisor, Options) end).

%% @doc Returns the level of pressure; reads one word, and is `normal' where the application does not run.
-spec level() -> level().
level() -> 'Elixir.OOM':level().

%% @doc Tells whether to admit new work of this priority now.
-spec admit(low | normal | high) -> boolean().
admit(Priority) ->
    call([Priority], fun() -> 'Elixir.OOM':'admit?'(Priority) end).

%% @doc Returns limit, usage, headroom, growth and the ledger as a map.
-spec snapshot() -> snapshot().
snapshot() ->
    call([], fun() -> plain('Elixir.OOM':snapshot()) end).

%% @doc Sends the caller `{oom, Level, Snapshot}' on each change of the level. The snapshot has the key
%% `'__struct__'' besides those of snapshot/0.
-spec subscribe() -> ok.
subscribe() -> call([], fun() -> 'Elixir.OOM':subscribe() end).

%% @doc Ends the caller's subscription.
-spec unsubscribe() -> ok.
unsubscribe() -> call([], fun() -> 'Elixir.OOM':unsubscribe() end).

%% @doc Returns the workers that hold most.
-spec top(pos_integer()) -> [usage()].
top(Count) ->
    call([Count], fun() -> [plain(Usage) || Usage <- 'Elixir.OOM':top(Count)] end).

%% @doc Returns the children that are down because of memory.
-spec held() -> [hold()].
held() -> call([], fun() -> [plain(Held) || Held <- 'Elixir.OOM':held()] end).

%% @doc Brings a held child back now.
-spec release(pid() | atom(), term()) -> ok | {error, term()}.
release(Supervisor, Id) ->
    call([Supervisor, Id], fun() -> 'Elixir.OOM':release({Supervisor, Id}) end).

%% @private
-spec format_error(term(), [term()]) -> #{general => string()}.
format_error(_Reason, [{_Module, _Function, _Arguments, Info} | _]) ->
    case lists:keyfind(error_info, 1, Info) of
        {error_info, #{cause := Cause}} -> #{general => Cause};
        _ -> #{}
    end.

plain(Struct) -> maps:remove('__struct__', Struct).

%% Elixir's ArgumentError is badarg, with the message as its description.
call(Arguments, Fun) ->
    try
        Fun()
    catch
        error:#{'__struct__' := 'Elixir.ArgumentError', message := Message} ->
            badarg(Arguments, unicode:characters_to_list(Message));
        error:{expected, What, Got} ->
            badarg(Arguments, lists:flatten(io_lib:format("expected ~s, got: ~tp", [What, Got])))
    end.

-spec badarg([term()], string()) -> no_return().
badarg(Arguments, Cause) ->
    erlang:error(badarg, Arguments, [{error_info, #{cause => Cause, module => ?MODULE}}]).
