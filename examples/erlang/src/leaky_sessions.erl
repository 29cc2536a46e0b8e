%% A plain supervisor of OTP: the sessions below are found, and have the priority given above.
-module(leaky_sessions).
-behaviour(supervisor).

-export([start_link/0, start_session/1]).
-export([init/1]).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

-spec start_session(term()) -> supervisor:startchild_ret().
start_session(Name) ->
    supervisor:start_child(?MODULE, [Name]).

init([]) ->
    {ok, {#{strategy => simple_one_for_one, intensity => 3, period => 10},
          [#{id => session, start => {leaky_session, start_link, []}}]}}.
