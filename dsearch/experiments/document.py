"""A YAML document as data, and the line of each of its parts."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import Any

from .._optional import optional

__all__ = ["DocumentError", "read"]

PARTS = 200_000
"""Of a document, aliases written out. An alias bomb has billions; a file that someone wrote has thousands."""

MERGE = "tag:yaml.org,2002:merge"

Place = tuple[Any, ...]


class DocumentError(ValueError):
    """What is wrong with a document, and on which line, from 1; None where no line can be named."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


def read(text: str) -> tuple[Any, dict[Place, int]]:
    """A document's data, and the line of every part by its path.

    Merge keys (`<<: *name`) are written out. 1e-2 is a number, as in YAML 1.2.

    Raises:
        DocumentError: for what is no YAML, names that are no texts or stand twice, aliases that hold themselves or grow
            beyond all bounds, and values that cannot be.
    """
    with optional():
        import yaml

    loader = None
    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines = dict(_Lines().of(node, (), ()))
        return loader.construct_document(node), lines
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DocumentError(f"U+{error.character:04X} cannot stand in YAML ({error.reason})", line) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise DocumentError(str(problem), mark and mark.line + 1) from error
    except RecursionError as error:
        raise DocumentError("nested too deeply") from error
    finally:
        if loader is not None:
            loader.dispose()


def _loader() -> Any:
    """PyYAML's safe loader, with YAML 1.2's numbers, that names the line of a value which cannot be."""
    with optional():
        import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # it has no types
        """Ours."""

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except (ValueError, TypeError, KeyError, ArithmeticError, AttributeError, IndexError) as error:
                said = f"{getattr(node, 'value', '')!r}"[:40]
                raise yaml.MarkedYAMLError(
                    problem=f"{said} cannot be read as {node.tag.rpartition(':')[2]} ({error}); put it in quotes",
                    problem_mark=node.start_mark,
                ) from error

    number = re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


class _Lines:
    """The parts of a document one by one, counted; what a mapping merges is written out in it."""

    def __init__(self) -> None:
        self._count = 0

    def of(self, node: Any, path: Place, above: tuple[int, ...]) -> Iterator[tuple[Place, int]]:
        import yaml

        self._count += 1
        mark = node.start_mark
        if id(node) in above:
            raise yaml.MarkedYAMLError(problem="an alias that holds itself", problem_mark=mark)
        if self._count > PARTS:
            raise yaml.MarkedYAMLError(problem=f"more than {PARTS:,} parts, aliases written out", problem_mark=mark)
        above = (*above, id(node))
        yield path, mark.line + 1
        if isinstance(node, yaml.MappingNode):
            self._refuse_names(node)
            self._merge(node, above)
            for key, value in node.value:
                yield from self.of(value, (*path, key.value), above)
                yield (*path, key.value), key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                yield from self.of(value, (*path, i), above)

    def _merge(self, node: Any, above: tuple[int, ...]) -> None:
        """Writes out what a mapping merges: its own names win, and then those of what it merges first."""
        import yaml

        merged: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag != MERGE:
                continue
            for one in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if id(one) in above:
                    raise yaml.MarkedYAMLError(problem="an alias that holds itself", problem_mark=key.start_mark)
                if not isinstance(one, yaml.MappingNode):
                    raise yaml.MarkedYAMLError(problem="<< merges no mapping", problem_mark=key.start_mark)
                self._refuse_names(one)
                self._merge(one, (*above, id(one)))
                for pair in one.value:
                    merged.setdefault(pair[0].value, pair)
        own = {pair[0].value: pair for pair in node.value if pair[0].tag != MERGE}
        node.value = list({**merged, **own}.values())

    def _refuse_names(self, node: Any) -> None:
        import yaml

        seen: set[Hashable] = set()
        for key, _ in node.value:
            if key.tag not in ("tag:yaml.org,2002:str", MERGE):
                said = f"{key.value!r}"[:40] if not isinstance(key.value, str) else key.value
                raise yaml.MarkedYAMLError(
                    problem=f"the name {said} is not a string; put it in quotes", problem_mark=key.start_mark
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
