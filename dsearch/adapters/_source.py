"""Reads a pipeline's `__call__`, and compiles from its own source what comes before, within and after its loop.

Nothing of the pipeline is copied or changed: the pieces keep the file and the line numbers of the source, so that an
error in them is shown where it stands in diffusers.
"""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from types import CodeType, FunctionType
from typing import Any

__all__ = ["ANSWER", "ITEM", "Asked", "Left", "Returned", "Source", "read"]

_LEFT, _ASKED, _RETURNED = "_dsearch_left", "_dsearch_asked", "_dsearch_returned"
ITEM = "_dsearch_item"
"""The name of what the loop iterates over, one item a turn."""
ANSWER = "_dsearch_answer"
"""The name of the scheduler's answer in the rest of a turn."""

_LOOPS = (ast.For, ast.While)


class Left(BaseException):
    """Raised where the loop would begin; no Exception, so that no handler of the pipeline stops it."""

    def __init__(self, frame: dict[str, Any], items: Iterable[Any]) -> None:
        super().__init__()
        self.frame, self.items = frame, list(items)


class Asked(BaseException):
    """Raised in the place of the scheduler's step, with its arguments."""

    def __init__(self, place: int, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.place, self.given, self.named = place, args, kwargs


class Returned(BaseException):
    """Raised in the place of a return."""

    def __init__(self, value: Any = None) -> None:
        super().__init__()
        self.value = value


_OURS: dict[str, Any] = {_LEFT: Left, _ASKED: Asked, _RETURNED: Returned}


@dataclass(frozen=True)
class Source:
    """The pieces of one pipeline class.

    Attributes:
        module: the globals of its module, as they are now and will be.
        entry: globals -> `__call__` up to its loop, where it raises `Left`.
        turn: a turn of the loop up to the step, where it raises `Asked`.
        rest: for each place that steps, the rest of the turn, from the step's answer on.
        tail: what follows the loop; it raises `Returned`.
        state: the variable that the loop carries from turn to turn.
        needs: for each place that steps, the variables made in the turn that its rest reads.
        late: variables other than the state that the tail reads of the last turn.
        reads: the variables from before the loop that a turn reads.
        rest_reads: those that the rest of a turn reads.
        tail_reads: those that the tail reads.
        schedulers: for each place that steps, the attribute of the pipeline that does.
        around: what loops around the loop iterate over, which must come to a single turn.
    """

    module: dict[str, Any]
    entry: Callable[[dict[str, Any]], Callable[..., Any]]
    turn: CodeType
    rest: tuple[CodeType, ...]
    tail: CodeType
    state: str
    needs: tuple[frozenset[str], ...]
    late: frozenset[str]
    reads: frozenset[str]
    rest_reads: frozenset[str]
    tail_reads: frozenset[str]
    schedulers: tuple[str, ...]
    around: tuple[CodeType, ...]

    @property
    def names(self) -> dict[str, Any]:
        """The globals of its module, and ours."""
        return {**self.module, **_OURS}

    @property
    def prepare(self) -> Callable[..., Any]:
        """`__call__` up to its loop, where it raises `Left`."""
        return self.entry(self.names)


def read(kind: type) -> Source:
    """The pieces of a pipeline class, read once.

    Raises:
        TypeError: where its source is not a plain loop with a scheduler's step in it, saying what it is instead.
    """
    return _read(kind)


@cache
def _read(kind: Any) -> Source:
    function = inspect.unwrap(kind.__call__)
    try:
        lines = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        raise _refusal(kind, "has no source to read") from None
    tree = ast.parse(lines).body[0]
    if not isinstance(tree, ast.FunctionDef) or function.__code__.co_freevars:
        raise _refusal(kind, "has a __call__ that is no plain function")
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 1)
    loop, outer = _loop(kind, tree)
    steps = [node for node in ast.walk(loop) if _is_step(node)]
    places = [_statement(kind, loop, step) for step in steps]
    rests = [[place, *_following(loop.body, place)] for place in places]
    for place, rest in zip(places, rests, strict=True):
        if sum(_is_step(node) for statement in rest for node in ast.walk(statement)) > 1:
            raise _refusal(kind, f"steps twice in a turn of its loop (line {place.lineno})")

    def code(statements: list[ast.stmt]) -> CodeType:
        module = ast.fix_missing_locations(ast.Module(statements, []))
        return compile(module, function.__code__.co_filename, "exec", dont_inherit=True)

    def turn(statements: list[ast.stmt], answered: ast.AST | None) -> CodeType:
        replaced = [_Steps(steps, answered).visit(statement) for statement in _copies(statements, steps)]
        return code([ast.copy_location(_once(copy.deepcopy(loop.target), replaced), loop)])

    tail, made = _following(tree.body, loop), _stored(loop.body, handed_back=False)
    targets = _stored([loop.target])
    carried = _read_first(loop.body, targets) & made
    state = _state(kind, steps, places, carried)
    return Source(
        module=function.__globals__,
        entry=_entry(function, tree, loop, code),
        turn=turn(loop.body, None),
        rest=tuple(turn(rest, step) for rest, step in zip(rests, steps, strict=True)),
        tail=code([_once(ast.Name("_", ast.Store()), [_Returns().visit(copy.deepcopy(each)) for each in tail])]),
        state=state,
        needs=tuple(_read_first(rest, targets, steps) & made for rest in rests),
        late=(_read_first(tail) & made) - {state},
        reads=_read_first(loop.body, targets),
        rest_reads=frozenset().union(*(_read_first(rest, targets, steps) for rest in rests)),
        tail_reads=_read_first(tail),
        schedulers=tuple(ast.unparse(step.func.value).removeprefix("self.") for step in steps),  # type: ignore[attr-defined]
        around=tuple(
            compile(ast.Expression(copy.deepcopy(each.iter)), function.__code__.co_filename, "eval") for each in outer
        ),
    )


def _refusal(kind: type, why: str) -> TypeError:
    return TypeError(
        f"{kind.__name__} {why}; a search needs one loop over time steps with one step of a scheduler in it. "
        "docs/pipelines.md lists the pipelines that have it, and docs/extending.md says how to write an adapter"
    )


def _is_step(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "step"
        and "scheduler" in ast.unparse(node.func.value)
    )


def _holds(node: ast.AST, what: ast.AST) -> bool:
    return any(inner is what for inner in ast.walk(node))


def _loop(kind: type, tree: ast.FunctionDef) -> tuple[ast.For, list[ast.For]]:
    """The loop that steps, the last one where several follow each other, and the loops around it."""
    loops = [n for n in ast.walk(tree) if isinstance(n, _LOOPS) and any(map(_is_step, ast.walk(n)))]
    inner = [n for n in loops if not any(m is not n and _holds(n, m) for m in loops)]
    if not inner:
        inside = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and "pipe" in ast.unparse(n.func)]
        raise _refusal(kind, "only calls other pipelines" if inside else "steps no scheduler in a loop of its own")
    loop = max(inner, key=lambda n: n.lineno)
    outer = [n for n in loops if n is not loop and _holds(n, loop)]
    for each in [loop, *outer]:
        if not isinstance(each, ast.For):
            raise _refusal(kind, f"loops while a condition holds (line {each.lineno})")
    for node in ast.walk(tree):
        if isinstance(node, ast.With | ast.Try) and _holds(node, loop):
            held = [ast.unparse(item) for item in getattr(node, "items", [])] or ["try"]
            if strange := [item for item in held if "progress_bar" not in item]:
                raise _refusal(kind, f"loops within {strange[0]} (line {node.lineno})")
    if loop.orelse:
        raise _refusal(kind, f"has an else after its loop (line {loop.lineno})")
    return loop, outer  # type: ignore[return-value]


def _statement(kind: type, loop: ast.For, step: ast.AST) -> ast.stmt:
    """The statement of a turn that steps."""
    at = [n for n in ast.walk(loop) if isinstance(n, ast.stmt) and n is not loop and _holds(n, step)]
    if any(isinstance(n, (*_LOOPS, ast.FunctionDef)) for n in at):
        raise _refusal(kind, f"steps within a loop or function in its loop (line {at[-1].lineno})")
    return at[-1]


def _blocks(statement: ast.AST) -> list[list[ast.stmt]]:
    found = [getattr(statement, name, None) for name in ("body", "orelse", "finalbody")]
    return [block for block in found if isinstance(block, list)] + [h.body for h in getattr(statement, "handlers", [])]


def _following(body: list[ast.stmt], target: ast.stmt) -> list[ast.stmt]:
    """The statements that come after `target`, from its own block outwards."""
    for k, statement in enumerate(body):
        if statement is target:
            return body[k + 1 :]
        for block in _blocks(statement):
            if any(_holds(inner, target) for inner in block):
                return _following(block, target) + body[k + 1 :]
    return []


def _copies(statements: list[ast.stmt], kept: Sequence[ast.AST]) -> list[ast.stmt]:
    """Copies whose nodes may be replaced, with those `kept` in their places."""
    return copy.deepcopy(statements, {id(node): node for node in kept})


def _once(target: ast.expr, body: list[ast.stmt]) -> ast.For:
    """A loop of one turn, in which `break` and `continue` are what they were."""
    return ast.For(target, ast.Tuple([ast.Name(ITEM, ast.Load())], ast.Load()), body or [ast.Pass()], [])


class _Steps(ast.NodeTransformer):
    """The scheduler's step -> its answer where it is the one `answered`, else `raise Asked`."""

    def __init__(self, steps: list[ast.AST], answered: ast.AST | None) -> None:
        self.steps, self.answered = steps, answered

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if node is self.answered:
            return ast.copy_location(ast.Name(ANSWER, ast.Load()), node)
        if not any(node is step for step in self.steps):
            return self.generic_visit(node)
        place = ast.Constant([node is step for step in self.steps].index(True))
        asked = ast.Call(_raiser(), [ast.Name(_ASKED, ast.Load()), place, *node.args], node.keywords)
        return ast.copy_location(asked, node)


def _raiser() -> ast.expr:
    return ast.Name("_dsearch_raise", ast.Load())


def _raise(kind: type[BaseException], *args: Any, **kwargs: Any) -> None:
    raise kind(*args, **kwargs)


_OURS["_dsearch_raise"] = _raise


class _Returns(ast.NodeTransformer):
    """`return x` -> `raise Returned(x)`, but in functions of their own; what a turn made is not there to delete."""

    def visit_Delete(self, node: ast.Delete) -> ast.AST:
        named = all(isinstance(target, ast.Name | ast.Tuple) for target in node.targets)
        return ast.copy_location(ast.Pass(), node) if named else node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        value = ast.Call(ast.Name(_RETURNED, ast.Load()), [] if node.value is None else [node.value], [])
        return ast.copy_location(ast.Raise(value), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node


def _entry(
    function: Any, tree: ast.FunctionDef, loop: ast.For, code: Callable[[list[ast.stmt]], CodeType]
) -> Callable[[dict[str, Any]], Callable[..., Any]]:
    """`__call__` with `raise Left(locals(), what the loop iterates over)` in the place of its loop."""
    seen = ast.Call(ast.Name("locals", ast.Load()), [], [])
    left = ast.copy_location(ast.Raise(ast.Call(ast.Name(_LEFT, ast.Load()), [seen, loop.iter], [])), loop)

    class Leave(ast.NodeTransformer):
        def visit_For(self, node: ast.For) -> ast.AST:
            return left if node is loop else self.generic_visit(node)

    changed = Leave().visit(copy.deepcopy(tree, {id(loop): loop}))
    changed.decorator_list = []
    module = code([changed])
    made = next(each for each in module.co_consts if isinstance(each, CodeType) and each.co_name == tree.name)

    def prepare(names: dict[str, Any]) -> Callable[..., Any]:
        entry = FunctionType(made, names, function.__name__, function.__defaults__)
        entry.__kwdefaults__ = function.__kwdefaults__
        return entry

    return prepare


# ---- what reads and makes which variable --------------------------------------------------------------------


def _stored(nodes: Sequence[ast.AST], handed_back: bool = True) -> frozenset[str]:
    """Names that the nodes give a value; those that only a callback hands back can be left out."""
    found = set()
    for node in nodes:
        if not handed_back and isinstance(node, ast.Assign) and "callback_outputs" in ast.unparse(node.value):
            continue
        if isinstance(node, ast.comprehension | ast.Lambda):  # what they name is theirs
            continue
        if isinstance(node, ast.Name | ast.Subscript) and isinstance(node.ctx, ast.Store):
            found |= {_name(node)} - {None}
        found |= _stored(list(ast.iter_child_nodes(node)), handed_back)
    return frozenset(found)


def _name(node: ast.AST) -> Any:
    """The variable of `x`, `x[...]` and `x[...][...]`."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _loaded(node: ast.AST | None, but: Sequence[ast.AST] = ()) -> set[str]:
    if node is None or any(node is each for each in but):
        return set()
    found = {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) else set()
    found = found.union(*(_loaded(child, but) for child in ast.iter_child_nodes(node)))
    return found - _stored([part.target for part in getattr(node, "generators", [])])


def _read_first(body: list[ast.stmt], known: Iterable[str] = (), but: Sequence[ast.AST] = ()) -> frozenset[str]:
    """Names that the statements may read before they have given them a value themselves; `but` is not looked into."""
    read: set[str] = set()

    def walk(statements: list[ast.stmt], made: set[str]) -> set[str]:
        for statement in statements:
            blocks = _blocks(statement)
            heads = [n for n in ast.iter_child_nodes(statement) if not isinstance(n, ast.stmt | ast.ExceptHandler)]
            read.update(*(_loaded(head, but) - made for head in heads))
            if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
                read.update({statement.target.id} - made)
            head_made = made | _stored(heads)
            after = [walk(block, set(head_made)) for block in blocks]
            if isinstance(statement, ast.If):
                made = set.intersection(*after) if statement.orelse else made
            elif isinstance(statement, ast.With):
                made = after[0]
            elif not isinstance(statement, (*_LOOPS, ast.FunctionDef)):
                made = head_made
        return made

    walk(body, set(known))
    return frozenset(read)


def _state(kind: type, steps: Sequence[Any], places: Sequence[ast.stmt], carried: frozenset[str]) -> str:
    """The variable that a step reads and makes anew: of the step's result, of its arguments, or by its usual name."""
    made = [name for place in places for name in sorted(_stored([place]))]
    given = [name for step in steps for value in step.args for name in sorted(_loaded(value))]
    given += [name for step in steps for keyword in step.keywords for name in sorted(_loaded(keyword.value))]
    for name in [*made, *given, "latents"]:
        if name in carried:
            return name
    raise _refusal(kind, "carries no variable from step to step")
