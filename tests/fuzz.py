"""Experiment files damaged at random, as a typing error, a merge or another program may damage them."""

import random
import re

WHOLE = """\
prompts: [cat, "yes", '1']
models:
  small: {pipeline: box, steps: 8, guidance_scale: 3.0, eta: 1.0, device: cpu}
  other: {pipeline: some/folder, steps: 8}
rewards:
  clip: &clip clip
  judge: {kind: clip, path: judge}
  size: {kind: compressibility, quality: 95, size: 64}
  both: {kind: weighted, rewards: [clip, compressibility], weights: [1, 0.1]}
objectives: [clip, size]
held_out: [judge]
methods:
  best-of-N: best_of_n
  SVDD: {kind: svdd, temperature: 1e-1, value: {lookahead: {steps: 2}}}
  FK: {kind: fk, lam: {per_std: 4}}
budgets:
  - {model_calls: 40}
  - {model_calls: 80, decodes: 60}
sweeps:
  - {methods: FK, budgets: [{model_calls: 640}], seeds: 2}
  - {methods: [SVDD, best-of-N]}
seeds: [3, 5]
pilot: {samples: 16, prompts: 2, seed: 10000}
batch: 2
chunks: {network: 8}
thumbnails: 16
prices: {model_call: 0.02, decode: 0.005, reward_call: 0.001}
"""

VALUES = (
    *(
        "null",
        "true",
        ".nan",
        ".inf",
        "-.inf",
        "-1",
        "0",
        "1e400",
        "1" * 30,
        "1e-2",
        "''",
        "[]",
        "{}",
        "[[a]]",
        "{a: b}",
    ),
    *(
        "2001-01-01",
        "2001-99-99",
        "12:30:00",
        "!!int x",
        "!!binary x",
        "!!python/object:os.system x",
        "*clip",
        "&a [*a]",
    ),
    *(
        "<<",
        "? [a] : b",
        "a:b",
        "C:\\x",
        "~/x",
        "os:system",
        "..:x",
        "a b:c",
        "'\\0'",
        '"\\ud83e"',
        "|\n  x",
        "given",
        "pilot",
    ),
    *(
        "{per_std: a}",
        "{kind: clip}",
        "{kind: weighted}",
        "{kind: [clip]}",
        "{kind: cached, reward: cached}",
        "0x_",
        "0b2",
        "=",
        "%",
    ),
)


def mutations(text, n, seed):
    """`n` damaged copies of a text."""
    draw = random.Random(seed)
    return [_mutated(text, draw) for _ in range(n)]


def _mutated(text, draw):
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        text = draw.choice([_value, _value, _line, _key, _letters])(text, draw)
    return text


def _value(text, draw):
    """A value becomes another."""
    places = [m.span(1) for m in re.finditer(r"[:\[,-] ?((?:'[^']*'|\"[^\"]*\"|[\w.&*/-]+))", text)] or [(0, 0)]
    start, end = draw.choice(places)
    return text[:start] + draw.choice(VALUES) + text[end:]


def _line(text, draw):
    """A line goes, comes twice, moves or is indented."""
    lines = text.split("\n")
    at = draw.randrange(len(lines))
    line = lines.pop(at)
    put = draw.choice([[], [line, line], ["  " + line], [line.strip()], ["<<: *clip"], ["\t" + line]])
    to = draw.choice([at, draw.randrange(len(lines) + 1)])
    return "\n".join(lines[:to] + put + lines[to:])


def _key(text, draw):
    """A name becomes another."""
    names = [m.span() for m in re.finditer(r"\w+(?=:)", text)] or [(0, 0)]
    start, end = draw.choice(names)
    return (
        text[:start]
        + draw.choice(["x", "kind", "1", "null", "prompts", "where", "<<", "[a]", "é", text[start:end] + "s"])
        + text[end:]
    )


def _letters(text, draw):
    """Letters go, come or change."""
    at = draw.randrange(len(text) + 1)
    put = draw.choice(
        ["", "\x00", "\x85", "\u2028", "{", "}", "[", "]", ":", "-", "\t", "'", '"', "#", "&a ", "*a ", "🦊", "\x1b"]
    )
    return text[:at] + put + text[at + draw.choice([0, 1, 5]) :]
