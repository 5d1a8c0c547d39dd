"""Toy diffusions with exact answers: the test oracle, and the fastest example.

Both say in closed form, or by enumeration, what a search can only estimate: the law p(x_0) exp(lam r(x_0)) / Z that
reward-tilted sampling aims at, Z itself, and what a noisy sample will be worth. The tilted law comes as a toy of the
same kind. Its reverse kernel is the soft-optimal policy p(x' | x) exp(lam v(x')), so sampling it plainly is the exact
answer, and KL(tilted || pretrained) = lam E[r] - log Z is that of the whole path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..core.contract import Prediction, Reward, Rng, precise, weight_dtype
from ..core.plan import positive
from ..core.rng import move
from ._marginals import noised
from .masked import Masked

__all__ = ["GaussianMixture", "Quadratic", "TokenChain"]


class Quadratic:
    """The reward r(x) = constant + linear . x - curvature |x|^2 / 2, under which a Gaussian mixture tilts to another.

    Args:
        linear: `[D]`.
        curvature: of every direction; below 0 it is a bowl.
        constant: added throughout.
    """

    def __init__(self, linear: Tensor | Sequence[float], curvature: float = 0.0, constant: float = 0.0) -> None:
        given = linear if isinstance(linear, Tensor) else torch.tensor(linear, device="cpu", dtype=torch.float64)
        self.linear = given.double()
        self.curvature, self.constant = float(curvature), float(constant)

    def __call__(self, x: Tensor, prompts: list[str]) -> Tensor:
        """`[R, D]` -> `[R]`, float64."""
        x = precise(x)
        return self.mean(x, x.new_zeros(()))

    def mean(self, mean: Tensor, var: Tensor) -> Tensor:
        """E[r] under N(mean, var I): `[..., D]` and `[...]` -> `[...]`."""
        square = mean.square().sum(-1) + mean.shape[-1] * var
        return self.constant + mean @ self.linear.to(mean) - self.curvature / 2 * square

    def tilt(self, mean: Tensor, var: Tensor, lam: float) -> tuple[Tensor, Tensor, Tensor]:
        """N(mean, var I) exp(lam r) -> the mean and variance of that Gaussian, and log E[exp(lam r)].

        Raises:
            ValueError: where the reward grows faster than the Gaussian falls, so that there is no such law.
        """
        linear = lam * self.linear.to(mean)
        narrower = 1 + lam * self.curvature * var
        if not (narrower > 0).all():
            least = -1 / (lam * float(var.max()))
            raise ValueError(
                f"curvature={self.curvature} leaves exp(lam r) without a mean; above {least:.4g} it has one"
            )
        inner = mean @ linear + var * linear.square().sum() / 2 - lam * self.curvature / 2 * mean.square().sum(-1)
        log_z = lam * self.constant + inner / narrower - mean.shape[-1] / 2 * narrower.log()
        return (mean + var[..., None] * linear) / narrower[..., None], var / narrower, log_z


class GaussianMixture:
    """A diffusion of a mixture of isotropic Gaussians, whose kernel and posterior mean are known in closed form.

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps with a_i = sin^2(pi i / 2T) at step i, so that step 0 is exactly N(0, I)
    and step T exactly x_0. The reverse kernel is the true one, p(x_{t-1} | x_t), not its Gaussian approximation:
    plain sampling gives the mixture itself at any number of steps. Samples are float32 `[..., D]` and `decode` hands
    them on as they are.

    Args:
        means: `[M, D]` of the components.
        std: of each component, `[M]` or one for all.
        weights: `[M]` of the components, equal by default.
        num_steps: T.
        shift: what a prompt adds to all means, by prompt; 0 for the others.
        device: where the samples live.

    Raises:
        ValueError: for shapes that do not fit, a std or weights that are not above 0.
    """

    def __init__(
        self,
        means: Tensor | Sequence[Sequence[float]] = ((0.0,),),
        std: float | Sequence[float] = 1.0,
        weights: Sequence[float] | None = None,
        *,
        num_steps: int = 10,
        shift: Mapping[str, float] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        # float64 within, so that what is rounded to float32 does not depend on how rows are batched.
        dtype = weight_dtype(torch.device(device))
        self.means = torch.as_tensor(means, dtype=dtype, device=device)
        if self.means.ndim != 2:
            raise ValueError(f"means has shape {tuple(self.means.shape)}; give [components, dimensions]")
        parts = len(self.means)
        self.std = torch.as_tensor(std, dtype=dtype, device=device)
        weights = [1.0] * parts if weights is None else weights
        self.weights = torch.as_tensor(weights, dtype=dtype, device=device)
        if self.weights.shape != (parts,) or self.std.shape not in ((), (parts,)):
            raise ValueError(
                f"{parts} components need as many weights and one std or as many, "
                f"not weights of shape {tuple(self.weights.shape)} and std of shape {tuple(self.std.shape)}"
            )
        if not (self.weights > 0).all() or not (self.std > 0).all():
            raise ValueError(f"weights={self.weights.tolist()} and std={self.std.tolist()} must be above 0")
        self.std, self.weights = self.std.expand(parts), self.weights / self.weights.sum()
        self.num_steps = positive("num_steps", num_steps)
        self.shift = dict(shift or {})
        self.alpha = [math.sin(math.pi / 2 * i / num_steps) ** 2 for i in range(num_steps)] + [1.0]

    def encode(self, prompts: list[str]) -> Tensor:
        """Prompts -> their shifts `[P]`."""
        shifts = [float(self.shift.get(prompt, 0.0)) for prompt in prompts]
        return torch.tensor(shifts, dtype=self.means.dtype, device=self.means.device)

    def start(self, batch_shape: tuple[int, int], rng: Rng) -> Tensor:
        """N(0, I), `[B, K, D]`."""
        return move(rng.normal("start", 0, (*batch_shape, self.means.shape[1])), self.means.device)

    def noise(self, step: int, batch_shape: tuple[int, int, int], rng: Rng) -> Tensor:
        """`[B, K, w, D + 1]` normals: D to move, one to pick the component."""
        return move(rng.normal("noise", step, (*batch_shape, self.means.shape[1] + 1)), self.means.device)

    def predict(self, x: Tensor, level: int, cond: Tensor, prompt_index: Tensor) -> Prediction:
        """`[R, D]` -> the components' posteriors and means as `out` (`[R, M]`, `[R]`), and E[x_0 | x_t] as `x0`."""
        if level == self.num_steps:
            return Prediction(None, x)
        shift = cond[prompt_index]
        log_p, mean, _ = self._posterior(x, level, shift)
        p = log_p.softmax(-1)
        return Prediction((p, shift), (p[..., None] * mean).sum(-2).float())

    def step(self, x: Tensor, pred: Prediction, step: int, noise: Tensor) -> Tensor:
        """The exact p(x_{t-1} | x_t): a component by its posterior, then that component's Gaussian."""
        p, shift = pred.out
        a, after = self.alpha[step], self.alpha[step + 1]
        u = torch.special.ndtr(precise(noise[..., -1]))
        part = (p.cumsum(-1)[..., :-1] < u[..., None]).sum(-1)  # [B, K, w]
        mean, std = self.means[part] + shift[..., None], self.std[part][..., None]
        var, var_after = a * std**2 + 1 - a, after * std**2 + 1 - after
        gain = math.sqrt(a / after) * var_after / var
        centre = math.sqrt(after) * mean + gain * (precise(x) - math.sqrt(a) * mean)
        spread = (var_after * (1 - a / after) / var).sqrt()
        return (centre + spread * precise(noise[..., :-1])).float()

    def deterministic(self, x: Tensor, pred: Prediction, step: int) -> Tensor:
        """The DDIM step with eta 0, x' = sqrt(a') x0 + sqrt(1 - a') eps (Song et al. 2021)."""
        a, after = self.alpha[step], self.alpha[step + 1]
        eps = (precise(x) - math.sqrt(a) * pred.x0) / math.sqrt(1 - a)
        return (math.sqrt(after) * pred.x0 + math.sqrt(1 - after) * eps).float()

    def renoise(self, x: Tensor, level: int, to: int, noise: Tensor) -> Tensor:
        """The exact q(x_to | x_level), by the first D normals of a step's noise; broadcasts like `step`."""
        (a, _, var), (a_to, _, var_to) = self._path(level), self._path(to)
        normal = precise(noise[..., : x.shape[-1]])
        return noised(precise(x), normal, (a, math.sqrt(var)), (a_to, math.sqrt(var_to))).float()

    def decode(self, x0: Tensor) -> Tensor:
        """The samples themselves."""
        return x0

    def log_prob(self, x: Tensor, level: int | None = None, prompt: str = "") -> Tensor:
        """The log density of a level, by default the clean one: `[R, D]` -> `[R]`, float64."""
        log_p, _, _ = self._posterior(x, self.num_steps if level is None else level, self.encode([prompt]))
        return log_p.logsumexp(-1) - 0.5 * x.shape[-1] * math.log(2 * math.pi)

    def tilted(self, reward: Quadratic, lam: float = 1.0, prompt: str = "") -> GaussianMixture:
        """p(x_0) exp(lam r(x_0)) / Z, again a mixture.

        Raises:
            ValueError: where there is no such law.
        """
        mean, var, log_z = reward.tilt(self.means + self.encode([prompt]), self.std**2, lam)
        weights = (self.weights.log() + log_z).softmax(-1)
        kept = weights > 0  # a component whose weight underflows is not there
        return self._like(mean[kept], var.sqrt()[kept].tolist(), weights[kept].tolist())

    def log_z(self, reward: Quadratic, lam: float = 1.0, prompt: str = "") -> float:
        """log E[exp(lam r(x_0))]."""
        _, _, log_z = reward.tilt(self.means + self.encode([prompt]), self.std**2, lam)
        return float((self.weights.log() + log_z).logsumexp(-1))

    def expected_reward(self, reward: Quadratic, prompt: str = "") -> float:
        """The mean reward of plain samples, E[r(x_0)]."""
        return float(self.weights @ reward.mean(self.means + self.encode([prompt]), self.std**2))

    def value(self, x: Tensor, level: int, reward: Quadratic, prompt: str = "") -> Tensor:
        """E[r(x_0) | x_t]: samples `[R, D]` of a level -> `[R]`, float64."""
        log_p, mean, var = self._posterior(x, level, self.encode([prompt]))
        return (log_p.softmax(-1) * reward.mean(mean, var)).sum(-1)

    def soft_value(self, x: Tensor, level: int, reward: Quadratic, lam: float = 1.0, prompt: str = "") -> Tensor:
        """log E[exp(lam r(x_0)) | x_t] / lam, the soft value of SVDD with alpha = 1 / lam: `[R, D]` -> `[R]`."""
        log_p, mean, var = self._posterior(x, level, self.encode([prompt]))
        return (log_p.log_softmax(-1) + reward.tilt(mean, var, lam)[2]).logsumexp(-1) / lam

    def _path(self, level: int) -> tuple[float, float, float]:
        """x_t = signal x_0 + noise: the signal, its square, and the variance of the noise."""
        a = 1.0 if level == self.num_steps else self.alpha[level]
        return math.sqrt(a), a, 1 - a

    def _like(self, means: Tensor, std: list[float], weights: list[float]) -> GaussianMixture:
        return GaussianMixture(means, std, weights, num_steps=self.num_steps, device=self.means.device)

    def _posterior(self, x: Tensor, level: int, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x_0 given x_t, by component: log weights `[R, M]` that sum to p(x_t) (2 pi)^(D/2), means, variances `[M]`."""
        signal, square, noise = self._path(level)
        centre = self.means + shift[:, None, None]  # [R, M, D]
        offset = precise(x)[:, None] - signal * centre
        var = square * self.std**2 + noise
        log_p = self.weights.log() - 0.5 * offset.square().sum(-1) / var - 0.5 * x.shape[-1] * var.log()
        return log_p, centre + (signal * self.std**2 / var)[:, None] * offset, self.std**2 * noise / var


class TokenChain(Masked):
    """Words of a table, masked and filled in one token per step in random order: all of it can be enumerated.

    The network is exact, log p(token | the tokens revealed), so plain sampling gives the table itself.

    Args:
        table: `[V, V, ...]`, L axes: the probability of every word, in proportion.

    Raises:
        ValueError: for a table that is not one, or has no positive finite total.
    """

    def __init__(self, table: Tensor) -> None:
        table = precise(table)
        total = float(table.sum())
        if table.ndim < 1 or len(set(table.shape)) != 1 or not (table >= 0).all() or not 0 < total < math.inf:
            raise ValueError(
                f"a table of shape {tuple(table.shape)} and total {total} is no law over words; give [vocab] * length "
                "numbers of at least 0, not all 0"
            )
        self.table = table / total
        length, vocab = table.ndim, len(table)
        self.words = torch.cartesian_prod(*[torch.arange(vocab, device=table.device)] * length).view(-1, length)
        self._p = self.table.flatten()
        self._one_hot = torch.nn.functional.one_hot(self.words, vocab).to(table)
        super().__init__(self._conditionals, length=length, vocab=vocab, device=table.device)

    def tilted(self, reward: Reward, lam: float = 1.0, prompt: str = "") -> TokenChain:
        """p(x_0) exp(lam r(x_0)) / Z, again a chain."""
        log_p = self._p.log() + lam * self._rewards(reward, prompt)
        return TokenChain((log_p - log_p.max()).exp().view(self.table.shape))

    def log_z(self, reward: Reward, lam: float = 1.0, prompt: str = "") -> float:
        """log E[exp(lam r(x_0))]."""
        return float((self._p.log() + lam * self._rewards(reward, prompt)).logsumexp(-1))

    def expected_reward(self, reward: Reward, prompt: str = "") -> float:
        """The mean reward of plain samples, E[r(x_0)]."""
        return float(self._p @ self._rewards(reward, prompt))

    def value(self, x: Tensor, reward: Reward, prompt: str = "") -> Tensor:
        """E[r(x_0) | x_t]: partly masked words `[R, L]` -> `[R]`, float64."""
        return self._given(x) @ self._rewards(reward, prompt) / self._given(x).sum(-1)

    def soft_value(self, x: Tensor, reward: Reward, lam: float = 1.0, prompt: str = "") -> Tensor:
        """log E[exp(lam r(x_0)) | x_t] / lam, the soft value of SVDD with alpha = 1 / lam: `[R, L]` -> `[R]`."""
        log_p = self._given(x).log()
        return ((log_p + lam * self._rewards(reward, prompt)).logsumexp(-1) - log_p.logsumexp(-1)) / lam

    def kernel(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All that can follow a partly masked word `[L]`: words `[S, L]` with one more token, and p `[S]` of each."""
        follow, p = [], []
        logits = self._conditionals(x[None], 0)[0].softmax(-1)
        hidden = (x == self.mask).nonzero().flatten().tolist()
        for place in hidden:
            for token in range(self.vocab):
                if logits[place, token] > 0:
                    after = x.clone()
                    after[place] = token
                    follow.append(after)
                    p.append(logits[place, token] / len(hidden))
        return torch.stack(follow), torch.stack(p)

    def _given(self, x: Tensor) -> Tensor:
        """`[R, L]` -> p of every word where it agrees with the tokens revealed, else 0: `[R, V^L]`."""
        return self._p * ((x[:, None] == self.mask) | (x[:, None] == self.words)).all(-1)

    def _conditionals(self, x: Tensor, level: int) -> Tensor:
        return torch.einsum("rn,nlv->rlv", self._given(x), self._one_hot).log()

    def _rewards(self, reward: Reward, prompt: str) -> Tensor:
        said = reward(self.words, [prompt] * len(self.words))
        return torch.as_tensor(said, device=self.words.device).to(self._p)


def example() -> GaussianMixture:
    """A small instance for the law suite: two modes in the plane, prompts that move them."""
    return GaussianMixture([[-2.0, 0.0], [1.0, 1.5]], std=0.5, num_steps=6, shift={"a": 0.5, "b": -1.0})
