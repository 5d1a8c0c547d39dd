"""What the package offers, name by name, as `public_api.txt` lists it; and each name says what it is.

`make api` writes the listing anew, and with it the stubs that tell type checkers what the folders of methods, adapters
and rewards hold.
"""

import ast
import dataclasses
import inspect
import re
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import get_origin

import dsearch
from dsearch.discovery import modules

LISTING = Path(__file__).parent / "public_api.txt"
RENEW = "run `make api` and look at the difference: it is what users will see"
FOLDERS = ("dsearch.methods", "dsearch.adapters", "dsearch.rewards")
"""Packages whose names are those of their modules."""


def public_modules():
    """Every module that users may import: those with `__all__`, and not the command line's."""
    found = [dsearch]
    for info in walk_packages(dsearch.__path__, "dsearch."):
        inner = info.name.split(".")[1:]
        if inner[0] not in ("cli", "__main__") and not any(part.startswith("_") for part in inner):
            found.append(import_module(info.name))
    return found


def exported(module):
    """The names a module offers; a folder's are listed at its modules, where they are defined."""
    return [] if module.__name__ in FOLDERS else sorted(getattr(module, "__all__", []))


@cache
def parsed(module):
    return ast.parse(inspect.getsource(import_module(module)))


def is_class(thing):
    """One of ours: `list[int]` and `Any` pass for classes on some Pythons."""
    return inspect.isclass(thing) and get_origin(thing) is None and thing.__module__.split(".")[0] == "dsearch"


def is_function(thing):
    return inspect.isfunction(inspect.unwrap(thing))


def source(module, qualname):
    """The syntax of a class or function; of several of one name the last, which is the one that counts."""
    node = parsed(module)
    for part in qualname.split("."):
        node = next(inner for inner in reversed(node.body) if getattr(inner, "name", None) == part)
    return node


def assignment(module, name):
    """The syntax of a name that is given a value, and what follows it."""
    for node, after in zip(parsed(module).body, [*parsed(module).body[1:], None], strict=True):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node, after
    raise LookupError(f"{module}.{name} is not assigned there")


def origin(module, name):
    """Where a name is defined, whichever module offers it."""
    thing = getattr(module, name)
    if is_class(thing) or is_function(thing):
        return f"{thing.__module__}.{thing.__qualname__}"
    for node in parsed(module.__name__).body:
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            package = module.__package__.split(".")[: len(module.__package__.split(".")) + 1 - node.level]
            return ".".join([*package, node.module, name])
    return f"{module.__name__}.{name}"


def shown(node):
    """The node as source; Pythons differ in a blank."""
    return ast.unparse(node).replace("lambda :", "lambda:")


def ours(cls):
    """The class and those of the package that it inherits from, nearest first."""
    return [c for c in cls.__mro__ if c.__module__.split(".")[0] == "dsearch"]


def members(cls):
    """The public methods and properties by name, inherited ones of the package included; `__call__` is one."""
    found = {}
    for owner in ours(cls):
        for name, member in vars(owner).items():
            inner = getattr(member, "__func__", getattr(member, "func", getattr(member, "fget", member)))
            public = not name.startswith("_") or name == "__call__"
            if public and is_function(inner) and name not in vars(owner).get("__annotations__", {}):
                found.setdefault(name, (owner, member))
    return sorted(found.items())


def signature(node):
    """What a function takes, without `self`, and what it returns."""
    node.args.args = [one for one in node.args.args if one.arg not in ("self", "cls")]
    told = f"({shown(node.args)})"
    return told if node.returns is None else f"{told} -> {shown(node.returns)}"


def kind_of(member):
    kinds = {
        classmethod: "classmethod",
        staticmethod: "staticmethod",
        property: "property",
        cached_property: "property",
    }
    return kinds.get(type(member), "method")


def fields(cls):
    """`(name: type = default, ...)` of a class that is made of what it holds."""
    held = [node for owner in reversed(ours(cls)) for node in source(owner.__module__, owner.__qualname__).body]
    public = [node for node in held if isinstance(node, ast.AnnAssign) and not node.target.id.startswith("_")]
    public = [node for node in public if not shown(node.annotation).startswith("ClassVar")]
    return f"({', '.join(shown(node) for node in public)})"


def made_from(cls):
    """What an instance is made from, as its class or the nearest one above says."""
    if dataclasses.is_dataclass(cls) or hasattr(cls, "_fields") or getattr(cls, "_is_protocol", False):
        return fields(cls)
    for owner in ours(cls):
        if "__init__" in vars(owner):
            return signature(source(owner.__module__, f"{owner.__qualname__}.__init__")).removesuffix(" -> None")
    return ""


def path_of(module, name):
    """As users write it: what a folder's module offers, the folder does."""
    folder = module.__name__.rpartition(".")[0]
    return f"{folder if folder in FOLDERS else module.__name__}.{name}"


def described(module, name):
    """The lines of one name: what it is, and for a class each of its methods and properties."""
    thing, path = getattr(module, name), path_of(module, name)
    if inspect.ismodule(thing):
        return [f"{path} module"]
    if origin(module, name) != f"{module.__name__}.{name}":
        return [f"{path} = {origin(module, name)}"]
    if is_class(thing):
        kind = "protocol" if getattr(thing, "_is_protocol", False) else "class"
        bases = [base.__name__ for base in thing.__bases__ if base.__name__ not in ("object", "Protocol", "Generic")]
        of = f" of {', '.join(bases)}" if bases else ""
        lines = [f"{path} {kind}{of} {made_from(thing)}".rstrip()]
        for inner, (owner, member) in members(thing):
            node = source(owner.__module__, f"{owner.__qualname__}.{inner}")
            kind = kind_of(member)
            told = signature(node).removeprefix("() ") if kind == "property" else signature(node)
            lines.append(f"{path}.{inner} {kind} {told}")
        return lines
    if is_function(thing):
        return [f"{path} function {signature(source(thing.__module__, thing.__qualname__))}"]
    node, _ = assignment(module.__name__, name)
    if isinstance(node, ast.AnnAssign):
        return [f"{path} value: {shown(node.annotation)}"]
    if isinstance(node.value, ast.Subscript | ast.BinOp | ast.Name | ast.Attribute):
        return [f"{path} alias of {shown(node.value)}"]
    return [f"{path} value: {type(thing).__name__}"]


def listing():
    """One line a name, in an order of its own, so that a change of the public surface shows as a line."""
    return [line for module in public_modules() for name in exported(module) for line in described(module, name)]


def stubs():
    """By file, what type checkers read in place of a folder that finds its modules at run time."""
    found = {}
    for folder in map(import_module, FOLDERS):
        lines = ["# Written by `make api`, for type checkers; at run time the folder finds its modules.", ""]
        for module in sorted(modules(folder.__name__, folder.__path__), key=lambda module: module.__name__):
            name = module.__name__.rpartition(".")[2]
            lines += [f"from .{name} import {public} as {public}" for public in sorted(module.__all__)]
        lines += ["", "__all__: list[str]"] if hasattr(folder, "__all__") else []
        found[Path(folder.__file__).with_suffix(".pyi")] = "\n".join(lines) + "\n"
    return found


def documented():
    """(name, docstring) of everything that is listed."""
    for module in public_modules():
        yield module.__name__, module.__doc__
        for name in exported(module):
            thing, path = getattr(module, name), path_of(module, name)
            yield path, doc(module, name)
            if is_class(thing):
                yield from ((f"{path}.{inner}", member.__doc__) for inner, (_, member) in members(thing))


def doc(module, name):
    """A class's, a function's, or the text that stands below a value."""
    thing = getattr(module, name)
    if inspect.ismodule(thing) or is_class(thing) or is_function(thing):
        return thing.__doc__
    _, after = assignment(*origin(module, name).rsplit(".", 1))
    below = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    return after.value.value if below else type(thing).__doc__ if ours(type(thing)) else None


def says_something(text):
    """A sentence of a few words, and not the list of fields that a class without one is given."""
    text = (text or "").strip()
    return len(text.split()) > 1 and not re.fullmatch(r"\w+\(.*\)", text, re.DOTALL)


def test_the_public_surface_is_the_listed_one():
    assert LISTING.read_text(encoding="utf-8").splitlines() == listing(), RENEW


def test_type_checkers_are_told_what_the_folders_hold():
    for file, text in stubs().items():
        assert file.read_text(encoding="utf-8") == text, RENEW


def test_each_name_of_a_folder_is_one_of_its_modules():
    for folder in map(import_module, FOLDERS):
        for module in modules(folder.__name__, folder.__path__):
            assert all(getattr(folder, name) is getattr(module, name) for name in module.__all__)


def test_every_public_name_says_what_it_is():
    assert [name for name, text in documented() if not says_something(text)] == []


if __name__ == "__main__":
    LISTING.write_text("\n".join(listing()) + "\n", encoding="utf-8")
    for file, text in stubs().items():
        file.write_text(text, encoding="utf-8")
