%% An oom_supervisor is a supervisor: names, flags, specifications, errors.
-module(oom_supervisor_tests).
-behaviour(oom_supervisor).

-include_lib("eunit/include/eunit.hrl").

-export([init/1]).

-define(LEDGER, #{id => ledger, start => {leaky_ledger, start_link, []}}).

init(Result) -> Result.

oom_supervisor_test_() ->
    oom_fixture:with_oom([
      fun takes_the_names_of_otp/0,
      fun takes_flags_as_map_and_tuple/0,
      fun starts_restarts_and_ends_children/0,
      fun may_ignore/0,
      fun refuses_what_otp_refuses/0,
      fun gives_up_as_otp_does/0
    ]).

takes_the_names_of_otp() ->
    Empty = {ok, {#{}, []}},
    {ok, Local} = oom_supervisor:start_link({local, here}, ?MODULE, Empty),
    ?assertEqual(Local, whereis(here)),
    ?assertEqual({error, {already_started, Local}},
                 oom_supervisor:start_link({local, here}, ?MODULE, Empty)),
    {ok, Global} = oom_supervisor:start_link({global, there}, ?MODULE, Empty),
    ?assertEqual(Global, global:whereis_name(there)),
    {ok, Via} = oom_supervisor:start_link({via, global, elsewhere}, ?MODULE, Empty),
    ?assertEqual(Via, global:whereis_name(elsewhere)),
    {ok, None} = oom_supervisor:start_link(?MODULE, Empty),
    ?assertError(badarg, oom_supervisor:start_link(here, ?MODULE, Empty)),
    lists:foreach(fun stop/1, [Local, Global, Via, None]).

takes_flags_as_map_and_tuple() ->
    Flags = [{one_for_one, 1, 5}, #{}, #{strategy => rest_for_one, intensity => 2, period => 9},
             #{oom => [{priority, low}]}],
    lists:foreach(
        fun(Flag) ->
            {ok, Pid} = oom_supervisor:start_link(?MODULE, {ok, {Flag, [?LEDGER]}}),
            ?assertMatch([{ledger, _, worker, [leaky_ledger]}], supervisor:which_children(Pid)),
            stop(Pid)
        end, Flags).

starts_restarts_and_ends_children() ->
    {ok, Pid} = oom_supervisor:start_link(?MODULE, {ok, {#{intensity => 2}, []}}),
    {ok, First} = supervisor:start_child(Pid, ?LEDGER),
    {ok, Spec} = supervisor:get_childspec(Pid, ledger),
    ?assertMatch(#{start := {leaky_ledger, start_link, []}}, Spec),
    Ref = monitor(process, First),
    exit(First, kill),
    receive {'DOWN', Ref, process, First, killed} -> ok end,
    %% The answer comes after the restart.
    [{ledger, Second, worker, _}] = supervisor:which_children(Pid),
    ?assert(is_pid(Second) andalso Second =/= First),
    ?assertEqual(ok, supervisor:terminate_child(Pid, ledger)),
    ?assertEqual(ok, supervisor:delete_child(Pid, ledger)),
    ?assertEqual([], supervisor:which_children(Pid)),
    stop(Pid).

may_ignore() ->
    ?assertEqual(ignore, oom_supervisor:start_link(?MODULE, ignore)).

refuses_what_otp_refuses() ->
    process_flag(trap_exit, true),
    Bad = [{ok, {#{strategy => some}, []}}, {ok, {#{intensity => -1}, []}}, {ok, {#{}, [#{}]}}, nonsense],
    lists:foreach(
        fun(Init) ->
            %% Both have the same reason, but for the module that was started.
            Ours = oom_supervisor:start_link(?MODULE, Init),
            await_exit(),
            ?assertEqual(supervisor:start_link(?MODULE, Init), Ours),
            await_exit()
        end, Bad),
    process_flag(trap_exit, false).

%% The caller may have the error before the process has ended.
await_exit() -> receive {'EXIT', _, _} -> ok end.

gives_up_as_otp_does() ->
    process_flag(trap_exit, true),
    {ok, Pid} = oom_supervisor:start_link(?MODULE, {ok, {#{intensity => 0}, [?LEDGER]}}),
    exit(whereis(leaky_ledger), kill),
    receive {'EXIT', Pid, Reason} -> ?assertEqual(shutdown, Reason) end,
    process_flag(trap_exit, false).

stop(Pid) ->
    unlink(Pid),
    gen_server:stop(Pid).
