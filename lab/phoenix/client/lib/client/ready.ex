defmodule Client.Ready do
  # Waits for the app's first answer.
  def run(port, _options), do: wait(port, 600)

  defp wait(_port, 0), do: [ready: false]

  defp wait(port, tries) do
    case Client.Request.get(port, "/api/health", 1_000) do
      {:ok, 200, _} ->
        [ready: true]

      _ ->
        Process.sleep(100)
        wait(port, tries - 1)
    end
  end
end
