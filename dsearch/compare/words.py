"""Tables and notes of a comparison: Markdown to read, CSV with all numbers in full."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from math import floor, isnan, log10, nan
from typing import Any

from torch import Tensor

from .._text import cell, printable
from ..core.plan import Bill
from ..experiments.experiment import described
from .anchors import Anchor
from .areas import Area
from .cells import Found, Place, listed, short
from .embedded import Embedded
from .intervals import Estimate
from .metrics import Interval
from .rows import Row
from .scores import Pairs

COARSE = 0.1
"""The share of searches that tie, above which it is said what to do."""

APART = 0.05
"""Bills of one budget that differ by a larger share are named."""

INTERVALS = (
    "Intervals are 95%, over seeds, on these prompts: the mean over the prompts of their seeds' means, with "
    "Satterthwaite's degrees of freedom. The searches of a method are independent, since noise is keyed by seed and "
    "prompt."
)


REJECTED = (
    "Rejected: the share of the rewards that count which are not finite (-inf: the reward refuses the image). Means "
    "and their intervals are of the others, so that failing may raise a mean; no order or difference goes by it. Where "
    "a side rejects an image of any pair, pairs are counted in the place of Δ: fewer rejections are better, then the "
    "higher mean; n.s.: the 95% interval of the share of better ones (Clopper and Pearson's, without those alike) "
    "holds 1/2. Pareto fronts are of the points that reject least."
)

FEW = {
    0: "all rejected, and not in the mean:",
    1: "one finite seed, whose spread is taken to be the other prompts':",
}


def written(
    rows: Sequence[Row],
    anchors: Mapping[str, Sequence[tuple[str, Anchor, str]]],
    notes: Sequence[str],
    areas: Sequence[Area] = (),
) -> str:
    """Per model and objective how often rewards tie, what methods brought and cost; figures from elsewhere; notes."""
    parts = []
    for model, objective in dict.fromkeys((row.model, row.objective) for row in rows):
        own = [row for row in rows if (row.model, row.objective) == (model, objective)]
        published = [anchor for name, anchor, _ in anchors.get(model, ()) if name == objective]
        parts += [
            f"## {safe(model)}, searched for {safe(objective)}",
            ties_of(own),
            _gains(own, published),
            _costs(own),
        ]
        if over := [area for area in areas if (area.model, area.objective) == (model, objective)]:
            parts += [_over_budgets(over)]
    for model, found in anchors.items():
        parts += [f"## From elsewhere, on {safe(model)}", _elsewhere(found)]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)]) + "\n"


def ties_of(rows: Sequence[Row]) -> str:
    """How often the methods' best reward was shared, and a final choice's judge undecided, in one paragraph."""
    said = [(row, row.ties) for row in rows if row.ties is not None]
    if not said:
        return "Tie rate: no search ends with several candidates."
    shares = [f"{safe(_titled(row, rows))} {percent(ties)}" for row, ties in said if ties > 0]
    text = ", ".join(shares) + ("" if len(shares) == len(said) else ", 0% under the others") if shares else "0%"
    text = f"Tie rate, the share of searches whose best reward several final candidates share: {text}."
    if any(ties > COARSE for _, ties in said):
        text += " So coarse a reward leaves the choice to the order of the rows: take a finer one, or a final choice."
    torn = [f"{safe(_titled(row, rows))} {percent(row.undecided)}" for row in rows if row.undecided is not None]
    return text + (f" Comparisons without a winner: {', '.join(torn)}." if torn else "")


def _titled(row: Row, rows: Sequence[Row]) -> str:
    several = len({other.budget for other in rows if other.method == row.method}) > 1
    return f"{row.method} at {described(dict(row.budget))}" if several else row.method


def flat(rows: Sequence[Row]) -> str:
    """A line a row, all numbers in full; blank where there is none."""
    lines = [_numbered(row) for row in rows]
    into = io.StringIO()
    writer = csv.DictWriter(into, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
    writer.writerow({name: cell(name) for name in writer.fieldnames})
    writer.writerows({name: cell(value) for name, value in line.items()} for line in lines)
    return into.getvalue()


def notes_of(found: Found, rows: Sequence[Row], base: str, embedded: Embedded, areas: Sequence[Area] = ()) -> list[str]:
    """What the tables must not be read without."""
    notes = [
        f"Δ is the difference from {safe(base)} at the same budget, paired by seed and prompt. {INTERVALS} n.s.: the "
        "interval of a difference reaches 0. Nothing is corrected for how many there are: of 20 that are truly 0, one "
        "is found clear.",
        "What counts is the best image of a prompt; for plain, where nothing chooses, the mean over its images.",
    ]
    if any(_only_here(one) for row in rows for one in (row.reward, *row.held_out.values())):
        notes.append(
            "†: clear on these prompts, but with the prompts as the samples the interval reaches 0, so it may not hold "
            "for others."
        )
    if areas:
        notes.append(
            "AUC is the area under the curve of a reward against the log of the budget, over the log of its span: the "
            "mean reward of a budget drawn evenly on a log scale, of places with a reward at every budget."
        )
    notes += _rejected(found, rows)
    notes.append(_diversity(rows, embedded))
    notes += _unequal(rows) + _unfinished(found) + _unpaired(found, rows, base)
    pools = dict.fromkeys(key.method for key, own in found.ready.items() if own.pooled)
    if pools:
        notes.append(
            f"{safe(', '.join(pools))}: all prompts share one pool and may vanish from it. Means are over the prompts "
            "kept, differences over those that both kept, and a seed's mean is one sample."
        )
    if found.twice:
        notes.append(f"{found.twice} searches lie in several of the runs; those of the first count.")
    return notes


def held_out(name: str, row: Row) -> Estimate | None:
    """What a watching reward says of a row."""
    return row.held_out.get(name)


def words(unit: str) -> str:
    """A unit as people write it."""
    return unit.replace("_", " ")


def count(number: float) -> str:
    """A number of things or seconds, to three digits or the last whole one."""
    return f"{number:,.0f}" if number >= 100 or float(number).is_integer() else f"{number:.3g}"


def safe(text: str) -> str:
    """A name as a Markdown table may hold it."""
    text = printable(text)
    for mark in ("\\", "|", "`", "*", "_", "["):
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.replace("<", "&lt;").split())


def percent(share: float) -> str:
    """A share in whole percent, but never 0% or 100% of what is neither."""
    return f"{share:.0%}" if share in (0, 1) or 0.01 <= share <= 0.99 else "< 1%" if share < 0.5 else "> 99%"


def _rejected(found: Found, rows: Sequence[Row]) -> list[str]:
    """What the means leave out, and the prompts that have one finite reward or none."""
    if not any(one.rejected > 0 for row in rows for one in (row.reward, *row.held_out.values())):
        return ["No reward that counts is rejected (-inf): the means leave none out."]
    notes = [REJECTED]
    for row in rows:
        cell, asked = found.cells[row.key], len(found.prompts)
        for name, said in ((None, row.reward), *row.held_out.items()):
            if said.rejected > 0:
                scores = cell.of(name, cell.seeds, asked)
                finite = (~scores.mean.isnan()).sum(dim=0)
                asked_of = (finite > 0) | (scores.rejected > 0).any(dim=0)
                few = {n: [safe(short(found.prompts[p])) for p in _where(asked_of & (finite == n))] for n in FEW}
                parts = [
                    f"{told} {'every prompt' if len(few[n]) == asked else _some(few[n])}"
                    for n, told in FEW.items()
                    if few[n]
                ]
                reward = "" if name is None else f" {safe(name)},"
                notes += [f"{safe(str(row.key))},{reward} {'; '.join(parts)}."] if parts else []
    return notes


def _where(mask: Tensor) -> list[int]:
    return mask.nonzero()[:, 0].tolist()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _diversity(rows: Sequence[Row], embedded: Embedded) -> str:
    if embedded.why:
        return f"No diversity: {safe(embedded.why)}."
    if not any(row.diversity for row in rows):
        return "No diversity: there are no pictures, or no prompt has two."
    return (
        "Diversity is the mean pairwise 1 - cosine of a prompt's images across seeds, one image per seed, as "
        f"{safe(str(embedded.name))} embeds them; its intervals come from leaving out a seed of a prompt at a time. "
        "The Vendi score says how many different images they amount to, from 1 to the number of seeds, so that it "
        "compares at equal seeds."
    )


def _unequal(rows: Sequence[Row]) -> list[str]:
    """Bills of one budget that differ by more than 5% in its unit, and methods whose sizes were given."""
    said: dict[str, list[str]] = {}
    for (model, objective, budget), group in groupby(rows, key=lambda row: (row.model, row.objective, row.budget)):
        own = list(group)
        for unit in [name for name, _ in budget] or ["model_calls"]:
            most = max(row.spent(unit) for row in own)
            less = [f"{safe(r.method)} {count(r.spent(unit))}" for r in own if r.spent(unit) < (1 - APART) * most]
            if less:
                text = (
                    f"{described(dict(budget))}: the most is {count(most)} {words(unit)} per prompt, {', '.join(less)}"
                )
                said.setdefault(text, []).append(f"{model}, searched for {objective}")
    notes = [f"Unequal bills, {text} ({safe('; '.join(places))})." for text, places in said.items()]
    if any(not row.budget for row in rows):
        notes.insert(0, "Methods as given are not sized to one bill: their rewards compare as far as their bills do.")
    return notes


def _unfinished(found: Found) -> list[str]:
    notes = []
    for key, own in sorted(found.cells.items(), key=lambda pair: pair[0] not in found.ready):
        if missing := found.planned[key] - own.covered:
            then = "what is there is compared" if key in found.ready else "too little to compare, and left out"
            notes.append(f"Unfinished: {safe(str(key))} lacks {_missing(missing, found.planned[key])}; {then}.")
    return notes


def _missing(missing: set[Place], planned: set[Place]) -> str:
    seeds = {seed for seed, _ in missing}
    whole = {seed for seed in seeds if {place for place in planned if place[0] == seed} <= missing}
    parts = [f"all of seeds {listed(whole)}"] if whole else []
    parts += [f"some prompts of seeds {listed(seeds - whole)}"] if seeds - whole else []
    return " and ".join(parts)


def _unpaired(found: Found, rows: Sequence[Row], base: str) -> list[str]:
    alone = [row.key for row in rows if row.method != base and not _is_paired(row.reward)]
    asked = [str(key) for key in alone if found.beside(key, base) in found.planned]
    others = dict.fromkeys(f"{key.method} {described(dict(key.budget))}" for key in alone if str(key) not in asked)
    return [
        *([f"No two seeds of a prompt pair with {safe(base)}: {safe('; '.join(asked))}."] if asked else []),
        *([f"{safe(base)} has no budget in common with: {safe('; '.join(others))}."] if others else []),
    ]


def _is_paired(said: Estimate) -> bool:
    return bool(said.above or (said.pairs and said.pairs.rejected))


def _gains(rows: Sequence[Row], published: Sequence[Anchor] = ()) -> str:
    """What the methods of one objective brought, and beside it what was published of methods of the same names."""
    measures: list[tuple[str, Callable[[Row], Estimate | None]]] = [(rows[0].objective, lambda row: row.reward)]
    for name in dict.fromkeys(name for row in rows for name in row.held_out):
        measures.append((name, partial(held_out, name)))
    if any(row.diversity for row in rows):
        measures.append(("diversity", lambda row: row.diversity))
        measures.append(("Vendi score", lambda row: row.vendi))
    columns = _names(rows)
    for name, of in measures:
        said = [of(row) for row in rows]
        places = _places([one for estimate in said if estimate for one in estimate[:2] if one])
        columns.append([safe(name), *(_shown(one.own, places) if one else "" for one in said)])
        if any(estimate and estimate.rejected > 0 for estimate in said):
            columns.append(["rejected", *(percent(one.rejected) if one else "" for one in said)])
        columns.append([f"Δ {safe(name)}", *(_above(one, places) if one else "" for one in said)])
        for anchor in published:
            if anchor.says(name, rows[0].objective) and (figures := [anchor.of(row.method) for row in rows]) != [
                None
            ] * len(rows):
                title = f"published {safe(anchor.measure)}"
                columns.append([title, *("" if figure is None else f"{figure:g}" for figure in figures)])
    for title, numbers in (("KL, nats", [row.kl for row in rows]), ("ESS", [row.ess for row in rows])):
        if any(number is not None for number in numbers):
            columns.append([title, *("" if number is None else f"{number:.2f}" for number in numbers)])
    return _markdown(columns)


def _over_budgets(areas: Sequence[Area]) -> str:
    """What methods reach over all their budgets together."""
    spans = [f"{count(area.budgets[0])} to {count(area.budgets[-1])} {words(area.unit)}" for area in areas]
    columns = [["budgets", *spans], ["method", *(safe(area.method) for area in areas)]]
    names = dict.fromkeys(name for area in areas for name in area.held_out)
    for name in (None, *names):
        said = [area.reward if name is None else area.held_out.get(name) for area in areas]
        places = _places([one for estimate in said if estimate for one in estimate[:2] if one])
        title = safe(areas[0].objective if name is None else name)
        columns.append([f"AUC of {title}", *(_shown(one.own, places) if one else "" for one in said)])
        columns.append([f"Δ {title}", *(_above(one, places) if one else "" for one in said)])
    return _markdown(columns)


def _costs(rows: Sequence[Row]) -> str:
    """What it cost them per prompt."""
    columns = _names(rows)
    units = [unit for unit in Bill._fields if unit != "comparisons" or any(row.bill[unit] for row in rows)]
    columns += [[words(unit), *(count(row.bill[unit]) for row in rows)] for unit in units]
    columns.append(["seconds", *(count(row.seconds) for row in rows)])
    columns.append(["peak, MiB", *("" if not row.peak_bytes else f"{row.peak_bytes / 2**20:,.0f}" for row in rows)])
    columns.append(["seeds", *(str(row.seeds) for row in rows)])
    columns.append(["prompts kept", *(f"{count(row.kept)} of {row.asked}" for row in rows)])
    return _markdown(columns)


def _names(rows: Sequence[Row]) -> list[list[str]]:
    return [["budget", *(described(dict(row.budget)) for row in rows)], ["method", *(safe(row.method) for row in rows)]]


def _elsewhere(found: Sequence[tuple[str, Anchor, str]]) -> str:
    lines = [["objective", "source", "measure", "figures", "setting", "what differs"]]
    for objective, anchor, differs in found:
        figures = " · ".join(f"{name} {value:g}" for name, value in anchor.values.items())
        measure, setting = f"{anchor.measure} ({anchor.statistic})", f"{anchor.model}; {anchor.setting}"
        lines.append([safe(objective), anchor.source, measure, figures, setting, differs])
    return _markdown([list(column) for column in zip(*lines, strict=True)])


def _markdown(columns: Sequence[Sequence[str]]) -> str:
    head, *lines = ("| " + " | ".join(line) + " |" for line in zip(*columns, strict=True))
    return "\n".join([head, "|" + " --- |" * len(columns), *lines])


def _numbered(row: Row) -> dict[str, Any]:
    named = {
        "model": row.model,
        "objective": row.objective,
        "method": row.method,
        "budget": described(dict(row.budget)),
    }
    line: dict[str, Any] = named | {f"limit_{unit}": limit for unit, limit in row.budget}
    line |= {"seeds": row.seeds, "prompts_asked": row.asked, "prompts_kept": row.kept}
    line |= _ends("reward", row.reward)
    line |= {**row.bill, "seconds": row.seconds, "peak_bytes": row.peak_bytes, "kl": row.kl, "ess": row.ess}
    line |= _spread("diversity", row.diversity) if row.diversity else {}
    line |= _spread("vendi", row.vendi) if row.vendi else {}
    line |= {"ties": row.ties, "undecided": row.undecided}
    for name, said in row.held_out.items():
        line |= _ends(f"held_out.{name}", said)
    return line


def _ends(name: str, said: Estimate) -> dict[str, float | None]:
    """What a reward says, by the names of columns."""
    counts = said.pairs._asdict() if said.pairs else {}
    pairs = {f"{name}_pairs_{kind}": counts.get(kind) for kind in Pairs._fields}
    return {**_spread(name, said), f"{name}_rejected": None if isnan(said.rejected) else said.rejected, **pairs}


def _spread(name: str, said: Estimate) -> dict[str, float | None]:
    """A mean, its difference and the ends of their intervals, by the names of columns."""
    line: dict[str, float] = {}
    for suffix, one in (("", said.own), ("_difference", said.above), ("_difference_over_prompts", said.beyond)):
        mean, low, high = one or Interval(nan, nan, nan)
        line |= {f"{name}{suffix}": mean, f"{name}{suffix}_low": low, f"{name}{suffix}_high": high}
    return {key: None if isnan(number) else number for key, number in line.items()}


def _places(intervals: Sequence[Interval]) -> int:
    """Decimals that show two digits of the narrower halves of the intervals."""
    halves = sorted(half for one in intervals if (half := one.high - one.mean) > 0)
    return max(0, min(6, 1 - floor(log10(halves[len(halves) // 4])))) if halves else 3


def _shown(one: Interval, places: int, sign: str = "") -> str:
    if isnan(one.mean):
        return "–"
    mean, low, high = (f"{round(number, places) + 0.0:{sign}.{places}f}" for number in one)  # + 0.0: no minus zero
    return mean if isnan(one.low) else f"{mean} [{low}, {high}]"


def _above(said: Estimate, places: int) -> str:
    if said.above is None:
        return _counted(said.pairs) if said.pairs and said.pairs.rejected else ""
    mark = " †" if _only_here(said) else "" if said.above.is_clear else " n.s."
    return _shown(said.above, places, "+") + mark


def _counted(pairs: Pairs) -> str:
    whole = pairs.better + pairs.worse + pairs.alike
    return f"better {pairs.better}, worse {pairs.worse} of {whole}{'' if pairs.is_clear else ' n.s.'}"


def _only_here(said: Estimate) -> bool:
    """Clear on these prompts, and not with the prompts as the samples."""
    return bool(said.above and said.above.is_clear and said.beyond and not said.beyond.is_clear)
