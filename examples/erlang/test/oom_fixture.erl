%% The application oom, started for a group of tests and stopped after them.
-module(oom_fixture).

-export([with_oom/1]).

-spec with_oom([fun(() -> term())]) -> tuple().
with_oom(Tests) ->
    {setup, fun start/0, fun stop/1, Tests}.

start() ->
    {ok, Apps} = application:ensure_all_started(oom),
    Apps.

stop(Apps) ->
    [ok = application:stop(App) || App <- lists:reverse(Apps)].
