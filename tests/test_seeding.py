"""`seeding`: the same keys, the same numbers; other keys, other numbers."""

import subprocess
import sys
from collections import Counter

import pytest
import torch

from genfusion_ns.seeding import generator, order_index, seed_of


def test_keys_decide():
    draw = lambda *keys: torch.rand(4, generator=generator(*keys)).tolist()  # noqa: E731
    assert draw(1, "a", 2) == draw(1, "a", 2)
    assert len({tuple(draw(*keys)) for keys in [(1, "a", 2), (2, "a", 1), (1, "b", 2), ("1", "a", 2), (1, "a2")]}) == 5


@pytest.mark.slow
def test_same_in_another_process():
    code = "from genfusion_ns.seeding import seed_of; import sys; sys.stdout.write(str(seed_of(7, 'x', 3)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == seed_of(7, "x", 3)
    assert 0 <= seed_of(7, "x", 3) < 2**63


@pytest.mark.parametrize("count", [1, 3, 10])
def test_every_epoch_shows_every_item_once(count):
    orders = []
    for epoch in range(5):
        order = [order_index(count, 5, epoch * count + i, "views") for i in range(count)]
        assert Counter(order) == Counter(range(count))
        orders.append(tuple(order))
    if count == 10:
        assert len(set(orders)) > 1
