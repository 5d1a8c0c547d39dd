"""A unit's files as they are read: whoever wrote them, they are a unit's or are refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..core.plan import Bill
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


def check(unit: Unit, records: Sequence[dict[str, Any]], timing: Mapping[str, Any]) -> None:
    """Refuses what is no record of the unit.

    Raises:
        KeyError, TypeError, ValueError: for what a record lacks or holds instead; `reading` names the unit.
    """
    numbers, counts = [timing["peak_bytes"]], list[Any]()
    for record in records:
        numbers += [record["reward"], record["log_w"], record["kl"], *record["held_out"].values()]
        counts += [record["rank"], record["ancestor"]]
        counts += [record[kind][of] for kind in ("bill", "planned") for of in Bill._fields]
        if record["position"] not in unit.positions or not isinstance(record["image"], str | None):
            raise ValueError(f"position {record['position']!r}, image {record['image']!r}")
    odd = [n for n in numbers if n is not None and type(n) not in (int, float)]
    odd += [n for n in counts if type(n) is not int] + [n for n in [timing["seconds"]] if type(n) not in (int, float)]
    if odd:
        raise ValueError(f"{odd[0]!r} is no such number")
