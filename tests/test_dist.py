"""What is published, built and installed where nothing else is: `make test-dist`.

The environment is made outside the checkout, and every command runs from a folder that is not the checkout.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import dsearch

ROOT = Path(__file__).parent.parent
FOLDERS = ("benchmarks", "docs", "dsearch", "tests", "training")
FILES = ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "constraints.txt")
FILES += ("mkdocs.yml", "pyproject.toml")

pytestmark = pytest.mark.dist


def beneath(folder):
    """The files of a folder of the checkout, without what Python and others leave there."""
    found = (path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file())
    return {name for name in found if not re.search(r"(^|/)(\.|__pycache__)|\.pyc$", name)}


def ran(*command, at):
    """What a command prints, run at a folder, without the checkout in its path."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(list(map(str, command)), cwd=at, env=kept, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(wheel, source distribution), the wheel made from the other."""
    out = tmp_path_factory.mktemp("dist")
    ran(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, at=out)
    (wheel,), (source,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, source


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The folder of an environment's commands that has the wheel and what it needs."""
    home = tmp_path_factory.mktemp("env")
    venv.create(home, with_pip=True)
    programs = home / "bin"
    pip(programs, built[0], "-c", ROOT / "constraints.txt")
    yield programs
    shutil.rmtree(home)  # over a gigabyte, of which pytest would keep three


def pip(programs, *arguments):
    # What is imported is compiled then; compiling all that torch brings takes longer than all the rest.
    run = ("-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check")
    return ran(programs / "python", *run, *arguments, at=programs)


def test_the_wheel_holds_the_package_and_nothing_else(built):
    names = set(zipfile.ZipFile(built[0]).namelist())
    info = f"dsearch_diffusion-{dsearch.__version__}.dist-info/"
    assert {name for name in names if not name.startswith(info)} == beneath("dsearch")
    assert {"dsearch/py.typed", "dsearch/box/ATTRIBUTION.md", "dsearch/methods/__init__.pyi"} <= names
    assert {f"{info}licenses/LICENSE", f"{info}entry_points.txt"} <= names
    for kind in (".safetensors", ".html", ".js", ".css"):  # the models in the box, and the page of a report
        assert any(name.endswith(kind) for name in names)


def test_the_source_holds_what_is_needed_to_test_and_document_it_and_nothing_else(built):
    with tarfile.open(built[1]) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    expected = set(FILES).union(*map(beneath, FOLDERS))
    assert names - {"PKG-INFO", ".gitignore"} == expected


def test_the_metadata_say_what_the_package_is(built):
    with zipfile.ZipFile(built[0]) as wheel:
        (file,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
        head, _, readme = wheel.read(file).decode().partition("\n\n")
    assert f"Version: {dsearch.__version__}\n" in head and "License-Expression: Apache-2.0\n" in head
    assert readme == (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_command_line_works_from_any_folder(installed, tmp_path):
    command = installed / "dsearch"
    assert ran(command, "--version", at=tmp_path) == f"dsearch {dsearch.__version__}\n"
    plan = ran(command, "plan", "--method", "svdd", "--steps", "10", at=tmp_path)
    assert "model calls" in plan
    ran(command, "generate", "cat", "--steps", "3", "--reward", "compressibility", "--out", "X", at=tmp_path)
    assert (tmp_path / "X" / "records.jsonl").is_file() and list((tmp_path / "X" / "images").glob("*.png"))


BOXED = """
from pathlib import Path
from diffusers import StableDiffusionPipeline
import dsearch
from dsearch.adapters import StableDiffusion
from dsearch.box import pipeline_path
from dsearch.rewards import Compressibility

pipe = StableDiffusionPipeline.from_pretrained(pipeline_path(), safety_checker=None)
model = StableDiffusion(pipe, num_inference_steps=2, guidance_scale=2.5)
result = dsearch.search(model, dsearch.methods.svdd(Compressibility(), width=2), "cat")
assert result.images.shape == (1, 1, 3, 64, 64) and result.cost.bill == result.cost.planned
print(Path(dsearch.__file__).parent)
"""


def test_the_model_in_the_box_is_searched_where_it_is_installed(installed, tmp_path):
    assert Path(ran(installed / "python", "-c", BOXED, at=tmp_path).strip()).is_relative_to(installed.parent)


def test_a_program_of_ones_own_runs_and_is_typed_strictly(installed, tmp_path):
    program = tmp_path / "program.py"
    program.write_bytes((ROOT / "tests" / "consumer.py").read_bytes())
    assert ran(installed / "python", program, at=tmp_path).startswith(f"dsearch {dsearch.__version__}")
    # The model libraries, of which nothing is asked here, would take a minute to read.
    (tmp_path / "mypy.ini").write_text("[mypy]\n[mypy-diffusers.*,transformers.*]\nfollow_imports = skip\n")
    check = (sys.executable, "-m", "mypy", "--strict", "--python-executable", installed / "python", program)
    assert "Success" in ran(*check, at=tmp_path)
    program.write_text(program.read_text(encoding="utf-8").replace("width=4)", 'width="4")'), encoding="utf-8")
    with pytest.raises(AssertionError, match='Argument "width" to "svdd" has incompatible type "str"'):
        ran(*check, at=tmp_path)


def test_the_source_installs_the_same_files(built, installed, tmp_path):
    def files():
        told = ran(installed / "python", "-m", "pip", "show", "--files", "dsearch-diffusion", at=tmp_path)
        return {line.strip() for line in told.partition("Files:\n")[2].splitlines() if "dist-info" not in line}

    before = files()
    pip(installed, "--force-reinstall", "--no-deps", built[1])
    assert files() == before and "dsearch/py.typed" in before
    assert ran(installed / "dsearch", "--version", at=tmp_path) == f"dsearch {dsearch.__version__}\n"
