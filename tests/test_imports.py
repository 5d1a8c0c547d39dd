"""Imports point one way: cli -> adapters, rewards, methods -> core; and `import dsearch` is light."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import dsearch

ROOT = Path(dsearch.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

RANK = {
    "dsearch.core.plan": 0,
    "dsearch.core.contract": 0,
    "dsearch.core.frames": 0,
    "dsearch.core.errors": 1,
    "dsearch.core.rng": 1,
    "dsearch.core.chunks": 1,
    "dsearch.core.meter": 1,
    "dsearch.core.tournament": 1,
    "dsearch.core.resample": 2,
    "dsearch.core.budget": 2,
    "dsearch.core.engine": 2,
    "dsearch.core.selection": 3,
    "dsearch.core.potential": 3,
    "dsearch.core.watch": 3,
    "dsearch.core.method": 4,
    "dsearch.core.value": 5,
    "dsearch.core.steps": 5,
    "dsearch.core.expand": 6,
    "dsearch.core.result": 6,
    "dsearch.core.loop": 7,
    "dsearch.core.tuning": 8,
}
"""A core module imports those of lower rank, or of its own without a circle."""


def name_of(file):
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in FILES}


def is_typing_only(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING"


def imports(module):
    """(imported module, whether within a function) for every import that runs."""
    file = MODULES[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]

    def walk(node, inside):
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                deeper = f"{base}.{alias.name}"
                yield (deeper if deeper in MODULES else base), inside
        children = node.orelse if is_typing_only(node) else ast.iter_child_nodes(node)
        for child in children:
            yield from walk(child, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    return list(walk(ast.parse(file.read_text()), False))


def ours(module):
    return {name for name, _ in imports(module) if name.split(".")[0] == "dsearch"}


def others(module, lazy=True):
    found = {name.split(".")[0] for name, inside in imports(module) if lazy or not inside}
    return found - {"dsearch"} - sys.stdlib_module_names


def within(folder):
    return [m for m in MODULES if m == f"dsearch.{folder}" or m.startswith(f"dsearch.{folder}.")]


def outside(names, *allowed):
    return {n for n in names if not any(n == f"dsearch.{a}" or n.startswith(f"dsearch.{a}.") for a in allowed)}


def test_the_walk_sees_imports():
    assert "dsearch.core.rng" in ours("dsearch.core.selection")
    assert "dsearch.core.engine" not in ours("dsearch.core.contract")  # for type checkers only
    assert ("tqdm.auto", True) in imports("dsearch.core.loop")
    assert {"dsearch.core.selection", "dsearch.core.contract"} <= ours("dsearch.methods.svdd")


@pytest.mark.parametrize("module", within("core"))
def test_core_imports_torch_einops_and_numpy_alone(module):
    assert others(module, lazy=False) <= {"torch", "einops", "numpy"}
    assert others(module) <= {"torch", "einops", "numpy"} | ({"tqdm"} if module == "dsearch.core.loop" else set())


@pytest.mark.parametrize("module", within("core"))
def test_core_imports_only_core_and_downwards(module):
    if module == "dsearch.core":
        assert not ours(module)
        return
    assert module in RANK, f"{module} is new: give it its rank in tests/test_imports.py"
    for name in ours(module):
        assert RANK.get(name, 99) <= RANK[module], f"{module} imports {name}"


def test_no_imports_go_in_a_circle():
    TopologicalSorter({module: ours(module) - {module} for module in MODULES}).prepare()


@pytest.mark.parametrize("module", within("methods"))
def test_methods_import_core_and_one_another_alone(module):
    assert not outside(ours(module), "core", "discovery", "methods")
    assert others(module) <= {"torch", "einops", "numpy"}


@pytest.mark.parametrize("module", within("adapters"))
def test_adapters_import_core_and_no_reward_or_method(module):
    assert not outside(
        ours(module), "core", "adapters", "discovery", "result", "_optional", "_torchvision", "_precision", "_prompts"
    )


@pytest.mark.parametrize("module", within("rewards"))
def test_rewards_import_core_and_the_box_of_weights_and_no_adapter_or_method(module):
    assert not outside(
        ours(module),
        "core",
        "rewards",
        "box",
        "discovery",
        "_optional",
        "_torchvision",
        "_precision",
        "_prompts",
        "_weights",
    )


ROOMS = ("core", "studies", "experiments", "compare", "report", "cli")
"""Each room imports none of those behind it."""


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_no_room_that_stands_on_them(room):
    behind = ROOMS[ROOMS.index(room) + 1 :]
    for module in within(room):
        found = ours(module)
        assert outside(found, *behind) == found, f"{module} imports {sorted(found - outside(found, *behind))}"


@pytest.mark.parametrize("module", [m for m in MODULES if m not in (*within("cli"), "dsearch.__main__")])
def test_nothing_imports_the_command_line(module):
    assert not {name for name in ours(module) if name in (*within("cli"), "dsearch.__main__")}


def test_each_adapter_and_method_and_core_module_says_what_is_public():
    for module in [*within("core"), *within("methods"), *within("adapters")]:
        if MODULES[module].name != "__init__.py":
            tree = ast.parse(MODULES[module].read_text())
            names = [ast.unparse(t) for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
            assert "__all__" in names, f"{module} has no __all__"


HEAVY = [
    "diffusers",
    "transformers",
    "accelerate",
    "PIL",
    "open_clip",
    "torchvision",
    "matplotlib",
    "tqdm",
    "scipy",
    "yaml",
]


def test_import_loads_no_model_or_image_library():
    """Neither the library nor its adapters and rewards, until one of them is named."""
    code = "import torch, sys; before = set(sys.modules); import dsearch, dsearch.adapters, dsearch.rewards; "
    code += "print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "dsearch.core.loop" in loaded and "dsearch.rewards" in loaded
    assert not {name.split(".")[0] for name in loaded} & set(HEAVY)


def test_every_public_name_exists():
    assert all(hasattr(dsearch, name) for name in dsearch.__all__)
    assert all(callable(getattr(dsearch.methods, name)) for name in dsearch.methods.__all__)
