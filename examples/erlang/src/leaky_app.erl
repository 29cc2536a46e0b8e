%% With LEAKY_STORY set, the node tells what happens to sessions that leak, and stops.
-module(leaky_app).
-behaviour(application).

-export([start/2, stop/1]).

start(_Type, _Args) ->
    Started = leaky_sup:start_link(),
    _ = case os:getenv("LEAKY_STORY") of
        false -> ok;
        _ -> spawn(fun leaky_story:tell/0)
    end,
    Started.

stop(_State) -> ok.
