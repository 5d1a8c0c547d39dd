"""The notebooks run, cell by cell and offline; `python tests/test_notebooks.py` runs them and keeps their outputs."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")  # comes with nbclient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "docs" / "notebooks").glob("*.ipynb"))
QUIET = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
}
LARGEST = 400_000


def executed(file, folder):
    """The notebook with fresh outputs, run in a folder of its own; an error in a cell is raised."""
    book = nbformat.read(file, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", record_timing=False, resources={"metadata": {"path": str(folder)}}
    ).execute()
    return book


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.name)
def test_a_notebook_runs_and_prints_as_much_as_it_is_kept_with(file, tmp_path, monkeypatch):
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    kept, fresh = nbformat.read(file, as_version=4), executed(file, tmp_path)
    for number, (old, new) in enumerate(zip(kept.cells, fresh.cells, strict=True)):
        if old.cell_type == "code":
            kinds = [[o.output_type for o in cell.outputs] for cell in (old, new)]
            assert kinds[0] == kinds[1], f"{file.name}, cell {number}: its outputs are old; run this file"
            assert not any(o.get("name") == "stderr" for o in new.outputs), f"{file.name}, cell {number}: {new.outputs}"


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.name)
def test_a_notebook_is_small_and_names_no_place_on_a_machine(file):
    text = file.read_text(encoding="utf-8")
    assert len(text) < LARGEST and "/tmp/" not in text and str(file.parent) not in text


if __name__ == "__main__":
    os.environ.update(QUIET)
    for name in sys.argv[1:] or NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(name, folder), name)
        print(name, Path(name).stat().st_size, "bytes")
