%% A session, which keeps all that it hears from the moment it is told to leak.
-module(leaky_session).
-behaviour(gen_server).

-export([start_link/1, leak/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(PIECE, 16384).

-spec start_link(term()) -> gen_server:start_ret().
start_link(Name) ->
    gen_server:start_link(?MODULE, Name, []).

-spec leak(pid()) -> ok.
leak(Pid) ->
    gen_server:cast(Pid, leak).

init(Name) ->
    {ok, {Name, []}}.

handle_call(name, _From, {Name, _} = State) ->
    {reply, Name, State}.

handle_cast(leak, {Name, Kept}) ->
    gen_server:cast(self(), leak),
    {noreply, {Name, [lists:seq(1, ?PIECE div 16) | Kept]}}.

handle_info(_Other, State) ->
    {noreply, State}.
