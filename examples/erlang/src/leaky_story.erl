%% Fifty sessions, four of which leak as fast as they can. The node lives, the ledger keeps its sum, and each
%% session that leaked has been killed and is back.
-module(leaky_story).

-export([tell/0]).

-define(SESSIONS, 50).
-define(LEAK, 4).
-define(PATIENCE_MS, 60000).

-spec tell() -> ok.
tell() ->
    Pids = [start(N) || N <- lists:seq(1, ?SESSIONS)],
    ok = leaky_ledger:add(42),
    Ledger = whereis(leaky_ledger),
    {Leaking, Others} = lists:split(?LEAK, Pids),
    Refs = [monitor(process, Pid) || Pid <- Leaking],
    lists:foreach(fun leaky_session:leak/1, Leaking),
    Reasons = [reason(Ref) || Ref <- Refs],
    Lost = length([Pid || Pid <- Others, not is_process_alive(Pid)]),
    Back = back(erlang:monotonic_time(millisecond) + ?PATIENCE_MS),
    Same = whereis(leaky_ledger) =:= Ledger andalso leaky_ledger:sum() =:= 42,
    io:format("story: ~b of ~b leaks ended with ~tp; ~b other sessions lost; ~b of ~b sessions run; ledger intact: ~p~n",
              [length(Reasons), ?LEAK, lists:usort(Reasons), Lost, Back, ?SESSIONS, Same]),
    Well = lists:usort(Reasons) =:= [{shutdown, memory_pressure}] andalso Lost =:= 0
        andalso Back =:= ?SESSIONS andalso Same,
    case Well of
        true -> init:stop(0);
        false -> init:stop(1)
    end.

start(N) ->
    {ok, Pid} = leaky_sessions:start_session(N),
    Pid.

reason(Ref) ->
    receive
        {'DOWN', Ref, process, _Pid, Reason} -> Reason
    after ?PATIENCE_MS -> leaks_still
    end.

%% Sessions come back one by one, after their backoff, where there is room.
back(Until) ->
    Running = proplists:get_value(active, supervisor:count_children(leaky_sessions)),
    Late = erlang:monotonic_time(millisecond) > Until,
    case Running of
        ?SESSIONS -> Running;
        _ when Late -> Running;
        _ -> timer:sleep(100), back(Until)
    end.
