"""Masked (absorbing-state) discrete diffusion: language, protein and DNA models that fill in masked tokens."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..core.contract import Prediction, Rng, map_tree, own, precise
from ..core.plan import positive
from ..core.rng import invert_cdf, move

__all__ = ["Masked"]

Order = Literal["random", "confidence"]
Schedule = Literal["linear", "cosine"]

_GAMMA: dict[str, Callable[[float], float]] = {"linear": lambda r: 1 - r, "cosine": lambda r: math.cos(math.pi / 2 * r)}


class Masked:
    """A network that predicts masked tokens, as a denoiser: all is masked at step 0, and what is revealed stays.

    The absorbing-state diffusion of D3PM (Austin et al. 2021, arXiv 2107.03006) and MDLM (Sahoo et al. 2024, arXiv
    2406.07524), with the number of tokens revealed at each step fixed in advance. With `order="random"`, one token a
    step and exact conditionals, plain sampling gives the joint law exactly (order-agnostic autoregression, Hoogeboom
    et al. 2022, arXiv 2110.02037); several tokens a step are drawn independently of each other. `order="confidence"`
    is MaskGIT's sampler (Chang et al. 2022, arXiv 2202.04200), which prefers what is probable: it has no such law.

    Samples are int64 tokens `[..., L]`. Of F free positions, round(F gamma((i + 1) / T)) are masked after step i,
    fewer where needed to reveal one token a step: gamma(r) is 1 - r (linear) or cos(pi r / 2) (cosine, few tokens
    first). What is random, and the arithmetic of probabilities, is float64 where the device has it.

    Args:
        token_logits: the network. `(x [R, L], step)` -> logits `[R, L, V]` of any float type; with `encode` it is
            handed the conditions of its rows too, `(x, step, cond)`. Logits at revealed positions are not read, and a
            token of logit -inf is never drawn. The share of masked tokens, where a network wants it as its time, is
            `(x == mask).float().mean(-1)`.
        length: L.
        vocab: V, the number of logits.
        num_steps: T, at most L; by default L, one token a step.
        order: which masked positions are revealed: any, or those whose drawn token is the most probable.
        schedule: how many are revealed when: linear or cosine.
        temperature: divides the logits, above 0.
        confidence_noise: with `order="confidence"`, this times (1 - (i + 1) / T) times Gumbel noise is added to the
            log-probabilities at step i before they are ranked, as in MaskGIT's code; 0 adds none.
        encode: prompts -> conditions, asked once a search: a tensor `[P, ...]` or a tuple of such, gathered by row.
        template: a prompt -> tokens `[L]`, with the mask where the search is to fill in: prefixes and infilling.
        mask: the id of the mask, by default V, one past the last token. Below V its logit is not read.
        device: where tokens live; the network must accept them there.

    Raises:
        ValueError: for sizes, names or ids that cannot be, naming what can; and in a search, for logits of another
            shape or without a finite highest one, and templates of another shape or with tokens outside [0, V).
    """

    def __init__(
        self,
        token_logits: Callable[..., Tensor],
        *,
        length: int,
        vocab: int,
        num_steps: int | None = None,
        order: Order = "random",
        schedule: Schedule = "linear",
        temperature: float = 1.0,
        confidence_noise: float = 0.0,
        encode: Callable[[list[str]], Any] | None = None,
        template: Callable[[str], Tensor | Sequence[int]] | None = None,
        mask: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.length, self.vocab = positive("length", length), positive("vocab", vocab)
        self.num_steps = positive("num_steps", self.length if num_steps is None else num_steps)
        if self.num_steps > self.length:
            raise ValueError(
                f"num_steps={num_steps} exceeds length={length}; every step reveals a token, so take at most {length}"
            )
        if order not in get_args(Order):
            raise ValueError(f"order={order!r} is unknown; choose one of {', '.join(get_args(Order))}")
        if schedule not in _GAMMA:
            raise ValueError(f"schedule={schedule!r} is unknown; choose one of {', '.join(_GAMMA)}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature={temperature} must be above 0 and finite; near 0 takes the most probable")
        if not 0 <= confidence_noise < math.inf:
            raise ValueError(f"confidence_noise={confidence_noise} must be at least 0 and finite")
        if confidence_noise and order != "confidence":
            raise ValueError(f"confidence_noise={confidence_noise} is read with order='confidence' alone")
        self.mask = self.vocab if mask is None else operator.index(mask)
        if self.mask == 0 and self.vocab == 1:
            raise ValueError("vocab=1 and mask=0 leave no token to draw; raise vocab")
        self.order, self.schedule, self.temperature = order, schedule, float(temperature)
        self.confidence_noise, self.device = float(confidence_noise), torch.device(device)
        self.token_logits, self.template, self._encode = token_logits, template, encode
        self._gamma = [_GAMMA[schedule]((i + 1) / self.num_steps) for i in range(self.num_steps)]

    def encode(self, prompts: list[str]) -> tuple[Any, Tensor]:
        """Prompts -> the network's conditions (None without `encode`), and their templates `[P, L]`."""
        cond = None if self._encode is None else self._encode(prompts)
        return cond, torch.stack([self._form(prompt) for prompt in prompts])

    def start(self, batch_shape: tuple[int, int], rng: Rng) -> Tensor:
        """All masked, `[B, K, L]`: nothing is drawn. A template's tokens appear with the first step."""
        return torch.full((*batch_shape, self.length), self.mask, device=self.device)

    def noise(self, step: int, batch_shape: tuple[int, int, int], rng: Rng) -> Tensor:
        """Uniforms `[B, K, w, L, 2]`, float64: one to rank a position, one to draw its token."""
        return move(rng.uniform("noise", step, (*batch_shape, self.length, 2)), self.device)

    def predict(self, x: Tensor, level: int, cond: tuple[Any, Tensor], prompt_index: Tensor) -> Prediction:
        """`[R, L]` -> the tokens with their template's, their logits `[R, L, V]` and how many stay masked `[R]`.

        `x0` has the most probable token at every masked position: the mode of each, since tokens have no mean.

        Raises:
            ValueError: for logits of another shape or type, or of which none is the highest and finite.
        """
        if level == self.num_steps:
            return Prediction(None, x)
        given, forms = cond
        form = forms[prompt_index]
        x = torch.where(form == self.mask, x, form)
        rows = () if given is None else (map_tree(lambda leaf: leaf[prompt_index], given),)
        logits = self._checked(self.token_logits(x.clone(), level, *own(rows)), x, level)
        free = (form == self.mask).sum(-1)
        left = self._hidden(free, level + 1)
        return Prediction((x, logits, left), torch.where(x == self.mask, logits.argmax(-1), x))

    def step(self, x: Tensor, pred: Prediction, step: int, noise: Tensor) -> Tensor:
        """The reverse kernel: a token for every masked position, of which the step's number is kept.

        Raises:
            ValueError: for a prediction of other than one parent to all children, `[B, K, 1, ...]`.
        """
        x, logits, left = pred.out  # x with its template
        if logits.shape[2] != 1:
            raise ValueError(
                f"{logits.shape[2]} predictions per beam at step {step}; children share their parent's one"
            )
        log_p = precise(logits) / self.temperature
        # One distribution to w draws: [B, K, L, V] and [B, K, L, w] -> [B, K, w, L].
        token = invert_cdf(log_p[:, :, 0], noise[..., 1].transpose(2, 3)).transpose(2, 3)
        rank = noise[..., 0]
        if self.order == "confidence":
            sure = log_p.log_softmax(-1).expand(*token.shape, -1).gather(-1, token[..., None])[..., 0]
            rank = sure + self._gumbel(noise[..., 0], step) if self.confidence_noise else sure
        return self._reveal(x, token, rank, left)

    def deterministic(self, x: Tensor, pred: Prediction, step: int) -> Tensor:
        """The next level without noise, `[..., L]`: the most confident positions get their most probable tokens."""
        x, logits, left = pred.out
        return self._reveal(x, pred.x0, precise(logits).log_softmax(-1).amax(-1), left)

    def renoise(self, x: Tensor, level: int, to: int, noise: Tensor) -> Tensor:
        """As many masks as a level has, `[..., L]`: all that are there, and more at positions drawn at random.

        With `order="random"` it is the forward kernel q(x_to | x_level); broadcasts like `step`.

        Raises:
            ValueError: with a template, for which tokens it gave cannot be told from those of the network.
        """
        if self.template is not None:
            raise ValueError(
                "template=: which tokens it gave cannot be told from those that were drawn, so they cannot be masked "
                "again; take a method that does not go back in noise, or no template"
            )
        rank = torch.where(x == self.mask, torch.inf, noise[..., 0])
        place = rank.argsort(dim=-1, descending=True, stable=True).argsort(-1)
        return torch.where(place < self._hidden(torch.tensor(self.length, device=x.device), to), self.mask, x)

    def decode(self, x0: Tensor) -> Tensor:
        """The tokens themselves."""
        return x0

    def _hidden(self, free: Tensor, level: int) -> Tensor:
        """Of so many free positions, those that are masked at a level."""
        if level == 0:
            return free
        # Where rounding would leave a level without a token, it gets one while there are any.
        return torch.minimum((free * self._gamma[level - 1]).round().long(), free - level).clamp(min=0)

    def _reveal(self, x: Tensor, token: Tensor, rank: Tensor, left: Tensor) -> Tensor:
        """Puts tokens where x is masked, the highest ranks first, until `left` masks are left."""
        hidden = x == self.mask
        order = torch.where(hidden, rank, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        place = order.argsort(-1)  # of each position in that order
        return torch.where(place < (hidden.sum(-1) - left)[..., None], token, x)

    def _gumbel(self, u: Tensor, step: int) -> Tensor:
        scale = self.confidence_noise * (1 - (step + 1) / self.num_steps)
        return -scale * (-u.clamp(min=torch.finfo(u.dtype).tiny).log()).log()  # at 0 it would be -inf, as if not masked

    def _form(self, prompt: str) -> Tensor:
        if self.template is None:
            return torch.full((self.length,), self.mask, device=self.device)
        form = torch.as_tensor(self.template(prompt), device=self.device)
        if form.shape != (self.length,) or form.is_floating_point():
            raise ValueError(
                f"the template of {prompt!r} is {tuple(form.shape)} of {form.dtype}; return {self.length} whole tokens"
            )
        outside = form[(form != self.mask) & ((form < 0) | (form >= self.vocab))]
        if len(outside):
            raise ValueError(
                f"the template of {prompt!r} has token {int(outside[0])}, outside the vocabulary [0, {self.vocab}); "
                f"the mask is {self.mask}"
            )
        return form.long()

    def _checked(self, logits: Tensor, x: Tensor, level: int) -> Tensor:
        shape = (*x.shape, self.vocab)
        if logits.shape != shape or not logits.is_floating_point():
            raise ValueError(
                f"token_logits returned {tuple(logits.shape)} of {logits.dtype} at level {level}; "
                f"return floats [rows, length, vocab], here {shape}"
            )
        if 0 <= self.mask < self.vocab:
            logits = torch.where(torch.arange(self.vocab, device=logits.device) == self.mask, -torch.inf, logits)
        bad = (x == self.mask) & ~logits.amax(-1).isfinite()
        if bad.any():
            row, position = bad.nonzero()[0].tolist()
            raise ValueError(
                f"at level {level} the highest logit of position {position} in row {row} is "
                f"{float(logits[row, position].amax())}; one must be finite, and none nan or inf"
            )
        return logits


def example() -> Masked:
    """A small instance for tests: three tokens that like to differ from their neighbours, and prompts that favour one.

    A prompt raises the token of its length mod 3.
    """
    table = [[-1.0, 0.5, 0.25], [0.75, -1.5, 0.5], [0.25, 1.0, -0.75], [0.0, 0.0, 0.0]]
    beside = torch.tensor(table, dtype=torch.float64, device="cpu")

    def logits(x: Tensor, level: int, favour: Tensor) -> Tensor:
        around = torch.nn.functional.pad(x, (1, 1), value=3)  # beyond the ends, and where masked, nothing is known
        return beside[around[:, :-2]] + beside[around[:, 2:]] + favour[:, None, :]

    def encode(prompts: list[str]) -> Tensor:
        favoured = torch.tensor([len(prompt) % 3 for prompt in prompts], device="cpu")
        return 0.5 * torch.nn.functional.one_hot(favoured, 3).double()

    return Masked(logits, length=4, vocab=3, encode=encode)
