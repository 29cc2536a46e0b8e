defmodule Client.Request do
  # An HTTP request on a new connection: {:ok, status, body} or {:error, reason}.

  def get(port, path, timeout_ms), do: request(port, "GET", path, nil, timeout_ms)
  def post(port, path, body, timeout_ms), do: request(port, "POST", path, body, timeout_ms)

  defp request(port, method, path, body, timeout_ms) do
    until_ms = System.monotonic_time(:millisecond) + timeout_ms
    headers = [{"content-type", "application/octet-stream"}]

    with {:ok, conn} <-
           Mint.HTTP.connect(:http, "127.0.0.1", port, transport_opts: [timeout: timeout_ms, send_timeout: timeout_ms]) do
      {conn, result} =
        case Mint.HTTP.request(conn, method, path, headers, body) do
          {:ok, conn, ref} -> answer(conn, ref, until_ms, nil, [])
          # A server that has answered before the whole body was sent closes: its answer may be there.
          {:error, conn, reason} -> {conn, {:error, reason}}
        end

      Mint.HTTP.close(conn)
      result
    end
  end

  defp answer(conn, ref, until_ms, status, data) do
    receive do
      message when elem(message, 0) in [:tcp, :tcp_closed, :tcp_error] ->
        case Mint.HTTP.stream(conn, message) do
          {:ok, conn, responses} ->
            responses(responses, conn, ref, until_ms, status, data)

          {:error, conn, _, _} when status != nil ->
            {conn, {:ok, status, IO.iodata_to_binary(data)}}

          {:error, conn, reason, _} ->
            {conn, {:error, reason}}

          # Of a connection before.
          :unknown ->
            answer(conn, ref, until_ms, status, data)
        end
    after
      max(until_ms - System.monotonic_time(:millisecond), 0) -> {conn, {:error, :timeout}}
    end
  end

  defp responses([], conn, ref, until_ms, status, data),
    do: answer(conn, ref, until_ms, status, data)

  defp responses([response | rest], conn, ref, until_ms, status, data) do
    case response do
      {:status, ^ref, status} -> responses(rest, conn, ref, until_ms, status, data)
      {:data, ^ref, part} -> responses(rest, conn, ref, until_ms, status, [data, part])
      {:done, ^ref} -> {conn, {:ok, status, IO.iodata_to_binary(data)}}
      {:error, ^ref, reason} -> {conn, {:error, reason}}
      _ -> responses(rest, conn, ref, until_ms, status, data)
    end
  end
end
