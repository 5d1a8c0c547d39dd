"""The model in the box: a tiny Stable Diffusion and two tiny CLIPs, shipped with the library.

``StableDiffusionPipeline.from_pretrained(dsearch.box.pipeline_path())`` works offline and draws 64x64 emoji
in seconds on a laptop. ``guide`` is the CLIP to search with; ``judge`` is another, trained apart, to judge
what the search found. What they can do is measured in ``docs/box.md``; where the drawings come from is in
``ATTRIBUTION.md`` beside this file.

Importing this module imports neither torch nor diffusers.
"""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["DEMO_PROMPTS", "SUBJECTS", "clip_path", "pipeline_path", "preview_path"]

_HERE = Path(__file__).parent
_SUBJECTS = json.loads((_HERE / "subjects.json").read_text(encoding="utf-8"))

SUBJECTS: tuple[str, ...] = tuple(_SUBJECTS["subjects"])
"""Everything the box can draw, as prompts; " on a blue background" and ", flat style" may follow."""

DEMO_PROMPTS: tuple[str, ...] = tuple(_SUBJECTS["demo_prompts"])
"""The prompts to show: picked among ``SUBJECTS`` for how often the judge names their pictures."""


def pipeline_path() -> Path:
    """The folder to hand to ``StableDiffusionPipeline.from_pretrained``."""
    return _HERE / "pipeline"


def preview_path() -> Path:
    """The folder to hand to ``AutoencoderTiny.from_pretrained``: a small decoder, for values while a search runs."""
    return _HERE / "preview"


def clip_path(role: str = "guide") -> Path:
    """The folder to hand to ``CLIPModel.from_pretrained``: of the ``"guide"`` or of the ``"judge"``.

    Raises:
        ValueError: for any other role.
    """
    if role not in ("guide", "judge"):
        raise ValueError(f"role={role!r} is not in the box; choose 'guide' or 'judge'")
    return _HERE / role
