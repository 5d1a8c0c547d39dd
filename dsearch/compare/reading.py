"""A unit's files as they are read: whoever wrote them, they are a unit's or are refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..experiments.experiment import ExperimentError, Unit
from ..experiments.folder import Run


@contextmanager
def reading(run: Run, unit: Unit) -> Iterator[None]:
    """Names the unit whose files cannot be read or do not say what they should.

    Raises:
        ExperimentError: for an exception of any kind within; a damaged file can lead to each.
    """
    try:
        yield
    except ExperimentError:
        raise
    except Exception as error:
        raise ExperimentError(
            f"{run.folder / 'units' / unit.name} is damaged ({type(error).__name__}: {error}); remove it, and dsearch "
            "run makes it again"
        ) from error
