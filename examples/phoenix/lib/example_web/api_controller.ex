defmodule ExampleWeb.ApiController do
  use Phoenix.Controller, formats: [:json]

  @doc "Answers while the app lives."
  def health(conn, _params), do: json(conn, %{level: level()})

  @doc "Which processes of the app's own tree have ended."
  def census(conn, _params) do
    {count, ended} = Example.Census.ended()
    json(conn, %{count: count, ended: ended})
  end

  @doc "Reads a body, builds a list of its size from it, and takes `ms` over it."
  def work(conn, params) do
    {:ok, body, conn} = read_all(conn, [])
    items = for <<item::56, _::72 <- body>>, do: item
    Process.sleep(String.to_integer(params["ms"] || "100"))
    json(conn, %{bytes: byte_size(body), sum: Enum.sum(items)})
  end

  @doc "Decodes a body of JSON, and says how many keys it has."
  def echo(conn, _params), do: json(conn, %{keys: map_size(conn.body_params)})

  @doc "Takes a file into memory."
  def upload(conn, %{"file" => %Plug.Upload{path: path}}) do
    json(conn, %{bytes: byte_size(File.read!(path))})
  end

  defp read_all(conn, parts) do
    case read_body(conn, length: 1_000_000) do
      {:more, part, conn} -> read_all(conn, [parts, part])
      {:ok, part, conn} -> {:ok, IO.iodata_to_binary([parts, part]), conn}
    end
  end

  defp level, do: if(System.get_env("OOM") == "off", do: nil, else: OOM.level())
end
