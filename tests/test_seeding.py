"""`seeding`: the same keys, the same numbers; other keys, other numbers."""

import subprocess
import sys
from collections import Counter

import pytest
import torch

from genfusion_ns.seeding import generator, order_index, seed_of, thinned_rows


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


def test_thinned_rows_are_all_where_there_is_room_and_else_as_many_by_chance_in_order():
    assert thinned_rows(5, 8, generator(0)).tolist() == [0, 1, 2, 3, 4]
    some = [thinned_rows(100, 10, generator(seed)).tolist() for seed in (0, 0, 1)]
    assert some[0] == some[1] != some[2] and some[0] == sorted(set(some[0])) and len(some[0]) == 10
