defmodule OOM.Log do
  @moduledoc false
  # Events for OTP's logger. Elixir's Logger is an application of its own that replaces OTP's default handler,
  # so a node of Erlang alone would lose that handler to it. Events carry no domain, because OTP's default
  # handler drops those of any domain but its own.

  @type message :: String.t() | (() -> String.t())

  @doc "Logs a message, or what a function returns where the level is on."
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
