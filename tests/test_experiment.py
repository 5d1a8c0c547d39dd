"""Experiments as plain data: what YAML says, what it may not say, and on which line it said it."""

import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsearch import methods
from dsearch.core.value import Lookahead
from dsearch.experiments.build import Workshop, denoiser, method, reward, unasked
from dsearch.experiments.experiment import Experiment, ExperimentError, Model, Named
from dsearch.experiments.reader import from_data, load, parse

WHOLE = """\
prompts: [cat, "yes", '1']
models:
  small: {pipeline: box, steps: 8, guidance_scale: 3.0, device: cpu}
  other: some/folder
rewards:
  clip: clip
  judge: {kind: clip, path: judge}
  size: compressibility
objectives: [clip, size]
methods:
  best-of-N: best_of_n
  SVDD: {kind: svdd, temperature: 0.1, value: {lookahead: {steps: 2}}}
budgets:
  - {model_calls: 40}
  - {model_calls: 80, decodes: 60}
seeds: [3, 5]
batch: 2
chunks: {network: 8}
thumbnails: 16
"""


def test_a_file_says_all_of_an_experiment():
    found = parse(WHOLE)
    assert found == Experiment(
        prompts=("cat", "yes", "1"),
        models={
            "small": Model("box", 8, device="cpu", args={"guidance_scale": 3.0}),
            "other": Model("some/folder"),
        },
        rewards={"clip": Named("clip"), "judge": Named("clip", {"path": "judge"}), "size": Named("compressibility")},
        objectives=("clip", "size"),
        held_out=("judge",),
        methods={
            "best-of-N": Named("best_of_n"),
            "SVDD": Named("svdd", {"temperature": 0.1, "value": {"lookahead": {"steps": 2}}}),
        },
        budgets=({"model_calls": 40}, {"model_calls": 80, "decodes": 60}),
        seeds=(3, 5),
        batch=2,
        chunks={"network": 8},
        thumbnails=16,
    )
    assert len(found.units()) == 2 * 2 * 2 * 2 * 2 * 2


def test_the_least_that_a_file_says_has_sensible_defaults():
    found = parse("prompts: [cat]\nrewards: {size: compressibility}\nmethods: {SVDD: svdd}\n")
    assert (found.models, found.objectives, found.held_out) == ({"box": Model()}, ("size",), ())
    assert (found.budgets, found.seeds, found.batch, found.thumbnails) == (({},), (0,), None, 0)
    assert found.models["box"].num_steps == 20


def test_prompts_come_from_a_file_beside_the_experiment(tmp_path):
    (tmp_path / "prompts.txt").write_text("  a cat \n\nno\n", encoding="utf-8")
    (tmp_path / "e.yaml").write_text(
        "prompts: {file: prompts.txt}\nrewards: {size: compressibility}\nmethods: {SVDD: svdd}\n"
    )
    assert load(tmp_path / "e.yaml").prompts == ("a cat", "no")


LEAST = "prompts: [cat]\nrewards: {size: compressibility}\nmethods: {SVDD: svdd}\n"


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("", 0, "is not a mapping of prompts"),
        ("prompts: [cat]\n", 1, "rewards is missing"),
        (LEAST + "sead: 3\n", 4, "sead: unknown; did you mean 'seeds'?"),
        (LEAST.replace("[cat]", "\n  - cat\n  - no"), 3, "prompts: False is not a string; put it in quotes"),
        (LEAST.replace("[cat]", '["\\ud83d"]'), 1, "is half a character"),
        (LEAST.replace("[cat]", "[]"), 1, "prompts: none given"),
        (LEAST.replace("[cat]", "cat"), 1, "prompts: 'cat' is not a list"),
        (LEAST.replace("[cat]", "{file: no.txt}"), 1, "no file 'no.txt' beside the experiment"),
        (LEAST.replace("{size: compressibility}", "\n  a: {path: x}"), 3, "rewards.a: say what it is"),
        (LEAST + "objectives: [clip]\n", 4, "objectives: no reward is called 'clip'"),
        (LEAST + "held_out:\n  - size\n  - sise\n", 6, "held_out: no reward is called 'sise'; did you mean 'size'?"),
        (LEAST + "seeds: 0\n", 4, "seeds: 0 is not a whole number of at least 1"),
        (LEAST + "seeds: [1, 2, 1]\n", 4, "stands twice"),
        (LEAST + "seeds:\n  - 1\n  - x\n", 6, "seeds.1: 'x' is not a whole number of at least 0"),
        (LEAST + "batch: true\n", 4, "batch: True is not a whole number"),
        (LEAST + "budgets:\n  - {model_calls: 4}\n  - {rows: 4}\n", 6, "budgets.1.rows: unknown; known: model_calls"),
        (LEAST + "budgets: [{seconds: -1}]\n", 4, "budgets.0.seconds: -1 is not a number above 0"),
        (LEAST + "chunks: {network: 0}\n", 4, "chunks.network: 0 is not a whole number of at least 1"),
        (LEAST + "thumbnails: small\n", 4, "thumbnails: 'small' is not a whole number"),
        (LEAST + "models:\n  a: {steps: many}\n", 5, "models.a.steps: 'many' is not a whole number"),
        (LEAST + "models:\n  a: {dtype: float8}\n", 5, "models.a.dtype: 'float8': choose among float32"),
        (LEAST + "models:\n  a: {device: 0}\n", 5, "models.a.device: 0 is not a string"),
        (LEAST + "prices: {model_call: 1}\n", 4, "prices: decode is missing"),
        (LEAST + "methods: {SVDD: svdd}\n", 4, "methods stands twice"),
        (LEAST + "sweeps:\n  - {seed: 3}\n", 5, "sweeps.0.seed: unknown; did you mean 'seeds'?"),
        (LEAST + "sweeps:\n  - {}\n  - {methods: SVD}\n", 6, "sweeps.1.methods: none is 'SVD'; did you mean 'SVDD'?"),
        (LEAST + "sweeps:\n  - {objectives: [size, clip]}\n", 5, "sweeps.0.objectives: none is 'clip'; known: size"),
        (LEAST + "sweeps:\n  - {budgets: [{rows: 4}]}\n", 5, "sweeps.0.budgets.0.rows: unknown"),
        (LEAST.replace("svdd}", "svdd, X: fk}") + "sweeps:\n  - {methods: SVDD}\n", 3, "methods.X: no sweep runs it"),
        (LEAST + "pilot: {samples: 2}\n", 4, "pilot.samples: 2 is not a whole number of at least 3"),
        (LEAST + "pilot: {rows: 2}\n", 4, "pilot.rows: unknown; known: samples, prompts, seed"),
        (LEAST + "seeds: [1\nbatch: 2\n", 5, "expected ',' or ']'"),
        (LEAST + "1: 2\n", 4, "the name 1 is not a string"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text, line, told):
    with pytest.raises(ExperimentError) as caught:
        parse(text, "e.yaml")
    assert told in str(caught.value)
    assert str(caught.value).startswith(f"e.yaml:{line}: " if line else "e.yaml: ")


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("SVDD: svdd", "SVDD: svd", 3, "methods.SVDD: method 'svd' is not known; did you mean svdd?"),
        ("SVDD: svdd", "X: {kind: svdd, widht: 3}", 3, "methods.X: svdd has no argument 'widht'; it has width"),
        ("SVDD: svdd", "X: {kind: svdd, width: 0}", 3, "methods.X: width is 0"),
        ("SVDD: svdd", "X: {kind: svdd, value: guess}", 3, "value 'guess' is not known"),
        ("SVDD: svdd", "X: {kind: svdd, value: {lookahead: {step: 2}}}", 3, "lookahead has no argument 'step'"),
        ("SVDD: svdd", "X: no_such_module:it", 3, "No module named 'no_such_module'"),
        ("compressibility", "compresibility", 2, "did you mean compressibility?"),
        ("compressibility", "{kind: compressibility, quality: 3, x: 1}", 2, "has no argument 'x'"),
        ("compressibility", "json:nothing", 2, "json:nothing"),
        ("compressibility", "given", 2, "no object was given for it"),
        ("SVDD: svdd", "X: {kind: tuned, gains: pilot}", 3, "gains: a pilot measures std and gain, not gains"),
        ("SVDD: svdd", "X: {kind: fk, lam: {per_std: much}}", 3, "lam: {'per_std': 'much'} is not {per_std: NUMBER}"),
        ("SVDD: svdd}", "SVDD: published}\nbudgets: [{model_calls: 40}]", 4, "published"),
        ("SVDD: svdd}", "SVDD: svdd}\nbudgets:\n  - {}\n  - {model_calls: 4}", 6, "the smallest svdd costs"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_loaded_with_its_line(old, new, line, told):
    with pytest.raises(ExperimentError) as caught:
        Workshop(parse(LEAST.replace(old, new), "e.yaml")).check()
    assert told in str(caught.value)
    assert str(caught.value).startswith(f"e.yaml:{line}: ")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"batch": 0}, "experiment: batch: 0 is not a whole number of at least 1"),
        ({"seeds": (-1,)}, "seeds.0: -1"),
        ({"budgets": ({"rows": 3},)}, "budgets.0.rows: unknown"),
        ({"chunks": {"network": 1.5}}, "chunks.network: 1.5"),
        ({"prices": {"model_call": -1, "decode": 0, "reward_call": 0}}, "-1 is not a number of at least 0"),
        ({"rewards": {"x": Named("given", {"object": len})}}, "is no plain data"),
    ],
)
def test_what_python_says_is_held_to_what_yaml_may_say(changes, told):
    parts = {"prompts": ("cat",), "rewards": {"x": Named("compressibility")}, "methods": {"SVDD": Named("svdd")}}
    with pytest.raises(ExperimentError, match=re.escape(told)):
        Workshop(Experiment(**{**parts, **changes})).check()


names = st.text("abcXYZ -/<é", min_size=1, max_size=6)
plain = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
args = st.dictionaries(st.sampled_from(["alpha", "beta", "path"]), plain, max_size=2)
named = st.builds(Named, st.sampled_from(["clip", "svdd", "a:b"]), args)


@st.composite
def experiments(draw):
    rewards = draw(st.dictionaries(names, named, min_size=1, max_size=3))
    return Experiment(
        prompts=tuple(draw(st.lists(st.text(max_size=8), min_size=1, max_size=7))),
        rewards=rewards,
        methods=draw(st.dictionaries(names, named, min_size=1, max_size=3)),
        models=draw(
            st.dictionaries(names, st.builds(Model, names, st.none() | st.integers(1, 9), args=args), min_size=1)
        ),
        objectives=tuple(draw(st.lists(st.sampled_from(sorted(rewards)), max_size=2, unique=True))),
        budgets=draw(st.sampled_from([({},), ({"decodes": 3},), ({}, {"decodes": 3})])),
        seeds=tuple(draw(st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True))),
        batch=draw(st.none() | st.integers(1, 9)),
        thumbnails=draw(st.integers(0, 9)),
    )


@st.composite
def swept(draw):
    """An experiment with sweeps, and what each of them names."""
    whole = draw(experiments())
    axes = {
        "models": [*whole.models],
        "objectives": [*whole.rewards],
        "methods": [*whole.methods],
        "seeds": [*range(9)],
    }
    axes["budgets"] = [{}, {"decodes": 3}, {"model_calls": 8}]
    some = {name: st.lists(st.sampled_from(axis), min_size=1, max_size=2, unique_by=str) for name, axis in axes.items()}
    sweeps = draw(st.lists(st.fixed_dictionaries({}, optional=some), min_size=1, max_size=3))
    return whole, [*sweeps, {"methods": list(whole.methods)}]


@given(swept())
def test_sweeps_cover_what_each_names_and_nothing_twice(drawn):
    whole, sweeps = drawn
    found = dataclasses.replace(whole, sweeps=tuple(sweeps))

    def named(unit):
        return unit.model, unit.objective, str(found.budgets[unit.budget]), unit.method, unit.seed, unit.positions

    wanted = set()
    for sweep in sweeps:
        own = dataclasses.replace(whole, **{k: tuple(v) for k, v in sweep.items() if k not in ("models", "methods")})
        wanted |= {
            (u.model, u.objective, str(own.budgets[u.budget]), u.method, u.seed, u.positions)
            for u in own.units()
            if u.model in sweep.get("models", [u.model]) and u.method in sweep.get("methods", [u.method])
        }
    units = [named(unit) for unit in found.units()]
    assert len(units) == len(set(units)) and set(units) == wanted
    assert [u.model for u in found.units()] == sorted((u.model for u in found.units()), key=list(found.models).index)
    again = from_data(json.loads(json.dumps(found.as_dict())))
    assert again == found and again.units() == found.units()


@given(swept(), st.data())
def test_the_part_under_an_objective_is_its_searches(drawn, data):
    whole, sweeps = drawn
    found = dataclasses.replace(whole, sweeps=tuple(sweeps), held_out=())
    objective = data.draw(st.sampled_from(found.objectives))
    part = found.under(objective)

    def told(experiment):
        units = [unit for unit in experiment.units() if unit.objective == objective]
        return [(u.model, str(experiment.budgets[u.budget]), u.method, u.seed, u.positions) for u in units]

    assert told(part) == told(found) and part.objectives == (objective,)


@given(experiments())
def test_what_is_written_down_is_read_back_as_the_same_experiment(experiment):
    again = from_data(json.loads(json.dumps(experiment.as_dict())))
    assert again == experiment
    assert again.units() == experiment.units()


@given(experiments())
def test_units_cover_every_cell_once_and_their_names_differ(experiment):
    units = experiment.units()
    cells = [(u.model, u.objective, u.budget, u.method, u.seed, position) for u in units for position in u.positions]
    sizes = [len(x) for x in (experiment.models, experiment.objectives, experiment.budgets, experiment.methods)]
    total = len(experiment.seeds) * len(experiment.prompts)
    for size in sizes:
        total *= size
    assert len(cells) == len(set(cells)) == total
    assert [u.index for u in units] == list(range(len(units))) and len({u.name for u in units}) == len(units)
    assert all(len(u.positions) <= (experiment.batch or len(experiment.prompts)) for u in units)


def test_what_is_no_plain_data_cannot_be_written_down():
    experiment = Experiment(("cat",), {"x": Named("clip", {"path": object()})}, {"SVDD": Named("svdd")})
    with pytest.raises(ExperimentError, match="is no plain data"):
        experiment.units()


def test_names_become_objects():
    made = method(Named("svdd", {"width": 3, "value": {"lookahead": {"steps": 2, "rollouts": 4}}}), unasked)
    assert isinstance(made.value, Lookahead) and (made.value.steps, made.value.rollouts) == (2, 4)
    assert made.plan(5) == methods.svdd(len, 3).plan(5)
    assert type(reward(Named("Compressibility"))) is type(reward(Named("compressibility")))
    assert type(reward(Named("clip", {"path": "judge"}))).__name__ == "CLIPScore"
    toy = denoiser(Model("dsearch.adapters:GaussianMixture", args={"num_steps": 3}))
    assert toy.num_steps == 3


def test_a_pipeline_goes_to_the_adapter_of_its_class(tmp_path):
    import tiny

    tiny.xl().save_pretrained(tmp_path / "xl")
    found = denoiser(Model(str(tmp_path / "xl"), 4, "float32", "cpu", args={"guidance_scale": 3.0}))
    assert type(found).__name__ == "AnyPipeline" and found.num_steps == 4
    assert found._home.pipe._guidance_scale == 3.0
    with pytest.raises(TypeError, match="AnyPipeline has no option 'colour'"):
        denoiser(Model(str(tmp_path / "xl"), 4, device="cpu", args={"colour": 3}))
    with pytest.raises(ValueError, match="no model folder"):
        denoiser(Model("./no/such"))
    with pytest.raises(ValueError, match="preview box does not read"):
        denoiser(Model(str(tmp_path / "xl"), 4, device="cpu", preview="box"))
