"""Masked diffusion over letters: a character model of first names, searched for names full of one letter.

    pip install names                                         # the US census's first names of 1990
    python benchmarks/names.py                                # trains, searches, prints
    python benchmarks/names.py --docs docs/tokens.md          # and puts the table into the page
    python benchmarks/names.py --words FILE                   # any list of words, one a line

All methods run at one bill of network rows, over several seeds. The reward counts a letter, which everyone can check; a
bigram model of the names, which never steers, judges what is left of them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

import dsearch
from dsearch.adapters.masked import Masked, Order
from dsearch.compare.metrics import Interval, interval

BEGIN, END = "<!-- names: begin -->", "<!-- names: end -->"
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
STOP, LENGTH = len(ALPHABET), 10
VOCAB = STOP + 1  # the letters, and what fills a word up behind its end; one more is the mask


def census() -> list[str]:
    """The first names of the `names` package, which this script's own name hides from `import`."""
    try:
        package = metadata.distribution("names")
    except metadata.PackageNotFoundError:
        raise SystemExit("no names to learn from: `pip install names`, or give --words FILE, one a line") from None
    files = ("names/dist.female.first", "names/dist.male.first")
    return [line.split()[0] for file in files for line in Path(package.locate_file(file)).read_text().splitlines()]


def proper(words: Sequence[str]) -> list[str]:
    """Lower case, of 3 to LENGTH plain letters, each once, in order of the alphabet."""
    return sorted({w for w in map(str.lower, words) if 3 <= len(w) <= LENGTH and set(w) <= set(ALPHABET)})


def tokens(words: Sequence[str]) -> Tensor:
    """Words -> `[N, LENGTH]`."""
    return torch.tensor([[*map(ALPHABET.index, word), *[STOP] * (LENGTH - len(word))] for word in words])


def text(x: Tensor) -> str:
    """`[LENGTH]` -> the letters before the first stop."""
    return "".join(f"{ALPHABET}."[i] for i in x.tolist()).split(".")[0]


def count(x: Tensor, prompts: list[str]) -> Tensor:
    """The reward: how often the prompt's letter comes in the word, `[N, LENGTH]` -> `[N]`."""
    before_stop = (x == STOP).cumsum(-1) == 0
    wanted = torch.tensor([ALPHABET.index(letter) for letter in prompts], device=x.device)
    return ((x == wanted[:, None]) & before_stop).sum(-1).float()


class Network(nn.Module):
    """A residual perceptron over all letters at once: tokens `[R, L]` -> logits `[R, L, V]`."""

    def __init__(self, width: int, embed: int = 32) -> None:
        super().__init__()
        self.embed, self.enter = nn.Embedding(VOCAB + 1, embed), nn.Linear(LENGTH * embed, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(2)
        )
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, LENGTH * VOCAB))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(self.embed(x).flatten(1))
        for block in self.blocks:
            h = h + block(h)
        return self.leave(h).unflatten(1, (LENGTH, VOCAB))


def bound(network: Network, x: Tensor) -> Tensor:
    """The masked diffusion's bound on -log p, nats a word `[N]`, by one draw of the mask for each.

    MDLM's loss integrated over time (Sahoo et al. 2024), in the form of Hoogeboom et al. 2022, equation 7: L times the
    mean cross entropy of a uniformly drawn number of masked tokens.
    """
    size = torch.randint(1, LENGTH + 1, (len(x), 1))
    hidden = torch.rand(x.shape).argsort(-1).argsort(-1) < size
    logits = network(torch.where(hidden, VOCAB, x))
    loss = nn.functional.cross_entropy(logits.transpose(1, 2), x, reduction="none")
    return LENGTH * (loss * hidden).sum(-1) / size[:, 0]


def train(network: Network, x: Tensor, steps: int, batch: int = 256, rate: float = 2e-3) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        bound(network, x[torch.randint(len(x), (batch,))]).mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        schedule.step()


class Bigrams:
    """The judge: a word's log-probability a letter (its end counts as one), pairs counted with half a one added."""

    def __init__(self, words: Sequence[str]) -> None:
        n = torch.full((VOCAB, VOCAB), 0.5, dtype=torch.float64)
        for a, b in (pair for word in words for pair in self.pairs(word)):
            n[a, b] += 1
        self.log_p = (n / n.sum(-1, keepdim=True)).log().tolist()

    @staticmethod
    def pairs(word: str) -> list[tuple[int, int]]:
        letters = [STOP, *map(ALPHABET.index, word), STOP]
        return list(pairwise(letters))

    def __call__(self, word: str) -> float:
        pairs = self.pairs(word)
        return sum(self.log_p[a][b] for a, b in pairs) / len(pairs)


def methods(n: int, lam: float) -> dict[str, dsearch.Method]:
    """The methods of `dsearch demo`, and Feynman-Kac steering, within the rows of n plain words."""
    made, half = dsearch.methods, max(2, n // 2)
    sized = {
        "plain": made.plain(count),
        "best-of-N": made.best_of_n(count),
        "SVDD": made.svdd(count),
        "DSearch": made.dsearch(count, n, 1, n),
        "DSearch-R": made.dsearch_r(count, half, 2 * half, 1 / half, search="all"),
        "FK steering": made.fk(count, lam=lam, every=1),  # at every step, as the others look
    }
    return {name: method.within(dsearch.Budget(model_calls=n * LENGTH), LENGTH) for name, method in sized.items()}


Row = dict[str, Any]


def searched(denoiser: Masked, method: dsearch.Method, letters: str, words: int, seed: int) -> list[list[str]]:
    """`words` independent searches a letter -> the word that each leaves its user with, by letter."""
    prompts = [letter for letter in letters for _ in range(words)]
    result = dsearch.search(
        denoiser, method, prompts, seed=seed, chunks=dsearch.Chunks(network=None, decoder=None, reward=None)
    )
    # Where nothing chooses, a word drawn blindly: that of the first beam.
    blind = not any(method.plan(LENGTH).score)
    at = (result.lineage.ancestor() == 0).int().argmax(1).tolist() if blind else [0] * len(prompts)
    found = [text(group[k]) for group, k in zip(result.images, at, strict=True)]
    return [found[i : i + words] for i in range(0, len(found), words)]


def measures(found: Sequence[Sequence[str]], letters: str, judge: Bigrams, known: set[str]) -> dict[str, float]:
    """Of one seed: means over all words; `distinct` within a letter."""
    flat = [(letter, word) for letter, words in zip(letters, found, strict=True) for word in words]
    return {
        "reward": sum(word.count(letter) for letter, word in flat) / len(flat),
        "judge": sum(judge(word) for _, word in flat) / len(flat),
        "distinct": sum(len(set(words)) for words in found) / len(flat),
        "length": sum(len(word) for _, word in flat) / len(flat),
        "listed": sum(word in known for _, word in flat) / len(flat),
    }


def compare(network: Network, order: str, args: argparse.Namespace, judge: Bigrams, known: set[str]) -> list[Row]:
    denoiser = Masked(lambda x, step: network(x), length=LENGTH, vocab=VOCAB, order=order)
    rows: list[Row] = []
    for name, method in methods(args.n, args.lam).items():
        began, seen, examples = time.perf_counter(), [], []
        for seed in range(args.seeds):
            found = searched(denoiser, method, args.letters, args.words_each, seed)
            seen.append(measures(found, args.letters, judge, known))
            examples.append(found)
        row = {"order": order, "method": name, "bill": method.bill(LENGTH)._asdict(), "words": examples[0]}
        row["seconds"] = (time.perf_counter() - began) / args.seeds
        row["all"] = {key: [one[key] for one in seen] for key in seen[0]}
        rows.append(row | {key: interval(torch.tensor(each))._asdict() for key, each in row["all"].items()})
    base = torch.tensor(next(row for row in rows if row["method"] == "best-of-N")["all"]["reward"])
    for row in rows:
        row["above_best_of_n"] = interval(torch.tensor(row["all"]["reward"]) - base)._asdict()
    return rows


def section(report: dict[str, Any]) -> str:
    """The Markdown that goes into the page."""
    real = report["real"]
    lines = [
        f"{report['date']}, {report['machine']}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"dsearch {dsearch.__version__}; {report['seconds']:.0f} s in all. "
        f"{report['trained']:,} names learned in {report['train_s']:.0f} s; the bound on -log p is "
        f"{report['bound']['learned']:.2f} nats a name on those and {report['bound']['held_out']:.2f} on "
        f"{report['held_out']} held out. Made by:",
        "",
        "```",
        report["command"],
        "```",
        "",
        "| order | method | letters wanted | above best-of-N | judge, nats a letter | distinct | length | in the list "
        "| model calls | reward calls |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | ---: | ---: |",
        f"| | held-out names | {real['reward']:.3f} | | {real['judge']:.3f} | {real['distinct']:.3f} "
        f"| {real['length']:.3f} | | | |",
    ]
    for row in report["rows"]:
        shown = {
            key: Interval(**row[key]) for key in ("reward", "above_best_of_n", "judge", "distinct", "length", "listed")
        }
        own = "" if row["method"] == "best-of-N" else str(shown["above_best_of_n"])
        cells = [row["order"], row["method"], str(shown["reward"]), own, *map(str, list(shown.values())[2:])]
        cells += [str(row["bill"][unit]) for unit in ("model_calls", "reward_calls")]
        lines.append("| " + " | ".join(cells) + " |")
    letters = report["letters"]
    lines += [
        "",
        "| order | method | " + " | ".join(f"wanted: {a}" for a in letters) + " |",
        "| --- | --- |" + " --- |" * len(letters),
    ]
    for row in report["rows"]:
        words = " | ".join(", ".join(words[:5]) for words in row["words"])
        lines.append(f"| {row['order']} | {row['method']} | {words} |")
    return "\n".join(lines)


def rewrite(page: Path, text: str) -> None:
    """Puts the section between the page's markers."""
    old = page.read_text(encoding="utf-8")
    if BEGIN not in old or END not in old:
        raise SystemExit(f"{page} has no markers {BEGIN} and {END}")
    before, after = old.split(BEGIN)[0], old.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    chips = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{chips[0] if chips else platform.machine()}, {torch.get_num_threads()} thread(s)"


def command(argv: Sequence[str]) -> str:
    """The command line, without the folders of this machine."""
    hidden = {"--words": "FILE", "--json": "OUT.json", "--docs": "docs/tokens.md"}
    shown = [hidden.get(before, word) for before, word in zip(["", *argv], argv, strict=False)]
    return " ".join(["python benchmarks/names.py", *shown])


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=Path, metavar="FILE", help="a list to learn from (default: the names package)")
    parser.add_argument("--train-steps", type=int, default=1500)
    parser.add_argument("--width", type=int, default=256, help="of the network")
    parser.add_argument("--letters", default="alz", help="wanted, each a prompt")
    parser.add_argument("--words-each", type=int, default=16, help="independent searches a letter and seed")
    parser.add_argument("--n", type=int, default=32, help="plain words at the common bill")
    parser.add_argument("--lam", type=float, default=4.0, help="of Feynman-Kac steering")
    parser.add_argument("--seeds", type=int, default=7, help="repetitions, at least 2")
    parser.add_argument("--orders", nargs="+", choices=get_args(Order), default=get_args(Order))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every figure there")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="rewrite the tables between the page's markers")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    args, began = parsed(argv), time.perf_counter()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    words = proper(census() if args.words is None else args.words.read_text(encoding="utf-8").split())
    held = words[::10]  # of every ten, one is never learned
    learned = [word for i, word in enumerate(words) if i % 10]
    network, judge = Network(args.width), Bigrams(learned)
    train(network, tokens(learned), args.train_steps)
    train_s = time.perf_counter() - began
    network.eval()
    with torch.no_grad():
        bounds = {
            name: float(torch.cat([bound(network, tokens(some)) for _ in range(20)]).mean())
            for name, some in (("learned", learned), ("held_out", held))
        }
    report = {
        "rows": [row for order in args.orders for row in compare(network, order, args, judge, set(words))],
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "command": command(argv),
        "letters": args.letters,
        "trained": len(learned),
        "held_out": len(held),
        "bound": bounds,
        "real": measures([held] * len(args.letters), args.letters, judge, set(words)),
        "train_s": train_s,
        "seconds": time.perf_counter() - began,
    }
    print(section(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.docs:
        rewrite(args.docs, section(report))


if __name__ == "__main__":
    main(sys.argv[1:])
