defmodule OOM.Log do
  @moduledoc false
  # Log events for OTP's logger. The application `:logger` of Elixir replaces OTP's default handler, so starting
  # `:logger` would take the handler from a node of Erlang alone. Events have no domain, because OTP's default
  # handler drops events of foreign domains.

  @type message :: String.t() | (() -> String.t())

  @doc "Logs a message, or the result of a function; the function is called only where the level is on."
  defmacro error(message), do: quoted(:error, message, __CALLER__)
  defmacro warning(message), do: quoted(:warning, message, __CALLER__)
  defmacro info(message), do: quoted(:info, message, __CALLER__)
  defmacro log(level, message), do: quoted(level, message, __CALLER__)

  defp quoted(level, message, caller) do
    {function, arity} = caller.function
    file = caller.file |> Path.relative_to_cwd() |> to_charlist()
    place = %{mfa: {caller.module, function, arity}, line: caller.line, file: file}

    quote do
      unquote(__MODULE__).event(
        unquote(level),
        unquote(message),
        unquote(Macro.escape(place))
      )
    end
  end

  @spec event(:logger.level(), message(), :logger.metadata()) :: :ok
  def event(level, message, %{mfa: {module, _, _}} = place) do
    if :logger.allow(level, module), do: :logger.macro_log(place, level, text(message)), else: :ok
  end

  defp text(message) when is_binary(message), do: message
  defp text(message) when is_function(message, 0), do: message.()
end
