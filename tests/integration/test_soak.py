"""A short one of what tools/soak does for as long as it is told."""

from support.soak import Soak


def test_everything_at_once():
    account = Soak(30).run()
    assert account["events"] >= 4 and account["messages"] > 1000
    print(account)
