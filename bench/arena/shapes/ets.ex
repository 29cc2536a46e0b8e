defmodule Arena.Shapes.OwnTable do
  @moduledoc false
  # Each worker fills a table of its own.
  @behaviour Arena.Shape

  @per_step 100

  @impl true
  def new(_id, _job), do: {:ets.new(:leak, [:set, :public]), 0}

  @impl true
  def step({table, n}), do: {fill(table, n), {table, n + @per_step}}

  @doc "Rows with keys from `n` on; about how many bytes they take."
  def fill(table, n) do
    for key <- n..(n + @per_step - 1),
        do: :ets.insert(table, {key, [key, key + 1, key + 2], "row"})

    @per_step * 140
  end
end

defmodule Arena.Shapes.SharedTable do
  @moduledoc false
  # The first worker owns the one big table, and all of them fill it.
  @behaviour Arena.Shape

  alias Arena.Shapes.OwnTable

  @impl true
  def new(1, _job), do: {1, :ets.new(__MODULE__, [:named_table, :public, :set]), 0}
  def new(id, _job), do: {id, __MODULE__, 0}

  @impl true
  def step({id, table, n}) do
    # Keys of its own; integers, so that rows cost the same in all workers.
    {OwnTable.fill(table, id * 1_000_000_000 + n), {id, table, n + 100}}
  rescue
    # The owner is dead, and the table with it.
    ArgumentError -> Process.sleep(20) && {1, {id, table, n}}
  end
end
