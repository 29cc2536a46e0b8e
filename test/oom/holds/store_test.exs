defmodule OOM.Holds.StoreTest do
  use OOM.Test.TablesCase, async: false

  alias OOM.Hold
  alias OOM.Holds.Store

  # Ids are the user's, and some mean something in a match specification.
  for id <- [:a, "a", 1, {:a, [1]}, %{a: 1}, :_, :"$1", {:"$1", :_}, %{_: 1}] do
    @tag id: id
    test "keeps, changes and deletes #{inspect(id)}", %{id: id} do
      other = {self(), :other}
      assert {nil, %{kills: 7}} = Store.update(other, fn nil -> %{hold(:other) | kills: 7} end)

      key = {self(), id}
      assert {nil, %{id: ^id} = first} = Store.update(key, fn nil -> hold(id) end)
      assert Store.lookup(key) == first
      assert {^first, second} = Store.update(key, &%{&1 | kills: 3})
      assert second.version != first.version
      assert Store.lookup(key) == second
      assert {^second, ^second} = Store.update(key, & &1)
      assert {^second, nil} = Store.update(key, fn _ -> nil end)
      assert Store.lookup(key) == nil
      assert {nil, nil} = Store.update(key, fn nil -> nil end)
      assert [%{id: :other, kills: 7}] = Store.all()
    end
  end

  test "no change is lost among many" do
    key = {self(), :a}
    Store.update(key, fn nil -> hold(:a) end)

    1..8
    |> Enum.map(fn _ ->
      Task.async(fn -> for _ <- 1..500, do: Store.update(key, &%{&1 | kills: &1.kills + 1}) end)
    end)
    |> Task.await_many(30_000)

    assert Store.lookup(key).kills == 4_000
  end

  test "all/1 returns the holds of one supervisor" do
    for id <- [1, 2], do: Store.update({self(), id}, fn nil -> hold(id) end)
    other = idle()
    Store.update({other, 1}, fn nil -> %{hold(1) | supervisor: other} end)
    assert [1, 2] = for(hold <- Store.all(self()), do: hold.id)
    assert length(Store.all()) == 3
  end

  test "without the table there is none" do
    :ok = stop_supervised(OOM.Tables)
    assert Store.lookup({self(), :a}) == nil
    assert Store.all() == [] and Store.all(self()) == []
  end

  defp hold(id), do: %Hold{supervisor: self(), id: id, ids: [id], backoff: []}
end
