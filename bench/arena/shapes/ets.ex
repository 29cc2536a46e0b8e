defmodule Arena.Shapes.OwnTable do
  @moduledoc false
  # Each worker fills a separate table.
  @behaviour Arena.Shape

  @per_step 100

  @impl true
  def new(_id, _job), do: {:ets.new(:leak, [:set, :public]), 0}

  @impl true
  def step({table, n}), do: {fill(table, n), {table, n + @per_step}}

  @doc "Inserts rows with keys from `n` on; returns their size, in about bytes."
  def fill(table, n) do
    for key <- n..(n + @per_step - 1),
        do: :ets.insert(table, {key, [key, key + 1, key + 2], "row"})

    @per_step * 140
  end
end

defmodule Arena.Shapes.SharedTable do
  @moduledoc false
  # The first worker owns the one big table, and all workers fill the table.
  @behaviour Arena.Shape

  alias Arena.Shapes.OwnTable

  @impl true
  def new(1, _job), do: {1, :ets.new(__MODULE__, [:named_table, :public, :set]), 0}
  def new(id, _job), do: {id, __MODULE__, 0}

  @impl true
  def step({id, table, n}) do
    if :ets.whereis(table) == :undefined do
      # The owner is dead, and the table is gone. A failing insert would keep a worker busy with its own error, and the
      # judge looks for workers that wait.
      Process.sleep(20)
      {1, {id, table, n}}
    else
      # Separate keys for each worker; integers, so rows cost the same in all workers.
      {OwnTable.fill(table, id * 1_000_000_000 + n), {id, table, n + 100}}
    end
  rescue
    # The owner has died just now.
    ArgumentError -> {1, {id, table, n}}
  end
end
