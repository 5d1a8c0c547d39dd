"""Values: estimates of the reward that a candidate will end with, and the network that learns one."""

from ..core.value import (
    Learned,
    Lookahead,
    PosteriorMean,
    Switched,
    learned,
    lookahead,
    posterior_mean,
    switched,
)
from .network import Trajectories, ValueNetwork, collect, fit

__all__ = [
    "Learned",
    "Lookahead",
    "PosteriorMean",
    "Switched",
    "Trajectories",
    "ValueNetwork",
    "collect",
    "fit",
    "learned",
    "lookahead",
    "posterior_mean",
    "switched",
]
