"""What `test_distributed.py` runs under torchrun: searches on all processes, saved by rank 0."""

import dataclasses
import os
import sys

import torch
from strategies import smooth

import dsearch
from dsearch import distributed, methods
from dsearch.adapters import toy
from dsearch.core.tournament import by_reward, swiss, tournament
from dsearch.core.value import Lookahead

SVDD = methods.svdd(smooth, width=7)
CASES = {
    "one prompt": (SVDD, 1, {}),
    "two prompts": (SVDD, 2, {}),
    "five prompts": (SVDD, 5, {}),
    "five in batches": (SVDD, 5, {"batch": 2}),
    "a child or two": (methods.svdd(smooth, width=2), 1, {}),
    "children in blocks": (SVDD, 1, {"chunks": dsearch.Chunks(1, 2, 1)}),
    "beams": (methods.dsearch(smooth, beams=5, keep=2, rows_per_step=20), 1, {}),
    "replacement": (methods.dsearch_r(smooth, beams=5, rows_per_step=20, rate=0.2), 1, {}),
    "particles": (methods.fk(smooth, particles=7), 1, {}),
    "best of n": (methods.best_of_n(smooth, 7), 1, {}),
    "softmax": (methods.svdd(smooth, width=5, temperature=0.5), 1, {}),
    "rollouts": (dataclasses.replace(SVDD, value=Lookahead(2, rollouts=3)), 1, {}),
    "stops early": (SVDD, 1, {"watch": [dsearch.Target(-0.3)]}),
    "watched": (SVDD, 1, {"watch": [dsearch.HeldOut({"first": lambda x, prompts: x[:, 0]})]}),
    "rounds": (methods.zero_order(smooth, rounds=2, candidates=5), 1, {}),
    "half precision values": (methods.svdd(lambda x, prompts: smooth(x, prompts).double(), width=2), 1, {}),
}
FINAL = {"final": tournament(by_reward(lambda x, prompts: x[:, 0]), swiss())}
CASES |= {
    "final choice": (methods.best_of_n(smooth, 5, keep=5), 1, FINAL),
    "final choices": (methods.best_of_n(smooth, 5, keep=5), 5, FINAL),
}
PROMPTS = ["a", "b", "c", "d", "e"]


def network():
    """A search on a tiny Stable Diffusion, with a smooth reward."""
    import tiny

    from dsearch.adapters import StableDiffusion

    model = StableDiffusion(tiny.pipeline(), num_inference_steps=4, guidance_scale=3)
    return {"denoiser": model, "method": methods.svdd(tiny.contrast, width=5), "prompts": ["cat"]}


def said(result):
    return {
        **{name: getattr(result, name) for name in ("images", "rewards", "latents", "log_w", "kl", "prompts")},
        "values": [step.values for step in result.trace],
        "path": result.lineage.path(),
        "bill": result.cost.spent,
        "watched": result.cost.watched,
        "held out": result.held_out,
        "final": result.final and [result.final.order, result.final.comparisons, result.final.ties],
    }


def lose(ranks, how):
    """The last of two processes never answers the first: it ends, or it hangs."""
    if ranks.rank == 0:
        try:
            ranks.collect("here")
        except distributed.RanksLost as error:
            sys.stdout.write(str(error))
    elif how == "hangs":
        sys.stdin.read()  # until the test ends it
    sys.stdout.flush()
    os._exit(0)  # as a process that was killed: nothing is said to the others


def main(out, dies):
    torch.set_num_threads(1)
    found, sent = {}, {}
    with distributed.processes(timeout=60) as ranks:
        for name, (method, prompts, options) in CASES.items():
            before, parts = ranks.sent, []
            result = distributed.search(
                toy.example(),
                method,
                PROMPTS[:prompts],
                ranks=ranks,
                seed=3,
                each=lambda result, positions, parts=parts: parts.append(positions),
                **options,
            )
            assert (result is None) == (ranks.rank != 0) == (not parts)
            assert result is None or [i for part in parts for i in part] == list(range(prompts))
            found[name], sent[name] = None if result is None else said(result), ranks.sent - before
        result = distributed.search(**network(), ranks=ranks)
        if ranks.rank == 0:
            torch.save({"found": found, "sent": sent, "network": said(result)}, out)
        if dies:
            die(ranks, out)


def die(ranks, out):
    """The last rank's reward kills its process in the third batch; rank 0 writes what was finished before."""
    batches = []

    def reward(x, prompts):
        if ranks.rank == ranks.size - 1 and prompts[-1] == "11":
            sys.stderr.flush()
            raise SystemExit("the machine went away")
        return smooth(x, prompts)

    def each(result, positions):
        batches.append((list(positions), result.images))
        torch.save(batches, f"{out}.kept")

    distributed.search(
        toy.example(), methods.svdd(reward, 3), [str(i) for i in range(20)], ranks=ranks, batch=2, each=each
    )


if __name__ == "__main__":
    assert dsearch.__version__
    if sys.argv[1] == "lose":
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()  # until both have imported all, so that the wait below is for an answer alone
        with distributed.processes(timeout=3) as both:
            both.told("hello")
            lose(both, sys.argv[2])
    main(sys.argv[1], sys.argv[2:] == ["dies"])
