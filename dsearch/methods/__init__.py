"""One file per paper: each function returns a `Method` for `dsearch.search`.

Every module in this folder is discovered; the names in its `__all__` become `dsearch.methods.NAME`. Besides them
a module has `example(reward)`, a small instance of its method, over which the tests run every law. Type checkers, which
do not run this, read `__init__.pyi`; `make api` writes it.
"""

from ..discovery import modules as _modules

__all__: list[str] = []

for _module in _modules(__name__, __path__):
    # After the import, for importing a submodule binds its name: `methods.dsearch` is the function, not the file.
    globals().update({name: getattr(_module, name) for name in _module.__all__})
    __all__.extend(_module.__all__)
