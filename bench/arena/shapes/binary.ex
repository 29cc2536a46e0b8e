defmodule Arena.Shapes.Append do
  @moduledoc false
  # One refc binary, appended to; the VM doubles a full binary.
  @behaviour Arena.Shape

  @piece :binary.copy(<<1>>, 65_536)

  @impl true
  def new(_id, _job), do: <<>>

  @impl true
  def step(binary), do: {65_536, <<binary::binary, @piece::binary>>}
end

defmodule Arena.Shapes.Binaries do
  @moduledoc false
  # Many refc binaries.
  @behaviour Arena.Shape

  @impl true
  def new(_id, _job), do: []

  @impl true
  def step(held),
    do: {65_536, Enum.reduce(1..16, held, &[:binary.copy(<<&1>>, 4_096) | &2])}
end

defmodule Arena.Shapes.SubBinaries do
  @moduledoc false
  # A hundred bytes of each request are kept, and keep the whole request. (Up to 64 would be
  # copied.)
  @behaviour Arena.Shape

  @request_bytes 262_144

  @impl true
  def new(_id, _job), do: []

  @impl true
  def step(held) do
    request = :binary.copy(<<7>>, @request_bytes)
    {@request_bytes, [binary_part(request, 10, 100) | held]}
  end
end
