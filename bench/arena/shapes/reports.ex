# Growth as in public reports of nodes that ran out of memory, where the figures the VM shows of a process miss
# most of the memory.

defmodule Arena.Shapes.Parts do
  @moduledoc false
  # Workers keep 100 bytes of each 200 KiB message, and a part keeps the whole: the websocket leak. The workers
  # hardly run.
  @behaviour Arena.Shape

  alias Arena.Sender

  @bytes 204_800

  @impl true
  def new(_id, _job), do: []
  @impl true
  def step(_kept), do: :rest
  @impl true
  def take(part, kept), do: [part | kept]

  @impl true
  def outside(job) do
    Sender.start(job, fn pid ->
      send(pid, {:take, binary_part(:binary.copy(<<1>>, @bytes), 0, 100)})
      @bytes
    end)
  end
end

defmodule Arena.Shapes.MailBinaries do
  @moduledoc false
  # Binaries of 16 KiB in the mailboxes of slow workers.
  @behaviour Arena.Shape

  alias Arena.Sender

  @bytes 16_384

  @impl true
  def new(_id, _job), do: nil
  @impl true
  def step(nil), do: :rest

  @impl true
  def outside(job) do
    Sender.start(job, fn pid ->
      send(pid, {:request, :binary.copy(<<1>>, @bytes)})
      @bytes
    end)
  end
end

defmodule Arena.Shapes.Timers do
  @moduledoc false
  # Messages of 16 KB that are due in an hour.
  @behaviour Arena.Shape

  @hour_ms 3_600_000

  @impl true
  def new(_id, _job), do: 0

  @impl true
  def step(n) do
    Process.send_after(self(), {:due, n, :lists.seq(1, 1_024)}, @hour_ms)
    {16_500, n + 1}
  end
end

defmodule Arena.Shapes.Monitors do
  @moduledoc false
  # Monitors of one process, never taken back.
  @behaviour Arena.Shape

  @per_step 200

  @impl true
  def new(_id, _job), do: Process.whereis(Arena.Witness)

  @impl true
  def step(pid) do
    for _ <- 1..@per_step, do: Process.monitor(pid)
    {@per_step * 128, pid}
  end
end

defmodule Arena.Shapes.HelperTable do
  @moduledoc false
  # A process linked to the worker owns the table that the worker fills.
  @behaviour Arena.Shape

  alias Arena.Shapes.OwnTable

  @impl true
  def new(_id, _job) do
    worker = self()

    spawn_link(fn ->
      send(worker, {:table, :ets.new(:helper, [:set, :public])})
      Process.sleep(:infinity)
    end)

    receive(do: ({:table, table} -> {table, 0}))
  end

  @impl true
  def step({table, n}), do: {OwnTable.fill(table, n), {table, n + 100}}
end

defmodule Arena.Shapes.RowBinaries do
  @moduledoc false
  # Binaries of 16 KiB in the rows of a table.
  @behaviour Arena.Shape

  @bytes 16_384

  @impl true
  def new(_id, _job), do: {:ets.new(:rows, [:set, :public]), 0}

  @impl true
  def step({table, n}) do
    :ets.insert(table, {n, :binary.copy(<<1>>, @bytes)})
    {@bytes, {table, n + 1}}
  end
end

defmodule Arena.Shapes.PrivateRows do
  @moduledoc false
  # The same in a table that nobody else can read.
  @behaviour Arena.Shape

  alias Arena.Shapes.RowBinaries

  @impl true
  def new(_id, _job), do: {:ets.new(:rows, [:set, :private]), 0}
  @impl true
  defdelegate step(data), to: RowBinaries
end

defmodule Arena.Shapes.Deflate do
  @moduledoc false
  # Contexts of zlib, 256 KiB each, as connections with compression have.
  @behaviour Arena.Shape

  @bytes 262_144

  @impl true
  def new(_id, _job), do: []

  @impl true
  def step(contexts) do
    z = :zlib.open()
    :ok = :zlib.deflateInit(z)
    _ = :zlib.deflate(z, "context", :sync)
    {@bytes, [z | contexts]}
  end
end

defmodule Arena.Shapes.Closures do
  @moduledoc false
  # Each task gets a copy of the worker's state with its closure, and waits for a slow service.
  @behaviour Arena.Shape

  @life_ms 5_000
  @elements 16_384

  @impl true
  def new(_id, _job), do: :lists.seq(1, @elements)

  @impl true
  def step(state) do
    spawn_link(fn ->
      Process.sleep(@life_ms)
      length(state)
    end)

    {@elements * 16, state}
  end
end

defmodule Arena.Shapes.Bodies do
  @moduledoc false
  # Bodies of 40 MB, each received in one piece and kept.
  @behaviour Arena.Shape

  @bytes 40_000_000

  @impl true
  def new(_id, _job), do: []
  @impl true
  def step(kept), do: {@bytes, [:binary.copy(<<1>>, @bytes) | kept]}
end

defmodule Arena.Shapes.Terms do
  @moduledoc false
  # Compressed terms of a few KB that decode to 3 MB on the heap.
  @behaviour Arena.Shape

  @elements 200_000

  @impl true
  def new(_id, _job),
    do: {:erlang.term_to_binary(List.duplicate(0, @elements), [:compressed]), []}

  @impl true
  def step({packed, kept}),
    do: {@elements * 16, {packed, [:erlang.binary_to_term(packed) | kept]}}
end

defmodule Arena.Shapes.Gzip do
  @moduledoc false
  # 16 KB that unpack to 16 MB.
  @behaviour Arena.Shape

  @bytes 16_777_216

  @impl true
  def new(_id, _job), do: {:zlib.gzip(:binary.copy(<<0>>, @bytes)), []}
  @impl true
  def step({packed, kept}), do: {@bytes, {packed, [:zlib.gunzip(packed) | kept]}}
end
