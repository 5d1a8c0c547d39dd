"""Model libraries that keep silent."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from .._optional import optional
from .._torchvision import mend

__all__ = ["hush"]


@contextmanager
def hush() -> Iterator[None]:
    """Silences model libraries within (logs, FutureWarnings, progress bars); afterwards they talk as before."""
    mend()
    with optional():
        import diffusers
        import transformers
    logs = [library.utils.logging for library in (transformers, diffusers)]
    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        for log in logs:
            log.set_verbosity_error()
            log.disable_progress_bar()
        try:
            yield
        finally:
            for log, verbosity, bar in before:
                log.set_verbosity(verbosity)
                if bar:
                    log.enable_progress_bar()
