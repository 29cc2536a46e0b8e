defmodule OOM.Test.Trees do
  @moduledoc false
  # Module-based supervisors of each kind. `init/1` calls the function given as argument.

  defmodule OfSupervisor do
    @moduledoc false
    use Supervisor, restart: :transient, id: :tree

    def start_link(arg, options \\ []), do: Supervisor.start_link(__MODULE__, arg, options)

    @impl true
    def init(fun), do: fun.()
  end

  defmodule OfOOM do
    @moduledoc false
    use OOM.Supervisor, restart: :transient, id: :tree

    def start_link(arg, options \\ []), do: OOM.Supervisor.start_link(__MODULE__, arg, options)

    @impl true
    def init(fun), do: fun.()
  end

  @spec of(module()) :: module()
  def of(Supervisor), do: OfSupervisor
  def of(OOM.Supervisor), do: OfOOM
end
