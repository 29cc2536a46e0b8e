defmodule OOM.MailboxesTest do
  use ExUnit.Case, async: true

  alias OOM.Mailboxes

  test "a short mailbox is read each time" do
    assert Mailboxes.bytes({3_000, 3_000_000}, 3_000) == nil
    assert Mailboxes.bytes(nil, 50_000) == nil
  end

  test "messages keep their known weight, until there are twice as many or half" do
    assert Mailboxes.bytes({5_000, 5_000_000}, 10_000) == 10_000_000
    assert Mailboxes.bytes({5_000, 5_000_000}, 10_001) == nil
    assert Mailboxes.bytes({10_000, 10_000_000}, 5_000) == 5_000_000
    assert Mailboxes.bytes({10_000, 10_000_000}, 4_999) == nil
  end

  test "many are not walked again" do
    assert Mailboxes.bytes({5_000, 5_000_000}, 500_000) == 500_000_000
    assert Mailboxes.bytes({500_000, 500_000_000}, 16_001) == 16_001_000
  end
end
