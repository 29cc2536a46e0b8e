defmodule Client do
  # The clients of script/lab phoenix: they run outside of the server's cgroup, and print one line of facts.
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
    # By a port of its own that is closed, and so written; without waiting for sockets whose peer does not read.
    line = "facts: " <> Enum.map_join(facts, " ", fn {name, value} -> "#{name}=#{value}" end) <> "\n"
    File.write!("/dev/stdout", line)
    :erlang.halt(0, flush: false)
  end

  # What has ended of the app's own processes; nil where the app does not answer any more.
  def census(port) do
    with {:ok, 200, body} <- Client.Request.get(port, "/api/census", 10_000),
         {:ok, %{"count" => count, "ended" => ended}} <- Jason.decode(body) do
      [census: count, ended: if(ended == [], do: "none", else: Enum.join(ended, ","))]
    else
      _ -> [census: "no answer"]
    end
  end
end
