"""A short one of what tools/storm does for as long as it is told."""

import pytest

from support.chaos import Chaos


@pytest.mark.parametrize("seed", [1, 2])
def test_no_rules(seed):
    account = Chaos(10, seed).run()
    assert account["in order"] > 0  # how many depends on the machine
    print(account)
