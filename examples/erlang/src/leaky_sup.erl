%% The top of the tree: an oom_supervisor in the place of a supervisor, and priorities in two children.
-module(leaky_sup).
-behaviour(oom_supervisor).

-export([start_link/0]).
-export([init/1]).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    oom_supervisor:start_link({local, ?MODULE}, ?MODULE, []).

init([]) ->
    Ledger = #{id => ledger, start => {leaky_ledger, start_link, []}},
    Sessions = {sessions, {leaky_sessions, start_link, []}, permanent, infinity, supervisor,
                [leaky_sessions]},
    {ok, {#{strategy => one_for_one, intensity => 3, period => 10},
          [oom:child_spec(Ledger, [{priority, protected}]),
           oom:child_spec(Sessions, [{priority, low}])]}}.
