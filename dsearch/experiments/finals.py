"""The final choice that a method of an experiment, or the command line, names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..core.plan import positive
from ..core.tournament import Format, Tournament, bradley_terry, by_reward, elimination, swiss, tournament
from .naming import as_named, check_reward, unasked
from .typed import bind

__all__ = ["final", "judge_of", "unjudged"]

FORMATS: Mapping[str, Callable[..., Format]] = {
    "elimination": elimination,
    "swiss": swiss,
    "bradley_terry": bradley_terry,
}


def final(said: Any, judge: Callable[[Any], Any]) -> Tournament:
    """A tournament from words: its judge, or a mapping of `judge`, `form`, `chunk` and the form's own arguments.

    Args:
        said: the words.
        judge: makes the judge of what stands for it: a reward by name, or with its arguments.

    Raises:
        ValueError: for words that are not known.
    """
    args = dict(said) if isinstance(said, Mapping) else {"judge": said}
    if (kind := args.pop("kind", "tournament")) != "tournament":
        raise ValueError(f"final: kind is {kind!r}; a final choice is a tournament")
    if "judge" not in args:
        raise ValueError("final: judge is missing; name a reward, or a judge of pairs as {kind: vlmjudge, ...}")
    name, form, chunk = (
        args.pop("judge"),
        args.pop("form", "elimination"),
        positive("final: chunk", args.pop("chunk", 64)),
    )
    if form not in FORMATS:
        raise ValueError(f"final: form {form!r} is not known; choose one of {', '.join(FORMATS)}")
    bind(FORMATS[form], args, f"final: {form}")
    return tournament(judge(name), FORMATS[form](**args), chunk)


def judge_of(found: Any) -> Any:
    """A judge of pairs: itself where it compares pairs, else one that prefers what the reward says more of."""
    compares = hasattr(found, "compare") and getattr(found, "mode", "pairwise") == "pairwise"
    return found if compares else by_reward(found)


def unjudged(said: Any) -> Any:
    """Stands in for a judge that is not made yet; its words are checked."""
    check_reward(as_named(said))
    return by_reward(unasked)
