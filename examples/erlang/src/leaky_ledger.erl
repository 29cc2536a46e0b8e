%% State that must not be lost.
-module(leaky_ledger).
-behaviour(gen_server).

-export([start_link/0, add/1, sum/0]).
-export([init/1, handle_call/3, handle_cast/2]).

-spec start_link() -> gen_server:start_ret().
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

-spec add(integer()) -> ok.
add(Amount) ->
    gen_server:call(?MODULE, {add, Amount}, infinity).

-spec sum() -> integer().
sum() ->
    gen_server:call(?MODULE, sum, infinity).

init([]) ->
    {ok, 0}.

handle_call({add, Amount}, _From, Sum) ->
    {reply, ok, Sum + Amount};
handle_call(sum, _From, Sum) ->
    {reply, Sum, Sum}.

handle_cast(_Other, Sum) ->
    {noreply, Sum}.
