"""Sets of prompts by name and by file, and a run in GenEval's layout, read as GenEval reads it."""

import csv
import io
import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsearch import box, cli
from dsearch.experiments import export_geneval, load, parse, prompt_set, read_prompts, run
from dsearch.experiments.experiment import ExperimentError
from dsearch.experiments.prompt_sets import BROUGHT, SETS
from dsearch.experiments.reader import from_data
from dsearch.plots import from_png

REST = "rewards: {size: compressibility}\nmethods: {best: best_of_n}\n"


def test_sets_are_whole_and_have_each_prompt_once():
    assert {name: len(prompts) for name, prompts in SETS.items()} == {
        "animals": 7,
        "simple_animals": 45,
        "box": len(box.SUBJECTS),
        "box_demo": 8,
    }
    for prompts in SETS.values():
        assert len(set(prompts)) == len(prompts) and all(prompt == prompt.strip() != "" for prompt in prompts)
    assert set(prompt_set("animals")) == {"dog", "cat", "panda", "monkey", "rabbit", "butterfly", "horse"}


def test_an_experiment_takes_a_set_and_the_first_of_it_and_keeps_the_prompts_themselves():
    assert parse("prompts: {set: animals}\n" + REST).prompts == SETS["animals"]
    few = parse("prompts: {set: simple_animals, first: 3}\n" + REST)
    assert few.prompts == ("cat", "dog", "horse") and few.as_dict()["prompts"] == ["cat", "dog", "horse"]
    assert from_data(few.as_dict()) == few


@pytest.mark.parametrize(
    ("prompts", "named"),
    [
        ("{set: drawbanch}", r":1: prompts\.set: no set of prompts is called 'drawbanch'; known: animals,"),
        ("{set: drawbench}", r":1: prompts\.set: the set 'drawbench' does not ship; get the CSV"),
        ("{set: 3}", r":1: prompts\.set: 3 is not a name"),
        ("{set: animals, first: 0}", r":1: prompts\.first: 0 is not a whole number of at least 1"),
        ("{first: 3}", r":1: prompts: file or set is missing"),
        ("{sets: animals}", r":1: prompts\.sets: unknown; did you mean 'set'"),
    ],
)
def test_bad_sets_are_named_with_their_line(prompts, named):
    with pytest.raises(ExperimentError, match=named):
        parse(f"prompts: {prompts}\n{REST}")


TEXTS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1), min_size=1, max_size=5
)


@given(TEXTS)
def test_every_kind_of_file_gives_the_prompts_that_were_written(tmp_path_factory, prompts):
    folder = tmp_path_factory.mktemp("files")
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        into = io.StringIO(newline="")
        writer = csv.writer(into, delimiter=delimiter)
        writer.writerows([["Category", "Prompts"], *(["x", prompt] for prompt in prompts)])
        (folder / f"p{suffix}").write_text(into.getvalue(), encoding="utf-8", newline="")
    lines = "\n".join(json.dumps({"tag": "x", "prompt": prompt}) for prompt in prompts)
    (folder / "p.jsonl").write_text(lines, encoding="utf-8")
    (folder / "p.json").write_text(json.dumps(prompts), encoding="utf-8")
    (folder / "q.json").write_text(json.dumps([{"prompt": prompt} for prompt in prompts]), encoding="utf-8")
    (folder / "p.txt").write_text("\n".join(prompts), encoding="utf-8")
    for file in folder.iterdir():
        assert read_prompts(file) == prompts, file


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        (
            "a.csv",
            "Category,Words\nx,y\n",
            "no column is called prompt or prompts or text or caption, but Category, Words",
        ),
        ("a.csv", "", "no column is called"),
        ("a.tsv", "prompt\n\n", "holds no prompt"),
        ("a.jsonl", '{"prompt": 3}', "3 is no text"),
        ("a.jsonl", "{", "cannot be read as jsonl of prompts"),
        ("a.json", '{"prompt": "x"}', "it is no list"),
        ("a.json", "[1]", "1 is no text"),
    ],
)
def test_files_without_prompts_are_named(tmp_path, name, text, named):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=named):
        read_prompts(tmp_path / name)


def test_a_set_that_is_brought_is_whole_or_refused(tmp_path):
    lines = [f"a thing, number {i}" for i in range(200)]
    (tmp_path / "d.csv").write_text("Prompts,Category\n" + "\n".join(f'"{line}",x' for line in lines))
    (tmp_path / "e.yaml").write_text("prompts: {set: drawbench, file: d.csv}\n" + REST)
    assert load(tmp_path / "e.yaml").prompts == tuple(lines)
    (tmp_path / "d.csv").write_text("Prompts\nonly one\n")
    with pytest.raises(ExperimentError, match=r"holds 1 prompts, and the set 'drawbench' has 200; get the CSV"):
        load(tmp_path / "e.yaml")
    (tmp_path / "e.yaml").write_text("prompts: {set: animals, file: d.csv}\n" + REST)
    with pytest.raises(ExperimentError, match="the set 'animals' ships with the library; leave its file out"):
        load(tmp_path / "e.yaml")
    assert set(BROUGHT) == {"drawbench", "partiprompts", "geneval", "hpsv2"}


# ---- GenEval


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("geneval")
    words = {
        "prompts": ["cat", "dog"],
        "models": {"box": {"pipeline": "box", "steps": 2, "device": "cpu"}},
        "rewards": {"size": "compressibility"},
        "methods": {"plain": {"kind": "plain", "beams": 2}, "best": {"kind": "best_of_n", "n": 2, "keep": 2}},
        "seeds": 2,
    }
    lines = [
        {"tag": "single_object", "include": [{"class": name, "count": 1}], "prompt": name} for name in ("dog", "cat")
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return run(from_data(words), folder / "run"), folder / "metadata.jsonl"


def as_geneval_reads(folder):
    """By prompt: its metadata and pictures, found as `evaluate_images.py` finds them."""
    found = {}
    for name in os.listdir(folder):
        assert name.isdigit() and os.path.isdir(folder / name)
        metadata = json.loads((folder / name / "metadata.jsonl").read_text())
        samples = sorted(os.listdir(folder / name / "samples"))
        assert all(re.match(r"\d+\.png", sample) for sample in samples)
        found[metadata["prompt"]] = metadata, [from_png(folder / name / "samples" / sample) for sample in samples]
    return found


@pytest.mark.parametrize(("method", "images"), [("best", 2), ("plain", 4)])
def test_geneval_finds_the_images_of_a_method_with_their_metadata(made, tmp_path, method, images):
    whole, metadata = made
    assert export_geneval(whole, tmp_path / "out", metadata, method=method) == 2 * images
    found = as_geneval_reads(tmp_path / "out")
    assert set(found) == {"cat", "dog"}
    for prompt, (said, pictures) in found.items():
        assert said == {"tag": "single_object", "include": [{"class": prompt, "count": 1}], "prompt": prompt}
        own = [r for r in whole.records() if (r["prompt"], r["method"]) == (prompt, method)]
        own = [r for r in own if method == "plain" or r["rank"] == 0]
        assert len(own) == len(pictures) == images
        assert all((a == from_png(whole.image(r))).all() for a, r in zip(pictures, own, strict=True))


def test_what_cannot_be_exported_is_named(made, tmp_path, capsys):
    whole, metadata = made
    with pytest.raises(ExperimentError, match="the run has several methods; choose one with method: plain, best"):
        export_geneval(whole, tmp_path / "out", metadata)
    with pytest.raises(ExperimentError, match="no method of the run is called 'bets'; did you mean 'best'"):
        export_geneval(whole, tmp_path / "out", metadata, method="bets")
    with pytest.raises(ExperimentError, match="budget 3 is none of the run's; choose one of 0: as given"):
        export_geneval(whole, tmp_path / "out", metadata, method="best", budget=3)
    with pytest.raises(ExperimentError, match="no metadata at none"):
        export_geneval(whole, tmp_path / "out", "none", method="best")
    for text, named in (
        ('{"tag": "x", "include": [], "prompt": "cat"}', "says nothing of 1 prompts, 'dog' the first"),
        ('{"prompt": "cat"}', r"few.jsonl:1: no metadata of GenEval's with tag, include, prompt"),
    ):
        (tmp_path / "few.jsonl").write_text(text)
        with pytest.raises(ExperimentError, match=named):
            export_geneval(whole, tmp_path / "out", tmp_path / "few.jsonl", method="best")
    assert not (tmp_path / "out").exists()
    words = ["export", str(whole.folder), str(tmp_path / "out"), "--geneval", str(metadata), "--method", "best"]
    assert cli.main(words) == 0 and "4 images" in capsys.readouterr().out
    assert cli.main(words) == 2 and "is there already; export to a new folder" in capsys.readouterr().err
