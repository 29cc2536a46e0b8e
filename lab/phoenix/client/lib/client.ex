defmodule Client do
  # The clients of script/lab phoenix. The clients run outside of the server's cgroup, and print a line of facts.
  #
  #     Client.main([SCENARIO, PORT, NAME=VALUE...])

  @scenarios %{"burst" => Client.Burst, "channels" => Client.Channels, "ready" => Client.Ready}

  def main([scenario, port | options]) do
    {:ok, _} = Application.ensure_all_started(:client)

    options =
      Map.new(
        options,
        &(&1 |> String.split("=") |> then(fn [k, v] -> {k, String.to_integer(v)} end))
      )

    facts = @scenarios[scenario].run(String.to_integer(port), options)
    # The file is closed, and so the line is written. The halt does not wait for sockets with a peer that does not read.
    line = "facts: " <> Enum.map_join(facts, " ", fn {name, value} -> "#{name}=#{value}" end) <> "\n"
    File.write!("/dev/stdout", line)
    :erlang.halt(0, flush: false)
  end

  # The census of the app's own processes, or no answer.
  def census(port) do
    with {:ok, 200, body} <- Client.Request.get(port, "/api/census", 10_000),
         {:ok, %{"count" => count, "ended" => ended}} <- Jason.decode(body) do
      [census: count, ended: if(ended == [], do: "none", else: Enum.join(ended, ","))]
    else
      _ -> [census: "no answer"]
    end
  end
end
