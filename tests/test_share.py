"""One search in several parts that run at the same time: the same result to the last bit, whatever carries it.

Threads share what they find here, so that this is quick; `test_distributed.py` starts processes.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import ranks
import torch
from strategies import assert_identical

import dsearch
from dsearch import Bill
from dsearch.adapters import toy
from dsearch.core.contract import map_tree

CASES = {name: case for name, case in ranks.CASES.items() if "batch" not in case[2]}


class Table:
    """Where threads lay down what all may see."""

    def __init__(self, size):
        self.laid, self.barrier = [None] * size, threading.Barrier(size, timeout=60)

    def together(self, rank, item):
        """What each thread has laid down, once all have."""
        self.laid[rank] = item
        self.barrier.wait()
        seen = list(self.laid)
        self.barrier.wait()
        return seen


class Seat:
    """One thread's share of a search."""

    def __init__(self, table, rank):
        self.table, self.rank, self.size = table, rank, len(table.laid)

    def gather(self, tree, total):
        """All parts in order."""

        def joined(*parts):
            assert sum(part.shape[1] for part in parts) == total
            return torch.cat(parts, dim=1)

        return map_tree(joined, *self.table.together(self.rank, tree))

    def exchange(self, tree, own):
        """Each entry from a thread that has it."""
        found = tree
        for other, theirs in self.table.together(self.rank, (tree, own)):
            found = map_tree(lambda a, b, has=theirs: torch.where(_beside(has, b), b, a), found, other)
        return found

    def total(self, bill):
        """The sum over all."""
        spent = Bill()
        for other in self.table.together(self.rank, bill):
            spent = spent.plus(other)
        return spent


def _beside(mask, leaf):
    return mask.reshape(*mask.shape, *(1,) * (leaf.dim() - 2))


def shared(size, method, prompts, **options):
    """What each of so many threads finds."""
    table = Table(size)

    def one(rank):
        try:
            return dsearch.search(toy.example(), method, prompts, seed=3, share=Seat(table, rank), **options)
        except BaseException:
            table.barrier.abort()  # the others wait for this one
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_parts_finds_the_same_bit_for_bit(name, size):
    method, prompts, options = CASES[name]
    alone = dsearch.search(toy.example(), method, ranks.PROMPTS[:prompts], seed=3, **options)
    for part in shared(size, method, ranks.PROMPTS[:prompts], **options):
        assert_identical(ranks.said(part), ranks.said(alone))
