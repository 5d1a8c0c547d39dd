"""What a search stops with, and what it carries: nothing that was paid for is lost."""

from __future__ import annotations

from .contract import Beams

__all__ = ["Interrupted", "ModelError", "RewardError", "SearchError"]


class SearchError(RuntimeError):
    """What a search could not go on with.

    Attributes:
        level: the noise level at which it stopped (`num_steps` is clean).
        prompts: those of the rows concerned.
        beams: the survivors of the last step that was complete, at level `reached`; None where there is none. Their
            posterior means `beams.pred.x0` can be decoded, so that what was paid for is not lost.
        reached: the noise level of `beams`.
    """

    beams: Beams | None = None
    reached: int | None = None

    def __init__(self, message: str, level: int, prompts: list[str]) -> None:
        shown = ", ".join(map(repr, dict.fromkeys(prompts)))
        super().__init__(f"{message} (level {level}, prompts {shown})")
        self.level, self.prompts = level, prompts


class RewardError(SearchError):
    """A reward raised, or returned something other than one number per image."""


class ModelError(SearchError):
    """The network or the decoder returned nan or infinity, or does not fit into memory with a single row."""


class Interrupted(KeyboardInterrupt):
    """A KeyboardInterrupt that came during a search, with the survivors of the last complete step.

    Attributes:
        beams: the survivors, as in `SearchError`.
        reached: their noise level.
    """

    def __init__(self, beams: Beams, reached: int) -> None:
        super().__init__()
        self.beams, self.reached = beams, reached
