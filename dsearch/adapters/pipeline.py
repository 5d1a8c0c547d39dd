"""Any pipeline of diffusers with a denoising loop, as it is: text, image, edit, inpaint, control, video, audio."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._precision import warn_if_emulated
from .._prompts import by_tokenizer, tell
from ..core.contract import Prediction, Rng, map_tree
from ..core.frames import evenly
from ..core.plan import positive
from ..core.rng import move
from ._check import checked
from ._kernel import Kernel, warn_of_clipping
from ._noise import noise_of
from ._replay import Draws, Frame, Layout, Replay, Step, capture, fresh, schedulers, seeded, tensors
from ._rows import Growth, folded, growth
from ._source import read
from ._tables import Tables, exchanged, kernel_of

__all__ = ["AnyPipeline"]

_COUNTS = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt", "batch_size")
_ANY = "a picture"
"""The prompt of calls that are asked for shapes only; to some pipelines an empty one means none."""
OURS: dict[str, str] = {
    "prompt": "give prompts to the search",
    "latents": "a search draws its own start",
    "return_dict": "a search returns a Result",
    **dict.fromkeys(_COUNTS[:3], "the method says how many samples survive"),
}
"""What a search settles, and no call is given."""


class _Start(NamedTuple):
    """The law of the state where the loop begins: mean + scale * normal, of one row `[1, ...]`."""

    mean: Tensor | float
    scale: Tensor | float


class _Out(NamedTuple):
    """What a step needs of a prediction: `out` and `sample` as the scheduler gets them, and what the turn left.

    The sample is None where it is the state itself.
    """

    out: Tensor
    sample: Tensor | None
    left: tuple[Tensor, ...]


class _Turn(NamedTuple):
    """What the rest of a turn needs besides rows, alike in all turns of a level."""

    place: int
    fixed: dict[str, Any]
    numbers: dict[str, int]  # for one row
    rows: tuple[tuple[str, bool], ...]  # the names of what goes with rows, and whether it was folded
    folded: bool


class AnyPipeline:
    """A loaded pipeline of diffusers as a denoiser, without an adapter of its own; the pipeline is not changed.

    The pipeline's call runs up to its loop; the turns of the loop and what follows it are then run from the pipeline's
    own source, at any level, with any number of rows. So text encoding, guidance, control images, masks, callbacks and
    decoding are the pipeline's own. The reverse kernel is the scheduler's step where it draws noise and remembers no
    step (DDIM with `eta`, DDPM, Euler ancestral, LCM, TCD, SDE-DPM-Solver++ of order 1), for flow matching the one of
    `noise`, and for all other schedulers the DDIM family on their tables (Song et al. 2021, equations 12 and 16).
    Schedulers of order 2 are exchanged for the first-order one of their family, and PNDM for DDIM.

    Args:
        pipe: the pipeline, on its device, with its precision, compilation and offloading as you have set them by now.
        eta: strength of the noise, by default 1; at 0 all children are equal, and only width 1 makes sense.
        noise: of flow models, the kind: `posterior`, `cps`, `flow-sde`, `dance` or `full`, each by default of the eta
            that its source takes (formulas and sources: docs/models.md).
        preview: a cheap decoder for the values of a search, in the place of the pipeline's `vae`: an `AutoencoderTiny`.
        preview_frames: of videos, how many latent frames the values of a search see, evenly spread; None for all.
            Where the decoder takes frames by themselves (AnimateDiff) they are those of the video, and where it
            compresses time (Wan) about those. The video that is returned is decoded in full.
        check: whether, before its first search, a pipeline class is run for a few steps beside its own call, in order
            and at shuffled levels, and refused where they differ. Once a process for each class and scheduler.
        **call: what you would pass to `pipe(...)`, prompt apart: `num_inference_steps`, guidance, images, masks,
            strength, sizes, frames, `prompt_embeds`, callbacks. Its `generator` draws what is not the search's own: a
            sampled image encoding, say.

    Raises:
        TypeError: where the source of the pipeline is not understood, or an argument is not the pipeline's.
        ValueError: for a scheduler or eta that cannot work, naming what does.

    Attributes:
        num_steps: turns of the pipeline's loop.
        pipe: the pipeline.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        eta: float | None = None,
        noise: str = "posterior",
        preview: Any = None,
        preview_frames: int | None = None,
        check: bool = True,
        **call: Any,
    ) -> None:
        self.pipe, self._cheap, self._check, self._call = pipe, preview, check, call
        self._few = None if preview_frames is None else positive("preview_frames", preview_frames)
        self._noise = noise_of(noise, eta)
        self.eta = self._noise.eta
        self._source = read(type(pipe))
        self._parameters = inspect.signature(inspect.unwrap(type(pipe).__call__)).parameters
        self._refuse_arguments()
        self._exchanged = {n: new for n, s in schedulers(pipe).items() if (new := exchanged(s)) is not None}
        self._device, draws = pipe._execution_device, Draws()  # asked once: it walks over all modules
        frame = self._frame(self._arguments(_ANY, 1), draws)
        self._state = self._state_of(frame)
        self._layout = self._grows(frame)
        self._home = Replay([frame], self._layout)
        self._start = self._law(draws.seen)
        self.num_steps = len(frame.items)
        self.kernel: Kernel = kernel_of(self._home.levels, self._noise, self._state.device)
        for part in pipe.components.values():
            warn_if_emulated(getattr(part, "dtype", None), self._device)
        if "vae" in pipe.components and not isinstance(self.kernel, Tables):
            warn_of_clipping(self.kernel.scheduler, stacklevel=3)
        self._shape: tuple[int, ...] = ()  # of a sample as the scheduler sees it, known from the first turn
        self._decodes_rows = True
        self._growths: dict[str, Growth | None] = {}
        self._turns: dict[int, _Turn] = {}
        if self._few is not None:
            self._time, self._places = self._frames_seen(self._few)

    # ---- the denoiser ---------------------------------------------------------------------------------------

    def call_for(self, prompt: str) -> dict[str, Any]:
        """What of the call depends on the prompt: the prompt. To be overridden where it is embeddings of your own.

        A subclass that weighs words, say, returns `{"prompt_embeds": ..., "negative_prompt_embeds": ...}`, of one row
        each. It is also called with a prompt of the adapter's own.
        """
        return {"prompt": prompt}

    def encode(self, prompts: list[str]) -> list[Replay]:
        """Prompts -> the pipeline's calls, left at their loop: one that takes rows of all, or one for each prompt."""
        calls = [self._arguments(prompt, 1) for prompt in prompts]
        if "prompt" in calls[0]:
            tell(type(self.pipe).__name__, prompts, self._split)
        if self._check:
            together = checked(self.pipe, calls[0], self._exchanged, self._layout)
            if not together.turns:
                self._layout = self._home.layout = None  # rows of one call are not those of several: one by one
            self._decodes_rows = together.tails
        object.__setattr__(self._home.pipe, "_interrupt", False)
        frames = [self._frame(call) for call in calls]
        whole = Replay(frames, self._layout)
        return [whole] if whole.together() else [Replay([frame], self._layout) for frame in frames]

    def start(self, batch_shape: tuple[int, int], rng: Rng) -> Tensor:
        """Where the pipeline starts, `[B, K, ...]`: pure noise, or a noised image where it is given one."""
        noise = move(rng.normal("start", 0, (*batch_shape, *self._state.shape[1:])), self._state.device)
        return (self._start.mean + self._start.scale * noise).to(self._state.dtype)

    def noise(self, step: int, batch_shape: tuple[int, int, int], rng: Rng) -> Tensor:
        """Normals `[B, K, w, ...]`, float32, one for each number that the scheduler steps."""
        if self.eta == 0 and batch_shape[2] > 1:
            width = batch_shape[2]
            raise ValueError(f"width={width} at step {step}: with eta=0 all children are equal; set eta above 0")
        if not self._shape:
            self._predicted(self._home, self._state, 0, [0])
        return move(rng.normal("noise", step, (*batch_shape, *self._shape)), self._state.device)

    def predict(self, x: Tensor, level: int, cond: list[Replay], prompt_index: Tensor) -> Prediction:
        """`[R, ...]` -> what the pipeline would give its scheduler, and the posterior mean that this says."""
        if level == self.num_steps:
            return Prediction(None, x)
        if getattr(self._home.pipe, "_interrupt", False):  # where callbacks see the pipeline
            raise KeyboardInterrupt("a callback interrupted the pipeline")
        if len(cond) == 1:
            calls = cond[0]
            if len(calls.frames) == 1:
                return self._predicted(calls, x, level, [0] * len(x))
            return self._predicted(calls, x, level, prompt_index if calls.indexed else prompt_index.tolist())
        index = prompt_index.tolist()
        order = sorted(range(len(index)), key=index.__getitem__)  # rows of a prompt side by side
        groups = [[r for r in order if index[r] == p] for p in sorted(set(index))]
        parts = [self._predicted(cond[index[rows[0]]], x[rows], level, [0] * len(rows)) for rows in groups]
        back = move(torch.tensor(order, device="cpu"), x.device).argsort()
        return map_tree(lambda *leaves: torch.cat(leaves)[back], *parts)

    def step(self, x: Tensor, pred: Prediction, step: int, noise: Tensor) -> Tensor:
        """The kernel on what the scheduler sees, then the rest of the pipeline's turn: masks, callbacks."""
        out, sample = self._seen(x, pred.out)
        made = self.kernel.step(out, step, sample, noise.to(sample.dtype)).expand_as(noise)
        return self._rest(made, pred.out.left, step)

    def deterministic(self, x: Tensor, pred: Prediction, step: int) -> Tensor:
        """The same without noise, for deterministic lookahead; broadcasts like `step`."""
        out, sample = self._seen(x, pred.out)
        return self._rest(self.kernel.deterministic(out, step, sample), pred.out.left, step)

    def renoise(self, x: Tensor, level: int, to: int, noise: Tensor) -> Tensor:
        """The forward kernel q(x_to | x_level) of the scheduler's marginals; broadcasts like `step`.

        What the pipeline starts without noise (a given first frame, say) stays as it is.

        Raises:
            ValueError: where the scheduler steps fewer or more numbers than a sample has.
        """
        shape = self._state.shape[1:]
        if math.prod(self._shape) != shape.numel():
            raise ValueError(
                f"{type(self.pipe).__name__} steps {self._shape} of samples {tuple(shape)}, so these cannot be noised "
                "again; take a method that does not go back in noise"
            )
        again = self.kernel.renoise(x, level, to, noise.reshape(*noise.shape[:3], *shape))
        scale = self._start.scale
        return torch.where(scale == 0, x, again) if isinstance(scale, Tensor) else again

    def decode(self, x0: Tensor) -> Tensor:
        """`[R, ...]` -> the pipeline's own output in [0, 1], float32: `[R, 3, H, W]`, videos `[R, F, 3, H, W]`."""
        if (self._layout is None or not self._decodes_rows) and len(x0) > 1:
            return torch.cat([self.decode(x0[r : r + 1]) for r in range(len(x0))])
        made = tensors(self._home.tail(x0)[0])
        if len(x0) == 1 and len(made) > 1:  # several pictures of a sample: frames
            return made[None]
        if len(made) != len(x0):
            raise ValueError(f"{type(self.pipe).__name__} made {len(made)} outputs of {len(x0)} samples")
        return made

    def preview(self, x0: Tensor) -> Tensor:
        """The same with the cheap decoder in the place of the pipeline's `vae`, and of few frames, where so asked."""
        if self._few is not None:
            x0 = x0.index_select(self._time, move(torch.tensor(self._places, device="cpu"), x0.device))
        if self._cheap is None:
            return self.decode(x0)
        with self._home.lock:
            before = self._home.pipe.vae
            object.__setattr__(self._home.pipe, "vae", self._cheap)
            try:
                return self.decode(x0)
            finally:
                object.__setattr__(self._home.pipe, "vae", before)

    @torch.no_grad()
    def output(self, x0: Tensor, **changed: Any) -> Any:
        """What the pipeline itself returns for clean samples `[R, ...]`; `output_type` and the like can be changed."""
        if self._layout is None and len(x0) > 1:
            raise ValueError(f"{type(self.pipe).__name__} makes one sample in a call, and has no output for {len(x0)}")
        return self._home.tail(x0, **changed)

    def cut(self, prompt: str) -> str:
        """What of the prompt no text encoder reads, as far as that is known (CLIP and T5); "" for nothing."""
        return self._split(prompt)[1]

    def release(self) -> None:
        """Hands offloaded modules back, as the pipeline does after a call."""
        self.pipe.maybe_free_model_hooks()

    def _split(self, prompt: str) -> tuple[object, str]:
        """What the text encoders read, all together, and what none of them does."""
        convert = getattr(self.pipe, "maybe_convert_prompt", lambda prompt, tokenizer: prompt)  # textual inversion
        found = [by_tokenizer(one, bound)(convert(prompt, one)) for one, bound in self._reach()]
        return tuple(read for read, _ in found) or prompt, min((cut for _, cut in found), key=len, default="")

    def _reach(self) -> list[tuple[Any, int]]:
        """The tokenizers, and how many tokens their encoders read; none where that is not known of all of them."""
        known, found = self._parameters.get("max_sequence_length"), []
        asked = self._call.get("max_sequence_length", None if known is None else known.default)
        for end in ("", "_2", "_3"):
            encoder, tokenizer = (getattr(self.pipe, f"{name}{end}", None) for name in ("text_encoder", "tokenizer"))
            if encoder is None:
                continue
            kind = type(encoder).__name__
            bound = tokenizer.model_max_length if "CLIP" in kind and tokenizer else asked if "T5" in kind else None
            if bound is None or tokenizer is None:
                return []
            found.append((tokenizer, bound))
        return found

    # ---- calls that are left at their loop ------------------------------------------------------------------

    def _refuse_arguments(self) -> None:
        kind = type(self.pipe).__name__
        for name, value in self._call.items():
            if name in OURS:
                raise TypeError(f"{name}={value!r} is not for the pipeline: {OURS[name]}")
            if name not in self._parameters:
                known = ", ".join(each for each in self._parameters if each not in ("self", *OURS))
                raise TypeError(f"{kind} takes no {name}; it takes {known}")
        for name, part in self.pipe.components.items():
            if getattr(part, "is_cache_enabled", False):
                raise ValueError(
                    f"the {name} keeps a cache from step to step, and a search goes to any step; call "
                    f"pipe.{name}.disable_cache()"
                )

    def _arguments(self, prompt: str, rows: int, by_list: bool = False) -> dict[str, Any]:
        call = {"output_type": "pt", **self._call, "return_dict": True}
        if not any(name.startswith("prompt_embeds") for name in call):
            told = self.call_for(prompt)
            if "prompt" in told and by_list:
                told = {**told, "prompt": [told["prompt"]] * rows}
            call |= told
        elif "prompt" in self._parameters and self._parameters["prompt"].default is inspect.Parameter.empty:
            call["prompt"] = None
        if rows > 1 and not by_list:
            call[next(name for name in _COUNTS if name in self._parameters)] = rows
        call["generator"] = fresh(self._call.get("generator"))
        return {name: value for name, value in call.items() if name in self._parameters}

    def _frame(self, call: dict[str, Any], draws: Draws | None = None) -> Frame:
        with torch.no_grad(), seeded(self._device), draws or nullcontext():
            return capture(self.pipe, call, self._exchanged)

    def _state_of(self, frame: Frame, rows: int = 1) -> Tensor:
        state = frame.values.get(self._source.state)
        if not isinstance(state, Tensor) or len(state) != rows:
            shape = tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__
            raise TypeError(
                f"{type(self.pipe).__name__} carries {self._source.state} of shape {shape} for {rows} samples; a "
                "search needs one row for each"
            )
        return state

    def _grows(self, one: Frame) -> Layout | None:
        """How the variables grow with rows; None where a call makes one sample only."""
        counted = any(name in self._parameters for name in _COUNTS)
        for by_list in [False] * counted + [True] * ("prompt" in self._parameters):
            with suppress(Exception):
                two = self._frame(self._arguments(_ANY, 2, by_list))
                self._state_of(two, 2)
                return Layout.of(one, two)
        return None

    def _law(self, drawn: list[Tensor]) -> _Start:
        """The start is mean + scale * normal: pure noise, or found by calls in which one draw is 0, then 1."""
        sigma = float(getattr(self._home.scheduler, "init_noise_sigma", 1.0))
        for noise in drawn:
            for scale in (1.0, sigma):
                if noise.numel() == self._state.numel() and _among(self._state, scale * noise, self._state.dtype):
                    return _Start(0.0, scale)
        laws = [law for k, noise in enumerate(drawn) if (law := self._law_of(k, noise)) is not None]
        if drawn and not laws:
            raise TypeError(
                f"{type(self.pipe).__name__} does not start from a mean and the noise of one draw, so a search cannot "
                "draw its starts"
            )
        laws.sort(key=lambda law: isinstance(law.scale, Tensor))  # a number: the noise, and not a sampled encoding
        return laws[0] if laws else _Start(self._state.float(), 0.0)

    def _law_of(self, k: int, noise: Tensor) -> _Start | None:
        frames = [self._frame(self._arguments(_ANY, 1), Draws(k, constant)) for constant in (0.0, 1.0)]
        mean, shifted = (self._state_of(frame).float() for frame in frames)
        scale = shifted - mean
        moved = scale.abs() > 1e-6
        if not moved.any() or not _among(((self._state.float() - mean) / scale)[moved], noise, self._state.dtype):
            return None
        usual = float(scale.median())
        return _Start(mean, usual if bool(((scale - usual).abs() < 1e-4 * abs(usual)).all()) else scale)

    @torch.no_grad()
    def _frames_seen(self, few: int) -> tuple[int, list[int]]:
        """The axis of frames in a state, and which of them previews decode: tried on the state at hand."""
        for axis in (2, 1) if self._state.ndim == 5 else ():
            places = evenly(few, self._state.shape[axis])
            part = self._state.index_select(axis, torch.tensor(places, device=self._state.device))
            with suppress(Exception):  # the channels' axis: its parts are none that a decoder takes
                if self.decode(part).ndim == 5:
                    return axis, places
        raise ValueError(
            f"preview_frames={few}: {type(self.pipe).__name__} carries {self._source.state} of shape "
            f"{tuple(self._state.shape)}, which has no axis of frames that its decoder takes in part; leave it None"
        )

    # ---- turns ----------------------------------------------------------------------------------------------

    def _predicted(self, calls: Replay, x: Tensor, level: int, rows: Sequence[int] | Tensor) -> Prediction:
        if self._layout is None and len(x) > 1:
            parts = [self._predicted(calls, x[r : r + 1], level, rows[r : r + 1]) for r in range(len(x))]
            return map_tree(lambda *leaves: torch.cat(leaves), *parts)
        step = calls.turn(x, level, rows)
        out, sample = folded(step.out, len(x)), step.sample if step.sample is x else folded(step.sample, len(x))
        left = self._left(step, level, len(x))
        self._shape = tuple(sample.shape[1:])
        said = _Out(out, None if sample is x else sample, left)
        wide_out, wide = _inside(self.kernel, out, sample)
        mean = self.kernel.x0(wide_out, level, wide)
        # At the last level nothing is noised anew: what a mask keeps is put into the posterior mean as it is.
        return Prediction(said, self._rest(mean, left, level, clean=True))

    def _seen(self, x: Tensor, out: _Out) -> tuple[Tensor, Tensor]:
        """What the scheduler steps, in the precision that the kernel works in."""
        return _inside(self.kernel, out.out, x if out.sample is None else out.sample)

    def _left(self, step: Step, level: int, count: int) -> tuple[Tensor, ...]:
        """What the turn made and its rest reads: tensors of so many rows; all else is kept with the level."""
        if self._layout is None:  # the turn of a single row: all its tensors are that row's
            alone = {name: value for name, value in step.needs.items() if isinstance(value, Tensor)}
            same = {name: value for name, value in step.needs.items() if name not in alone}
            names = tuple((name, False) for name in alone)
            self._turns[level] = _Turn(step.place, same, {}, names, len(step.sample) != 1)
            return tuple(value[None] for value in alone.values())
        if any(name not in self._growths and _may_grow(value) for name, value in step.needs.items()):
            self._growths |= self._learnt(level)
        fixed, numbers, rows, tensors = {}, {}, [], []
        for name, value in step.needs.items():
            how = self._growths.get(name)
            if how is None:
                fixed[name] = value
            elif how.kind == "number":
                numbers[name] = value // count
            elif how.kind == "axis" and how.axis == 0:
                rows.append((name, len(value) != count))
                tensors.append(folded(value, count))
            else:
                raise TypeError(f"{type(self.pipe).__name__} makes {name} in its loop, whose rows cannot be told apart")
        several = step.sample.shape[0] != count
        self._turns[level] = _Turn(step.place, fixed, numbers, tuple(rows), several)
        return tuple(tensors)

    def _learnt(self, level: int) -> dict[str, Growth | None]:
        one, two = (
            self._home.turn(self._state.expand(n, *self._state.shape[1:]), level, [0] * n).needs for n in (1, 2)
        )
        return {name: growth(value, two.get(name)) for name, value in one.items()}

    def _rest(self, made: Tensor, left: tuple[Tensor, ...], level: int, clean: bool = False) -> Tensor:
        """What the rest of a turn makes of stepped samples `[..., *shape]`: states `[..., *state]`."""
        if level not in self._turns:  # another process asked the network
            self._predicted(self._home, self._state, level, [0])
        batch_shape = made.shape[: made.ndim - len(self._shape)]
        turn, flat = self._turns[level], made.to(self._state.dtype).flatten(0, len(batch_shape) - 1)
        needs = dict(turn.fixed) | {name: number * len(flat) for name, number in turn.numbers.items()}
        for (name, several), value in zip(turn.rows, left, strict=True):
            value = value.expand(*batch_shape, *value.shape[len(batch_shape) :]).flatten(0, len(batch_shape) - 1)
            value = value.clone(memory_format=torch.contiguous_format)  # the turn may write into it
            needs[name] = value.flatten(0, 1) if several else value
        at = self.num_steps - 1 if clean else level

        def rest(some: Tensor, needs: dict[str, Any]) -> Tensor:
            some = some.flatten(0, 1) if turn.folded else some
            return self._home.rest(some, needs, turn.place, at, len(flat), quiet=clean)

        if self._layout is None:
            each = [
                rest(flat[r : r + 1], {n: v if n in turn.fixed else v[r] for n, v in needs.items()})
                for r in range(len(flat))
            ]
            return torch.cat(each).unflatten(0, tuple(batch_shape))
        return rest(flat, needs).unflatten(0, tuple(batch_shape))


def _may_grow(value: Any) -> bool:
    return type(value) in (int, list, tuple, dict) or isinstance(value, Tensor)


def _inside(kernel: Kernel, out: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
    """Kernels of ours work in float32; a scheduler's own step takes what the pipeline gives it."""
    ours = isinstance(kernel, Tables) or type(kernel).__name__ == "_Flow"
    return (out.float(), sample.float()) if ours else (out, sample)


def _among(state: Tensor, noise: Tensor, dtype: torch.dtype) -> bool:
    """Whether all numbers of the state are ones of the noise, in any order, but for the rounding of the dtype."""
    if not state.numel() or state.numel() > noise.numel():
        return False
    seen, drawn = state.float().flatten(), noise.float().flatten().to(state.device).sort().values
    at = torch.searchsorted(drawn, seen).clamp(1, max(1, len(drawn) - 1))
    near = torch.minimum((drawn[at - 1] - seen).abs(), (drawn[at.clamp(max=len(drawn) - 1)] - seen).abs())
    return bool((near <= 64 * torch.finfo(dtype).eps * (1 + seen.abs())).all())
