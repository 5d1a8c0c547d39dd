"""What a search spends: counted before it is spent, and held to the plan's bill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .plan import Bill

__all__ = ["Meter"]


class Meter:
    """Counts network rows, decodes and rewards.

    Args:
        allowance: the plan's bill for all groups together.
        progress: told of the rows of each network call.

    Attributes:
        spent: by the search.
        watched: by what only watches it; in no bill, and without a limit.
    """

    def __init__(self, allowance: Bill, progress: Callable[[int], object]) -> None:
        self.allowance, self.progress = allowance, progress
        self.spent, self.watched = Bill(), Bill()
        self._counts = True

    def spend(self, bill: Bill, times: int, watching: bool = False) -> None:
        """`times` the bill.

        Raises:
            RuntimeError: where that exceeds the allowance.
        """
        if not self._counts:
            return
        if watching:
            self.watched = self.watched.plus(bill, times)
            return
        self.spent = self.spent.plus(bill, times)
        if self.spent.exceeds(self.allowance):
            raise RuntimeError(
                f"this step would spend {self.spent}, above the planned {self.allowance}; "
                "a value's cost() must cover what it spends"
            )

    @contextmanager
    def counting(self, counts: bool) -> Iterator[None]:
        """Within, spending counts or not: what several processes all do alike is counted by one."""
        before, self._counts = self._counts, counts
        try:
            yield
        finally:
            self._counts = before
