%% What an Erlang developer expects of oom: terms, errors, child specifications.
-module(oom_tests).

-include_lib("eunit/include/eunit.hrl").

-define(START, {leaky_ledger, start_link, []}).

oom_test_() ->
    oom_fixture:with_oom([
      fun declares_a_priority/0,
      fun takes_specs_as_maps_and_tuples/0,
      fun tells_the_state_of_memory/0,
      fun errors_are_badarg_and_say_what_was_expected/0,
      fun options_are_named/0,
      fun leaves_the_handlers_of_the_logger/0,
      fun takes_undefined_as_not_set/0
    ]).

declares_a_priority() ->
    ?assertEqual(ok, oom:set_priority(low)),
    ?assertEqual(ok, oom:set_priority(self(), 250)),
    ?assertEqual(ok, oom:set_priority(protected, [{max_heap_size, infinity}])).

takes_specs_as_maps_and_tuples() ->
    Map = oom:child_spec(#{id => ledger, start => ?START}, [{priority, low}]),
    Tuple = oom:child_spec({ledger, ?START, permanent, 5000, worker, [leaky_ledger]}, [{priority, low}]),
    ?assertMatch(#{id := ledger}, Map),
    ?assertMatch(#{id := ledger, restart := permanent, shutdown := 5000}, Tuple),
    ?assertEqual(ok, supervisor:check_childspecs([Map])),
    ?assertEqual(ok, supervisor:check_childspecs([Tuple])).

tells_the_state_of_memory() ->
    ?assert(lists:member(oom:level(), [normal, elevated, high, critical])),
    ?assert(is_boolean(oom:admit(low))),
    ?assertMatch(#{limit_bytes := _, headroom_bytes := _}, oom:snapshot()),
    ?assertEqual(error, maps:find('__struct__', oom:snapshot())),
    ?assertEqual([], oom:held()),
    ?assertEqual(ok, oom:subscribe()),
    ?assertEqual(ok, oom:unsubscribe()).

errors_are_badarg_and_say_what_was_expected() ->
    Calls = [fun() -> oom:set_priority(urgent) end,
             fun() -> oom:admit(7.5) end,
             fun() -> oom:top(-1) end,
             fun() -> oom:child_spec({ledger, ?START}, []) end,
             fun() -> oom:child_spec(#{id => a, start => ?START}, [{max_kills, 0}]) end,
             fun() -> oom:adopt("name", []) end],
    lists:foreach(fun says_what_was_expected/1, Calls).

%% As the shell does: by the module and the cause in the stack trace.
says_what_was_expected(Call) ->
    try Call() of
        Value -> error({no_error, Value})
    catch
        error:badarg:Stack ->
            #{general := Said} = oom:format_error(badarg, Stack),
            ?assertMatch({match, _}, re:run(Said, "^expected .*got: ", [dotall]))
    end.

options_are_named() ->
    try oom:child_spec(#{id => a, start => ?START}, [{max_kills, none}])
    catch
        error:badarg:Stack ->
            #{general := Said} = oom:format_error(badarg, Stack),
            ?assertMatch({match, _}, re:run(Said, "max_kills"))
    end.

leaves_the_handlers_of_the_logger() ->
    ?assertMatch({ok, #{module := logger_std_h}}, logger:get_handler_config(default)),
    ?assertNot(lists:keymember(logger, 1, application:which_applications())).

takes_undefined_as_not_set() ->
    ok = application:stop(oom),
    ok = application:set_env(oom, max_kills, undefined),
    ?assertEqual(ok, application:start(oom)),
    ok = application:unset_env(oom, max_kills).
