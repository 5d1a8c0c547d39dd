"""Every Python block of the README and the pages runs, in order, page by page."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if BLOCK.search(p.read_text(encoding="utf-8"))], ids=lambda p: p.name
)
def test_every_block_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for number, block in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
        exec(compile(block, f"{page.name}, block {number + 1}", "exec"), names)


@pytest.mark.parametrize(("page", "name"), [("README.md", "beam"), ("docs/extending.md", "thirds")])
def test_a_documented_method_is_found_where_it_is_put(page, name, tmp_path):
    text = (ROOT / page).read_text(encoding="utf-8")
    block = next(block for block in BLOCK.findall(text) if f'__all__ = ["{name}"]' in block)
    shutil.copytree(ROOT / "dsearch", tmp_path / "dsearch", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "dsearch" / "methods" / f"{name}.py").write_text(block, encoding="utf-8")
    script = f"""
import dsearch
from dsearch.adapters import GaussianMixture
from dsearch.methods import {name}
result = dsearch.search(GaussianMixture(), {name}(lambda x, prompts: x[:, 0]), ["a"])
assert result.bill == result.planned and dsearch.methods.{name} is {name}
print(dsearch.__file__)
"""
    told = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(str(tmp_path))
