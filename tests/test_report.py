"""A run's report: it agrees with the run, loads nothing, stays small, and can be walked in a browser."""

import base64
import hashlib
import json
import math
import re
import shutil
import sys
import time
from functools import cache
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from dsearch.adapters import GaussianMixture
from dsearch.compare import over_prompts, over_seeds
from dsearch.experiments import runs, written
from dsearch.experiments.experiment import Experiment, Model, Named, Unit
from dsearch.experiments.folder import Run, Trace
from dsearch.report import LIMIT, _data, _ladder, page, report

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from report_page import NoBrowser, chromium, synthetic

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "a \"quoted\" 'prompt' &amp; $HOME ${window.hacked = 1} {{blocks}} <!-- \\u003c",
    "lines\u2028and\u2029paragraphs \u202e turned",
    "",
)
METHODS = {
    "plain": Named("plain", {"beams": 3}),
    "best-of-N": Named("best_of_n", {"n": 4}),
    "SVDD": Named("svdd", {"width": 4}),
    "DSearch": Named("dsearch", {"beams": 4, "keep": 2, "rows_per_step": 8, "search": "all"}),
    "DSearch-R": Named("dsearch_r", {"beams": 4, "rows_per_step": 8, "rate": 0.3}),
    "FK </b>": Named("fk", {"particles": 4, "lam": 60.0, "every": 2}),
    "RBF": Named("rbf", {"width": 3, "beams": 2}),
    "rounds": Named("random_search", {"candidates": 2, "rounds": 3}),
    "RERD": Named("rerd", {"width": 2, "beams": 2, "cycles": 2, "edit": 0.5}),
    "ABCD": Named("abcd", {"n": 3, "keep": 2, "cycles": 2, "levels": [0.3, 0.7]}),
    "pool": Named("published", {"bs": 6, "duplicate_size": 2, "oversamplerate": 2, "drop_schedule": "linear"}),
}


class Painted(GaussianMixture):
    """A toy whose samples are small pictures."""

    def decode(self, x0):
        return torch.sigmoid(x0)[:, :1, None, None].expand(-1, 3, 6, 4).contiguous()


def bright(images, prompts):
    return images.mean((1, 2, 3))


def judge(images, prompts):
    return 1 - images[:, 0, 0, 0]


def first(x, prompts):
    return x[:, 0]


def made(out, model=None, **changes):
    parts = {
        "prompts": HOSTILE,
        "rewards": {"bright": Named("given"), "judge": Named("given")},
        "methods": METHODS,
        "models": {"toy": Model("given")},
        "seeds": (0, 3),
        "thumbnails": 4,
    }
    given = {"toy": model or Painted(num_steps=5), "bright": bright, "judge": judge}
    return runs.run(Experiment(**{**parts, **changes}), out, given=given)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made(tmp_path_factory.mktemp("report") / 'a "run" & <b>')


@pytest.fixture(scope="module")
def text(run):
    return page(run)


class Blocks(HTMLParser):
    """The data of a page by id, and its tags."""

    def __init__(self, text):
        super().__init__()
        self.data, self.tags, self.policy, self.open = {}, [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.open = attributes.get("id") if tag == "script" else None
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]

    def handle_data(self, text):
        if self.open:
            self.data[self.open] = json.loads(text, parse_constant=pytest.fail)  # JSON knows no NaN

    def handle_endtag(self, tag):
        self.open = None


class Found(NamedTuple):
    """A finished search: what the run holds, then what the page holds."""

    unit: Unit
    group: int
    trace: Trace
    records: list
    line: dict
    lineage: dict
    images: list


def searches(run, text):
    """All finished searches, in order."""
    data, n = Blocks(text).data, 0
    for unit in run.finished:
        trace, records = run.trace(unit), [json.loads(line) for line in run.lines(unit, "records.jsonl")]
        k = trace.order.shape[1]
        for b in range(len(trace.prompts)):
            page = data["data"]["searches"][n], data[f"lineage-{n}"], data[f"images-{n}"]
            yield Found(unit, b, trace, records[b * k : (b + 1) * k], *page)
            n += 1
    assert n == len(data["data"]["searches"])


def values(lineage):
    """By scored step, the values of all candidates as the page holds them."""
    flat = np.frombuffer(base64.b64decode(lineage["values"]), dtype="<f4")
    rows = [a * w if s else 0 for a, w, s in zip(lineage["alive"], lineage["width"], lineage["scored"], strict=True)]
    assert sum(rows) == len(flat)
    return [part if rows[i] else None for i, part in enumerate(np.split(flat, np.cumsum(rows)[:-1]))]


def test_the_marked_path_of_every_image_is_the_records_and_follows_the_parents(run, text):
    for _, _, _, records, line, lineage, _ in searches(run, text):
        assert lineage["path"] == [record["path"] for record in records]
        assert lineage["ancestor"] == [record["ancestor"] for record in records]
        assert [image[1] for image in line["images"]] == [record["reward"] for record in records]
        for rank, path in enumerate(lineage["path"]):
            beam = lineage["order"][rank]
            for i in reversed(range(len(path))):
                child = lineage["child"][i]
                assert path[i] == (beam if child is None else child[beam])
                beam = path[i] // lineage["width"][i]
            assert beam == lineage["ancestor"][rank]


def test_every_candidate_is_on_the_page_once_with_its_own_value(run, text):
    for _, b, trace, _, _, lineage, _ in searches(run, text):
        for ours, theirs in zip(values(lineage), trace.values, strict=True):
            assert (ours is None) == (theirs is None)
            assert theirs is None or np.array_equal(ours, theirs[b].float().numpy())


def test_every_candidate_has_its_own_thumbnail_and_every_image_is_as_it_was(run, text):
    for unit, b, trace, records, _, lineage, images in searches(run, text):
        stored = {i: strip for (group, i), strip in run.thumbnails(unit).items() if group == b}
        assert {int(i): base64.b64decode(sheet[0]) for i, sheet in lineage["strips"].items()} == stored
        for i, (strip, held, columns) in lineage["strips"].items():
            width, height = lineage["tile"]
            rows = trace.alive[int(i)] * trace.width[int(i)]
            assert (held, columns) == (None, rows)
            assert Image.open(BytesIO(base64.b64decode(strip))).size == (width * rows, height)
        for record, url in zip(records, images, strict=True):
            kind, _, encoded = url.partition(",")
            assert kind == "data:image/png;base64"
            assert base64.b64decode(encoded) == (run.folder / record["image"]).read_bytes()


@pytest.mark.parametrize("count", [7, 300, 511])
@pytest.mark.parametrize("whose", ["all", "kept"])
def test_thumbnails_in_several_rows_are_found_where_they_are(count, whose):
    shades = torch.randint(0, 256, (count,), generator=torch.Generator().manual_seed(count), dtype=torch.uint8)
    kept = list(range(0, count, 3))
    into = BytesIO()
    sheet = written._strip(shades[:, None, None, None].expand(-1, 3, 48, 64))
    Image.fromarray(sheet.numpy()).save(into, "webp", quality=90)
    trace = SimpleNamespace(child=[torch.tensor([kept])])
    rung = _ladder.Rung(None, _ladder.Coding(32, 90), whose)
    drawn = _ladder._drawn(SimpleNamespace(tiles=[count], trace=trace, group=0), {0: into.getvalue()}, rung, map)
    coded, held, columns = drawn["strips"]["0"]
    assert drawn["tile"] == (64, 48) and held == (kept if whose == "kept" else None)
    picture = np.asarray(Image.open(BytesIO(base64.b64decode(coded))).convert("L"), dtype=float)
    w, h = picture.shape[1] // columns, picture.shape[0] // -(-len(held or range(count)) // columns)
    for at, j in enumerate(held or range(count)):  # w x h is 64 x 48 where that is no more bytes, else 32 x 24
        x, y = at % columns * w, at // columns * h
        assert abs(picture[y + h // 4 : y + h // 2, x + w // 4 : x + w // 2].mean() - float(shades[j])) < 6


def test_a_pools_candidates_carry_the_prompt_of_their_beam_of_x_t(run, text):
    pooled = [found for found in searches(run, text) if found.unit.method == "pool"]
    for unit, _, _, records, line, lineage, _ in pooled:
        assert line["positions"] == list(unit.positions)
        assert [lineage["prompts"][k] for k in lineage["ancestor"]] == [record["position"] for record in records]
    assert pooled and all(f.lineage["prompts"] is None for f in searches(run, text) if f.unit.method != "pool")


def test_curves_and_tables_are_those_of_the_records(run, text):
    data = Blocks(text).data["data"]
    assert [cell["method"] for cell in data["cells"]] == list(METHODS) and data["baseline"] == "best-of-N"
    tables = {}
    for cell in data["cells"]:
        method, records = cell["method"], [r for r in run.records() if r["method"] == cell["method"]]
        for name, of in {"bright": lambda r: r["reward"], "judge": lambda r: r["held_out"]["judge"]}.items():
            table = torch.full((2, 5), torch.nan, dtype=torch.float64)
            for s, seed in enumerate((0, 3)):
                for p in range(5):
                    own = [of(r) for r in sorted(records, key=rank) if (r["seed"], r["position"]) == (seed, p)]
                    if own:
                        table[s, p] = sum(own) / len(own) if method == "plain" else own[0]
            assert cell["rewards"]["means"][name] == pytest.approx(list(over_seeds(table, method == "pool")), abs=1e-6)
            tables[name, method] = table
        assert cell["rewards"]["n"] == (~tables["bright", method].isnan()).sum() and cell["rewards"]["of"] == 10
        assert cell["rewards"]["rejected"] == {"bright": 0, "judge": 0} and cell["curve"][-1][4] == 0
        assert cell["curve"][-1][1:4] == pytest.approx(cell["rewards"]["means"]["bright"], abs=1e-5)
        share = len(HOSTILE) if method == "pool" else 1
        assert cell["bill"]["planned"] == [*(n / share for n in records[0]["planned"].values()), 0]
        units = {r["unit"] for r in records}
        spent = sum(time["seconds"] for unit, time in run.timings().items() if unit in units)
        assert cell["bill"]["seconds"] == pytest.approx(spent)
    for cell in data["cells"]:
        if cell["method"] != "best-of-N":
            pair = tables["bright", cell["method"]] - tables["bright", "best-of-N"]
            assert cell["rewards"]["above"] == pytest.approx(list(over_seeds(pair, cell["method"] == "pool")), abs=1e-6)


def rank(record):
    return record["rank"]


@pytest.mark.parametrize("prompts", [HOSTILE[:3], HOSTILE[:1]])
def test_one_seed_has_intervals_over_prompts_and_one_prompt_has_none(tmp_path, prompts):
    one = made(tmp_path / "one", prompts=prompts, seeds=(0,), methods={"SVDD": METHODS["SVDD"]})
    data = Blocks(page(one)).data["data"]
    rewards = torch.tensor([[r["reward"] for r in one.records()]], dtype=torch.float64)
    exact = over_prompts(rewards) or [float(rewards.mean()), None, None]
    assert data["repeated"] == "prompts"
    assert data["cells"][0]["rewards"]["means"]["bright"] == pytest.approx(list(exact), abs=1e-6)


def test_rows_of_a_rollover_budget_are_those_that_were_drawn(run, text):
    data = Blocks(text).data["data"]
    plan = next(cell for cell in data["cells"] if cell["method"] == "RBF")["plan"]
    reach = [b * w for b, w in zip(plan["b"], plan["w"], strict=True)]
    assert all(rows <= most for rows, most in zip(plan["rows"], reach, strict=True)) and sum(plan["rows"]) < sum(reach)


def test_a_page_loads_nothing_and_runs_nothing_but_its_own(run, text):
    assert set(re.findall(r"https?://[^\"'` ]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, never loaded
    assert text.isascii()
    style, script = (re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1] for tag in ("style", "script"))
    policy = dict(part.strip().split(" ", 1) for part in Blocks(text).policy.split(";"))
    assert policy["default-src"] == "'none'" and policy["img-src"] == "data: blob:"
    for kind, content in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[kind] == f"'sha256-{digest}'"


def test_prompts_stay_text(run, text):
    found = Blocks(text)
    assert found.data["data"]["prompts"] == list(HOSTILE)
    assert found.data["data"]["title"] == 'a "run" & <b>'
    assert found.tags.count("script") == 2 + 2 * len(found.data["data"]["searches"])  # the data, the script, two each
    assert not {"img", "b"} & set(found.tags)
    assert "<title>a &quot;run&quot; &amp; &lt;b&gt;" in text


def test_an_unfinished_run_is_reported_as_far_as_it_is(run, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(run.folder, folder)
    for unit in run.units[3:]:
        shutil.rmtree(folder / "units" / unit.name)
    half = Run.open(folder)
    data = Blocks(page(half)).data["data"]
    assert (data["finished"], data["units"]) == (3, len(run.units))
    assert [cell["method"] for cell in data["cells"]] == ["plain", "best-of-N"]
    for unit in run.units[:3]:
        shutil.rmtree(folder / "units" / unit.name)
    data = Blocks(page(half)).data["data"]
    assert data["finished"] == 0 and data["cells"] == data["searches"] == []


def test_numbers_that_json_cannot_say_break_nothing(run, tmp_path):
    folder = tmp_path / "odd"
    shutil.copytree(run.folder, folder)
    unit = run.units[0]
    records = [json.loads(line) for line in run.lines(unit, "records.jsonl")]
    for record in records[:2]:
        record |= {"image": None, "reward": None, "kl": None, "log_w": None, "held_out": {"judge": None}}
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "units" / unit.name / "records.jsonl").write_text(lines)
    (folder / "units" / unit.name / "sums.json").unlink()  # as of a version that made none
    found = Blocks(page(Run.open(folder))).data
    assert found["images-0"][:2] == [None, None] and found["images-0"][2].startswith("data:image/png")
    assert found["data"]["cells"][0]["rewards"]["n"] == 10


def test_samples_that_are_no_pictures_and_runs_without_thumbnails_are_reported(tmp_path):
    one = made(
        tmp_path / "points",
        GaussianMixture(num_steps=4),
        rewards={"first": Named("test_report:first")},
        methods={"SVDD": Named("svdd", {"width": 3})},
        thumbnails=0,
    )
    for *_, lineage, images in searches(one, page(one)):
        assert images == [None] and lineage["strips"] == {} and lineage["tile"] is None


def test_a_report_is_written_where_it_is_asked_for(run, tmp_path):
    one = Run.open(shutil.copytree(run.folder, tmp_path / "run"))
    assert report(one) == one.folder / "report.html" and report(one, tmp_path / "b.html") == tmp_path / "b.html"
    assert (tmp_path / "b.html").read_bytes() == (one.folder / "report.html").read_bytes()


@pytest.fixture(scope="module")
def heavy(tmp_path_factory):
    return synthetic(tmp_path_factory.mktemp("heavy"), prompts=6, steps=8, candidates=10, seeds=2, pixels=256)


@cache
def sizes(folder):
    """Bytes of a page without a limit, and of one without any picture or lineage."""
    run = Run.open(folder)
    return len(page(run, 10**9)), len(page(run, 0))


def limit(run, share):
    """Bytes of a page with this share of the pictures and lineages that it would have without a limit."""
    whole, bare = sizes(run.folder)
    return int(bare + 4000 + share * (whole - bare))


def test_a_smaller_limit_takes_a_lower_rung_and_the_page_says_so(heavy):
    rungs = []
    for share in (1.1, 0.8, 0.5, 0.3, 0.12, 0.05, 0.003):
        text = page(heavy, limit(heavy, share))
        assert len(text) <= limit(heavy, share)
        said = Blocks(text).data["data"]["reduced"]
        rungs.append(next((n for n, rung in enumerate(_ladder.LADDER) if rung.said() == said), len(_ladder.LADDER)))
    assert rungs == sorted(rungs) and rungs[0] == 0 and len(set(rungs)) >= 4 and rungs[-1] == len(_ladder.LADDER)


def test_the_last_rung_leaves_out_the_last_seeds_and_prompts(heavy):
    data = Blocks(page(heavy, limit(heavy, 0.003))).data
    there = [n for n in range(12) if f"lineage-{n}" in data]
    assert there == list(range(len(there))) and 0 < len(there) < 12  # units are in the order of seeds
    assert data["data"]["reduced"][-1] == f"Images and lineages are those of {len(there)} of 12 searches."


@pytest.mark.parametrize("whose", ["all", "kept", "none"])
def test_thumbnails_that_are_coded_anew_show_the_same_candidates(heavy, whose):
    rung = _ladder.Rung(None, _ladder.Coding(16, 90), whose)
    found = _data.searches(heavy)
    for _, part in _ladder._parts(heavy, found[:2], rung, map):
        lineage = json.loads(part.lineage)
        assert set(lineage["strips"]) == (set() if whose == "none" else {str(i) for i in range(8)})
        for i, (strip, held, _) in lineage["strips"].items():
            rows = lineage["alive"][int(i)] * lineage["width"][int(i)]
            kept = sorted(set(lineage["child"][int(i)] or range(rows)))
            assert held == (kept if whose == "kept" else None)
            coded = np.asarray(Image.open(BytesIO(base64.b64decode(strip))).convert("RGB"), dtype=float)
            stored = heavy.thumbnails(heavy.units[0])[found[0].group, int(i)]
            tiles = np.split(
                np.asarray(Image.open(BytesIO(stored)).convert("RGB").resize((16 * rows, 16))), rows, axis=1
            )
            for tile, j in zip(np.split(coded, len(held or range(rows)), axis=1), held or range(rows), strict=True):
                assert np.abs(tile.mean((0, 1)) - tiles[j].mean((0, 1))).max() < 12
        break


def test_a_page_of_64_prompts_and_50_steps_stays_below_the_limit(tmp_path):
    run = synthetic(tmp_path, prompts=64, steps=50, candidates=8)
    out = report(run)
    assert out.stat().st_size <= LIMIT == 25_000_000
    stored = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    assert out.stat().st_size > 5_000_000 or stored < 5_000_000  # nothing is thrown away without need


# ------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    try:
        with chromium() as driver:
            yield driver
    except NoBrowser as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    return report(run, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def shown(browser, file):
    """The page, opened anew; after each test the console must be empty."""
    yield show(browser, file)
    assert browser.get_log("browser") == []


def show(browser, file, width=1280, dark=False):
    still = {"name": "prefers-reduced-motion", "value": "reduce"}
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(file.as_uri())
    return browser


def choose(browser, label, words):
    """Picks an option of the lineage's controls."""
    done = browser.execute_script(
        """const picks = [...document.querySelectorAll("#lineage label.pick")];
        const pick = picks.find((label) => label.firstChild.data === arguments[0]);
        const select = pick.querySelector("select"), at = [...select.options].findIndex((o) => o.text === arguments[1]);
        select.selectedIndex = at;
        select.dispatchEvent(new Event("change"));
        return at >= 0;""",
        label,
        words,
    )
    assert done, words


def nodes(browser):
    """(kind, step, candidate, whether on a path, value) of all nodes that are shown."""
    return browser.execute_script(
        """return [...document.querySelectorAll(".node")].map((n) => [n.classList[1], +n.dataset.step,
        +n.dataset.candidate, n.classList.contains("path"), n.dataset.value]);"""
    )


def show_all(browser, on=True):
    browser.execute_script(
        """const box = document.querySelector("#lineage .check input");
        if (box.checked !== arguments[0]) box.click();""",
        on,
    )


def focused(browser):
    return browser.execute_script(
        """const n = document.activeElement;
        return n.classList.contains("node") ? [n.classList[1], +n.dataset.step, +n.dataset.candidate] : null;"""
    )


def press(browser, *keys):
    from selenium.webdriver.common.keys import Keys

    for key in keys:
        browser.switch_to.active_element.send_keys(getattr(Keys, key))


def walk(browser, method):
    """Chooses a method's first prompt, and puts the focus on the tree."""
    choose(browser, "Method", method)
    browser.execute_script("document.querySelector('.node[tabindex=\"0\"]').focus()")


@pytest.mark.parametrize("method", METHODS)
def test_the_tree_shows_every_candidate_once_and_marks_the_paths(shown, run, text, method):
    _, b, trace, records, _, lineage, _ = next(f for f in searches(run, text) if f.unit.method == method)
    choose(shown, "Method", method)
    show_all(shown)
    there = nodes(shown)
    drawn = [(i, j) for kind, i, j, _, _ in there if kind in ("kept", "dropped")]
    plain = [i for i, w in enumerate(trace.width) if w == 1 and trace.values[i] is None]
    said = values(lineage)
    expected = [
        (i, j)
        for i in range(len(trace.alive))
        for j in range(trace.alive[i] * trace.width[i])
        if i not in plain and (said[i] is None or not math.isinf(said[i][j]))
    ]
    assert sorted(drawn) == sorted(expected)
    kept = {(i, int(j)) for i, child in enumerate(trace.child) for j in child[b] if i not in plain}
    assert {(i, j) for kind, i, j, _, _ in there if kind == "kept"} == kept
    marked = {(i, j) for kind, i, j, path, _ in there if path and kind in ("kept", "dropped")}
    assert marked == {(i, j) for r in records for i, j in enumerate(r["path"]) if i not in plain}
    assert {j for kind, _, j, path, _ in there if kind == "start" and path} == {r["ancestor"] for r in records}
    assert sum(kind == "returned" for kind, *_ in there) == len(records)
    for kind, i, j, _, value in there:
        if kind in ("kept", "dropped") and said[i] is not None:
            assert float(value.replace("\u2212", "-")) == pytest.approx(float(said[i][j]), abs=1e-2)
    assert ("undrawn" in {kind for kind, *_ in there}) == any(s is not None and np.isinf(s).any() for s in said)


def test_hidden_children_are_shown_by_a_click_and_hidden_again(shown):
    choose(shown, "Method", "SVDD")
    show_all(shown, False)
    assert not [node for node in nodes(shown) if node[0] == "dropped"]
    shown.execute_script("document.querySelector('.node .more').click()")
    assert {node[1] for node in nodes(shown) if node[0] == "dropped"} == {0}
    assert sum(node[0] == "dropped" for node in nodes(shown)) == 3
    shown.execute_script("document.querySelector('.node .more').click()")
    assert not [node for node in nodes(shown) if node[0] == "dropped"]


def test_the_tree_is_walked_by_the_keyboard(shown, run):
    path = next(r["path"] for r in run.records() if r["method"] == "SVDD")
    walk(shown, "SVDD")
    show_all(shown, False)
    shown.execute_script("document.querySelector('.node[tabindex=\"0\"]').focus()")
    assert focused(shown) == ["kept", 0, path[0]]
    press(shown, "ARROW_LEFT")
    assert focused(shown) == ["start", -1, 0]
    press(shown, "ARROW_LEFT", "ARROW_RIGHT", "ARROW_RIGHT")
    assert focused(shown) == ["kept", 1, path[1]]
    press(shown, "ENTER")
    assert shown.switch_to.active_element.get_attribute("aria-expanded") == "true"
    press(shown, "ARROW_RIGHT", "ARROW_DOWN")
    kind, step, candidate = focused(shown)
    assert (kind, step) == ("dropped", 2) and candidate != path[2]
    assert "dropped" in shown.switch_to.active_element.get_attribute("aria-label")
    press(shown, "ARROW_RIGHT")
    assert focused(shown) == [kind, step, candidate]  # it has no children
    press(shown, "END", "HOME", "ARROW_RIGHT", "ARROW_RIGHT", "ARROW_RIGHT")
    assert focused(shown) == ["returned", 5, 0]
    levels = [n.get_attribute("aria-level") for n in shown.find_elements("css selector", "[role=treeitem]")]
    assert min(map(int, levels)) == 1 and len(shown.find_elements("css selector", '.node[tabindex="0"]')) == 1


def test_values_are_shown_to_whoever_points_and_to_whoever_walks(shown):
    from selenium.webdriver.common.action_chains import ActionChains

    walk(shown, "SVDD")
    show_all(shown)
    inspector = shown.find_element("css selector", ".inspector")
    for other in shown.find_elements("css selector", ".node.dropped")[:2]:
        shown.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", other)
        ActionChains(shown).move_to_element(other).perform()
        assert other.get_attribute("data-value") in inspector.text and "dropped" in inspector.text
    walk(shown, "SVDD")
    press(shown, "ARROW_RIGHT")
    node = shown.switch_to.active_element
    assert node.get_attribute("data-value") in shown.find_element("css selector", ".inspector").text
    assert node.get_attribute("data-value") in node.get_attribute("aria-label")


def test_kept_and_dropped_differ_by_more_than_colour(shown):
    choose(shown, "Method", "SVDD")
    show_all(shown)
    styles = shown.execute_script(
        """return ["path", "dropped"].map((kind) => {
        const style = getComputedStyle(document.querySelector(`.node.${kind}:not(.now):not(.start) .thumb`));
        return [style.outlineStyle, style.boxShadow]; });"""
    )
    assert styles[1] == ["dashed", "none"] and styles[0][0] != "dashed" and "3px" in styles[0][1]


def test_the_buttons_walk_step_by_step_from_noise_to_the_image(shown):
    choose(shown, "Method", "DSearch")
    back, on = shown.find_elements("css selector", ".stepper button")
    click = "arguments[0].click()"
    while back.is_enabled():
        shown.execute_script(click, back)
    seen = []
    while on.is_enabled():
        seen.append(shown.find_element("css selector", ".stepper output").text)
        shown.execute_script(click, on)
    assert seen == ["pure noise", *(f"step {i} (0\u20134)" for i in range(5))]
    assert shown.find_element("css selector", ".stepper output").text == "returned"


def test_an_image_leads_to_its_lineage(shown):
    button = shown.find_elements("css selector", ".pictures tbody tr:nth-child(2) button.pic")[2]
    shown.execute_script("arguments[0].click()", button)
    assert HOSTILE[1] in shown.find_element("css selector", "#lineage .what").text
    assert focused(shown) is not None


def test_figures_are_read_by_the_keyboard(shown):
    slider = shown.find_element("css selector", "#curve-figure [role=slider]")
    slider.send_keys("")
    shown.execute_script("arguments[0].focus()", slider)
    press(shown, "HOME")
    assert slider.get_attribute("aria-valuenow") == "0"
    press(shown, "ARROW_RIGHT")
    assert slider.get_attribute("aria-valuetext").startswith("step 1: ")
    assert "at step 1" in shown.find_element("css selector", "#curve-figure .readout").text


def test_hostile_prompts_are_read_and_not_run(shown):
    assert shown.execute_script(
        "return window.hacked === undefined && !document.querySelector('main b > script, img[src=x]')"
    )
    texts = [cell.get_attribute("textContent") for cell in shown.find_elements("css selector", ".pictures tbody th")]
    assert texts == [*HOSTILE[:4], "(empty prompt)"]
    options = shown.execute_script(
        """return [...document.querySelectorAll("#lineage label.pick")].find((l) => l.firstChild.data === "Prompt")
        .querySelector("select").innerHTML;"""
    )
    assert "&lt;/script&gt;" in options
    assert shown.execute_script("return document.getElementById('title').textContent") == 'a "run" & <b>'


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_whatever_is_clicked_no_prompt_runs(shown, method, attack):
    choose(shown, "Method", method)
    show_all(shown)
    clicked = shown.execute_script(
        """let n = 0;
        const places = "button, summary, .node, figure, td, th, img, label, select, h1, h2";
        for (const each of document.querySelectorAll(places)) {
          each.dispatchEvent(new MouseEvent("click", {bubbles: true, cancelable: true}));
          each.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
          n += 1;
        }
        return n;"""
    )
    for _ in range(clicked):
        attack("a place of a report of hostile prompts is clicked; no script of theirs runs")
    assert clicked > 50 and shown.execute_script("return window.hacked === undefined")


def test_the_page_asks_for_nothing_but_its_own_pictures(shown):
    walk(shown, "SVDD")
    time.sleep(0.1)
    asked = shown.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(name.startswith(("data:", "blob:")) for name in asked)
    painted = shown.execute_script(
        "return [...document.images].every((image) => image.complete && image.naturalWidth > 0)"
    )
    assert painted


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_width_scrolls_the_page_sideways(browser, file, width):
    show(browser, file, width)
    for method in ("DSearch-R", "plain"):
        choose(browser, "Method", method)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []


def test_the_dark_scheme_is_dark_and_both_are_legible(browser, file):
    def luminance(colour):
        channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for dark in (False, True):
        show(browser, file, dark=dark)
        colours = browser.execute_script(
            """const of = (what) => getComputedStyle(document.querySelector(what)).color;
            const inks = ["body", ".caption", ".quiet", ".node .value"].map(of);
            return [getComputedStyle(document.body).backgroundColor, ...inks];"""
        )
        back, *inks = map(luminance, colours)
        assert (back < 0.05) == dark
        for ink in inks:
            assert (max(back, ink) + 0.05) / (min(back, ink) + 0.05) >= 4.5
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("left", [3, 0])
def test_an_unfinished_run_says_so(browser, run, tmp_path, left):
    half = Run.open(shutil.copytree(run.folder, tmp_path / "half"))
    for unit in run.units[left:]:
        shutil.rmtree(half.folder / "units" / unit.name)
    show(browser, report(half))
    notes = browser.find_element("css selector", "#notes").text
    assert f"Unfinished. {left} of {len(run.units)}" in notes
    assert browser.get_log("browser") == []


def test_a_run_of_points_without_thumbnails_is_walked_too(browser, tmp_path):
    rewards = {"first": Named("test_report:first")}
    methods = {"SVDD": Named("svdd", {"width": 3})}
    one = made(tmp_path / "points", GaussianMixture(num_steps=4), rewards=rewards, methods=methods, thumbnails=0)
    show(browser, report(one))
    walk(browser, "SVDD")
    press(browser, "ARROW_RIGHT")
    assert focused(browser)[:2] == ["kept", 1]
    assert browser.find_element("css selector", ".node.kept .thumb").text  # the value, in a box
    assert browser.get_log("browser") == []


def test_what_was_reduced_is_said_on_the_page(browser, heavy, tmp_path):
    show(browser, report(heavy, tmp_path / "small.html", limit=limit(heavy, 0.15)))
    assert "Reduced to stay below" in browser.find_element("css selector", "#notes").text
    show(browser, report(heavy, tmp_path / "smaller.html", limit=limit(heavy, 0.003)))
    choose(browser, "Seed", "seed 1")
    choose(
        browser,
        "Prompt",
        browser.execute_script("return [...document.querySelectorAll('#lineage option')].at(-3).text"),
    )
    assert "leaves the lineage" in browser.find_element("css selector", "#tree-figure").text
    assert browser.get_log("browser") == []
