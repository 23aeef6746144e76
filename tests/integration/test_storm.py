"""A short one of what tools/storm does for as long as it is told."""

import pytest

from support.storm import Storm


@pytest.mark.parametrize("window", [16, 256])
def test_order_through_every_kind_of_end(window):
    account = Storm(40, window, seed=window).run()
    assert account["messages"] > 1000
    print(account)
