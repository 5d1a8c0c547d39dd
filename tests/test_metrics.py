"""Intervals against scipy, diversity against loops."""

import pytest
import torch
from scipy import stats

from dsearch.compare.metrics import Interval, bootstrap, diversity, interval, paired

SAMPLES = torch.tensor([1.0, 2.5, 2.0, 4.0, 3.0])


def test_an_interval_is_students_own():
    low, high = stats.ttest_1samp(SAMPLES.numpy(), 0).confidence_interval(0.95)
    assert interval(SAMPLES) == pytest.approx((2.5, low, high), rel=1e-6)


def test_paired_samples_are_those_of_their_differences():
    theirs = SAMPLES + torch.tensor([0.1, 0.3, 0.2, 0.2, 0.1])
    told = stats.ttest_rel(SAMPLES.double().numpy(), theirs.double().numpy())
    low, high = told.confidence_interval(0.95)
    found = paired(SAMPLES, theirs)
    assert found == pytest.approx((-0.18, low, high), rel=1e-5) and found.is_clear
    assert not interval(SAMPLES - 2.4).is_clear
    with pytest.raises(ValueError, match="do not pair; share the seeds"):
        paired(SAMPLES, SAMPLES[:3])


def test_the_bootstrap_covers_the_mean_as_often_as_it_says():
    g = torch.Generator().manual_seed(0)
    covered = sum(
        low < 0 < high
        for _, low, high in (bootstrap(torch.randn(40, generator=g), draws=400, seed=s) for s in range(300))
    )
    assert stats.binomtest(covered, 300, 0.94).pvalue > 1e-3
    assert bootstrap(SAMPLES).mean == pytest.approx(2.5) and bootstrap(SAMPLES) == bootstrap(SAMPLES)


def test_the_bootstrap_takes_any_statistic():
    samples = torch.stack([SAMPLES, SAMPLES.flip(0)], dim=1)

    def difference(sets):
        return (sets[..., 0] - sets[..., 1]).median(dim=1).values

    found = bootstrap(samples, difference)
    assert found.mean == 0.0 and found.low <= 0 <= found.high


def test_diversity_is_the_mean_over_pairs():
    e = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1))
    for b in range(2):
        pairs = [1 - torch.cosine_similarity(e[b, i], e[b, j], dim=0) for i in range(5) for j in range(i)]
        assert diversity(e)[b].item() == pytest.approx(torch.stack(pairs).mean().item(), rel=1e-5)
    assert diversity(e[:, :1].expand(2, 4, 7)).tolist() == pytest.approx([0, 0], abs=1e-12)
    with pytest.raises(ValueError, match="1 image has no pairs"):
        diversity(e[:, :1])


@pytest.mark.parametrize("of", [interval, bootstrap])
def test_one_sample_has_no_interval(of):
    with pytest.raises(ValueError, match="1 sample has no interval; run 2 seeds or more"):
        of(SAMPLES[:1])


def test_an_interval_prints_itself():
    assert str(Interval(1.0, 0.5, 1.5)) == "1.000 [0.500, 1.500]"
