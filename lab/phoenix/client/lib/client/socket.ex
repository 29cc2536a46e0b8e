defmodule Client.Socket do
  # A client of a Phoenix socket, with a channel: joins, asks each second, and comes back with the waits of phoenix.js. tell.(what) is told :joined, :channel_errors, :refused, :closed, :unanswered and {:answered, ms}.

  @reconnect_ms [10, 50, 100, 150, 200, 250, 500, 1_000, 2_000]
  @rejoin_ms [1_000, 2_000, 5_000]
  @ask_ms 1_000
  @answer_within_ms 5_000

  def run(port, topic, params, tell) do
    connect(%{
      port: port,
      topic: topic,
      params: params,
      tell: tell,
      connects: 0,
      tries: 0,
      asking: false,
      asked: nil
    })
  end

  defp connect(state) do
    with {:ok, conn} <- Mint.HTTP.connect(:http, "127.0.0.1", state.port),
         {:ok, conn, ref} <- Mint.WebSocket.upgrade(:ws, conn, "/socket/websocket?vsn=2.0.0", []),
         {:ok, conn, status, headers} <- upgraded(conn, ref, nil, []),
         {:ok, conn, websocket} <- Mint.WebSocket.new(conn, ref, status, headers) do
      state
      |> Map.merge(%{
        conn: conn,
        websocket: websocket,
        ref: ref,
        connects: 0,
        tries: 0,
        asking: false,
        asked: nil
      })
      |> join()
    else
      _ ->
        state.tell.(:refused)
        connect_later(state)
    end
  end

  defp connect_later(state) do
    Process.sleep(Enum.at(@reconnect_ms, state.connects, 5_000))
    flush()
    connect(%{state | connects: state.connects + 1})
  end

  defp upgraded(conn, ref, status, headers) do
    receive do
      message when elem(message, 0) in [:tcp, :tcp_closed, :tcp_error] ->
        case Mint.WebSocket.stream(conn, message) do
          {:ok, conn, responses} -> upgraded(responses, conn, ref, status, headers)
          _ -> :error
        end
    after
      30_000 -> :timeout
    end
  end

  defp upgraded([], conn, ref, status, headers), do: upgraded(conn, ref, status, headers)

  defp upgraded([response | rest], conn, ref, status, headers) do
    case response do
      {:status, ^ref, status} -> upgraded(rest, conn, ref, status, headers)
      {:headers, ^ref, headers} -> upgraded(rest, conn, ref, status, headers)
      {:done, ^ref} -> {:ok, conn, status, headers}
      _ -> upgraded(rest, conn, ref, status, headers)
    end
  end

  defp join(state), do: state |> push("join", "phx_join", state.params) |> loop()

  defp loop(state) do
    receive do
      message when elem(message, 0) in [:tcp, :tcp_closed, :tcp_error] -> received(message, state)
      :rejoin -> join(%{state | asked: nil})
      :ask -> ask(state)
    end
  end

  defp ask(%{asked: nil} = state) do
    Process.send_after(self(), :ask, @ask_ms)
    state |> Map.put(:asked, now_ms()) |> push("ask", "ping", %{}) |> loop()
  end

  # The last question has no answer yet.
  defp ask(state) do
    Process.send_after(self(), :ask, @ask_ms)

    if now_ms() - state.asked > @answer_within_ms do
      state.tell.(:unanswered)
      loop(%{state | asked: nil})
    else
      loop(state)
    end
  end

  defp received(message, state) do
    with {:ok, conn, responses} <- Mint.WebSocket.stream(state.conn, message),
         data = for({:data, ref, data} <- responses, ref == state.ref, do: data),
         state = %{state | conn: conn},
         {:ok, websocket, frames} <-
           Mint.WebSocket.decode(state.websocket, IO.iodata_to_binary(data)) do
      frames(frames, %{state | websocket: websocket})
    else
      {:error, _, %Mint.TransportError{}, _} -> closed(state)
      {:error, _, _, _} -> closed(state)
      {:error, _, _} -> closed(state)
      :unknown -> loop(state)
    end
  end

  defp frames([], state), do: loop(state)

  defp frames([{:text, text} | rest], state), do: frames(rest, event(Jason.decode!(text), state))
  defp frames([{:close, _, _} | _], state), do: closed(state)
  defp frames([_ | rest], state), do: frames(rest, state)

  defp event([_, "join", _, "phx_reply", %{"status" => "ok"}], state) do
    state.tell.(:joined)
    if not state.asking, do: Process.send_after(self(), :ask, @ask_ms)
    %{state | tries: 0, asking: true}
  end

  defp event([_, "join", _, "phx_reply", _], state), do: rejoin_later(state, :refused)

  defp event([_, "ask", _, "phx_reply", %{"status" => "ok"}], %{asked: asked} = state)
       when asked != nil do
    state.tell.({:answered, now_ms() - asked})
    %{state | asked: nil}
  end

  defp event([_, _, _, "phx_error", _], state), do: rejoin_later(state, :channel_errors)
  defp event([_, _, _, "phx_close", _], state), do: rejoin_later(state, :channel_errors)
  defp event(_other, state), do: state

  defp rejoin_later(state, what) do
    state.tell.(what)
    Process.send_after(self(), :rejoin, Enum.at(@rejoin_ms, state.tries, 10_000))
    %{state | tries: state.tries + 1, asked: nil}
  end

  defp closed(state) do
    state.tell.(:closed)
    Mint.HTTP.close(state.conn)
    connect_later(state)
  end

  defp push(state, ref, event, payload) do
    text = Jason.encode!(["join", ref, state.topic, event, payload])

    with {:ok, websocket, data} <- Mint.WebSocket.encode(state.websocket, {:text, text}),
         {:ok, conn} <- Mint.WebSocket.stream_request_body(state.conn, state.ref, data) do
      %{state | websocket: websocket, conn: conn}
    else
      # The end of the connection comes as a message, too.
      _ -> state
    end
  end

  defp flush do
    receive do
      _ -> flush()
    after
      0 -> :ok
    end
  end

  defp now_ms, do: System.monotonic_time(:millisecond)
end
