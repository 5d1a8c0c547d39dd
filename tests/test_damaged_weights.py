"""Damaged or hostile weights give the documented error, naming file and remedy, and no code in them runs."""

import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from damage import Touch, damaged, saved

from dsearch._weights import read_weights, refuse_bombs
from dsearch.box import pipeline_path, preview_path
from dsearch.experiments import models
from dsearch.experiments.experiment import Model
from dsearch.rewards import AestheticHead, CLIPScore, ImageReward
from dsearch.rewards import image_reward as ir
from dsearch.rewards.aesthetic import load_head
from dsearch.rewards.clip_score import _save_tiny
from dsearch.values import Trajectories, ValueNetwork


def network(path):
    ValueNetwork(2, 5, width=4).save(path)


def told_network(path):
    ValueNetwork(2, 5, width=4, prompt_dim=3, embed=embed).save(path)


def embed(prompts):
    return torch.zeros(len(prompts), 3)


def runs(path):
    x = torch.arange(48.0).reshape(4, 3, 4).half()
    Trajectories(x, x + 1, ["a", "b", "a", "b"], {"r": torch.arange(4.0)}).save(path)


def head(path, **options):
    torch.save(AestheticHead(8).state_dict(), path, **options)


def old_head(path):
    head(path, _use_new_zipfile_serialization=False)


def safe_head(path):
    from safetensors.torch import save_file

    save_file(AestheticHead(8).state_dict(), path)


def loaded_head(path):
    return load_head(path)(torch.zeros(1, 8)) if load_head(path).layers["0"].in_features == 8 else None


KINDS = {  # by file: who writes it, who reads it, and what the reader's errors must say
    "value.safetensors": (network, ValueNetwork.load, "ValueNetwork.save"),
    "told.safetensors": (told_network, lambda path: ValueNetwork.load(path, embed=embed), ""),
    "runs.safetensors": (runs, Trajectories.load, ""),
    "head.pth": (head, loaded_head, "improved-aesthetic-predictor"),
    "old.pth": (old_head, loaded_head, "improved-aesthetic-predictor"),
    "head.safetensors": (safe_head, loaded_head, "improved-aesthetic-predictor"),
}


WEIGHTS = "a file of weights is damaged, of another kind, a bomb or a pickle with code; refused by name, no code is run"


def hold(attack, folder, name, count, write, read, source):
    """Damages a file in many ways; each loads whole or is refused with the documented error; returns how many were."""
    file, marker = folder / name, folder / "ran"
    write(file)
    content = file.read_bytes()
    tensors = read_weights(file, [], "")
    read(file)
    refused = 0
    for i, bad in enumerate(damaged(name, content, tensors, count, marker)):
        attack(WEIGHTS)
        file.write_bytes(bad)
        try:
            read(file)
        except ValueError as error:
            refused += 1
            said = str(error)
            assert type(error) is ValueError, (i, error)
            assert str(file) in said or "give both, or neither" in said, (i, said)
            assert source in said or "safetensors file" in said or "give both" in said, (i, said)
        assert not marker.exists(), i
    return refused


@pytest.mark.parametrize("name", KINDS)
def test_damaged_weights_give_the_documented_error(name, tmp_path, attack):
    assert hold(attack, tmp_path, name, 12, *KINDS[name]) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_damaged_weights_give_the_documented_error_in_hundreds_of_ways(name, tmp_path, attack):
    assert hold(attack, tmp_path, name, 100, *KINDS[name]) >= 60


@pytest.mark.slow
def test_damaged_weights_of_image_reward_give_the_documented_error(tmp_path, attack):
    ir._save_tiny(tmp_path)
    weights = read_weights(tmp_path / ir.FILE, [], "")

    def read(file):
        return ImageReward(file, tmp_path)

    source = "ImageReward.pt of huggingface.co"
    hold(attack, tmp_path, "ImageReward.pt", 40, lambda file: torch.save(weights, file), read, source)


def test_image_reward_makes_nothing_in_sizes_that_its_file_does_not_hold(tmp_path):
    ir._save_tiny(tmp_path)
    file = tmp_path / ir.FILE
    weights = read_weights(file, [], "")
    blocks = {f"{ir.VISION}blocks.{10**9}.norm1.weight": torch.zeros(64)}
    wide = {ir.ANCHORS[2]: torch.zeros(10**6, 1)}  # an intermediate size that nothing else has
    for change in (blocks, wide, {ir.ANCHORS[0]: torch.zeros(3)}, {ir.ANCHORS[1]: torch.zeros(())}):
        torch.save({**weights, **change}, file)
        with pytest.raises(ValueError, match=r"ImageReward\.pt' (is damaged|lacks|holds another)"):
            ImageReward(file, tmp_path)


@pytest.mark.parametrize("how", ["cut", "garbage", "code", "bomb"])
def test_a_clip_of_broken_weights_is_refused(how, tmp_path, attack):
    attack(WEIGHTS)
    _save_tiny(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    marker = tmp_path / "ran"
    whole = saved({"a": torch.zeros(99)})
    contents = {"cut": whole[:200], "garbage": b"garbage" * 99, "code": saved(Touch(marker)), "bomb": bomb()}
    (tmp_path / "pytorch_model.bin").write_bytes(contents[how])
    with pytest.raises((ValueError, FileNotFoundError), match="unpacks to" if how == "bomb" else str(tmp_path)):
        CLIPScore(tmp_path)
    assert not marker.exists()


def preview(folder):
    return models._preview(Model(str(pipeline_path()), preview=str(folder)), False, torch.float32, "cpu")


def hold_previews(attack, folder, count):
    shutil.copytree(preview_path(), folder)
    file = folder / "diffusion_pytorch_model.safetensors"
    content, tensors = file.read_bytes(), read_weights(file, [], "")
    refused = 0
    for bad in damaged(file.name, content, tensors, count, folder / "ran"):
        attack(WEIGHTS)
        file.unlink()  # what an earlier preview has mapped stays
        file.write_bytes(bad)
        try:
            preview(folder)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(f"preview {folder} ")
    return refused


def test_a_damaged_preview_is_named(tmp_path, attack):
    assert hold_previews(attack, tmp_path / "preview", 6) >= 3


@pytest.mark.slow
def test_a_preview_damaged_in_many_ways_is_named(tmp_path, attack):
    assert hold_previews(attack, tmp_path / "preview", 60) >= 30


def test_a_preview_that_lacks_weights_is_refused(tmp_path):
    from safetensors.torch import save_file

    shutil.copytree(preview_path(), tmp_path / "preview")
    file = tmp_path / "preview" / "diffusion_pytorch_model.safetensors"
    weights = read_weights(file, [], "")
    key = sorted(weights)[0]
    save_file({name: tensor for name, tensor in weights.items() if name != key}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"it lacks \['{key}'\]"):
        preview(tmp_path / "preview")


def test_a_preview_that_is_a_bomb_is_refused(tmp_path):
    shutil.copytree(preview_path(), tmp_path / "preview")
    (tmp_path / "preview" / "diffusion_pytorch_model.safetensors").unlink()
    (tmp_path / "preview" / "diffusion_pytorch_model.bin").write_bytes(bomb())
    with pytest.raises(ValueError, match="unpacks to"):
        preview(tmp_path / "preview")


def bomb(size=500_000_000):
    """About half a megabyte, an archive of PyTorch's but for its one part, which is zeros without end."""
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w") as archive:
        with zipfile.ZipFile(io.BytesIO(saved({"layers.0.weight": torch.zeros(4)}))) as old:
            for entry in old.infolist():
                if "/data/" not in entry.filename:
                    archive.writestr(entry.filename, old.read(entry))
        with archive.open(zipfile.ZipInfo("archive/data/0"), "w", force_zip64=True) as part:
            part._compressor = __import__("zlib").compressobj(9, 8, -15)
            part._zinfo.compress_type = zipfile.ZIP_DEFLATED
            for _ in range(size // 1_000_000):
                part.write(bytes(1_000_000))
    return into.getvalue()


def test_half_a_megabyte_that_unpacks_to_half_a_gigabyte_is_refused_before_it_is_unpacked(tmp_path):
    file = tmp_path / "head.pth"
    file.write_bytes(bomb())
    assert file.stat().st_size < 600_000
    with pytest.raises(ValueError, match=r"head\.pth has 4\d\d,\d+ bytes and unpacks to 500,\d\d\d,\d\d\d"):
        refuse_bombs(file)
    code = (
        "import resource, sys; from dsearch.rewards.aesthetic import load_head\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: load_head(sys.argv[1])\n"
        "except ValueError as error: assert 'unpacks to' in str(error), error\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    told = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 50_000  # kibibytes


@pytest.mark.parametrize("name", ["value.safetensors", "head.pth", "head.safetensors"])
def test_weights_outlive_their_file(name, tmp_path):
    """What is mapped and not copied ends the process with a bus error."""
    write, _, _ = KINDS[name]
    write(tmp_path / name)
    code = (
        "import sys; from test_damaged_weights import KINDS, load_head, ValueNetwork\n"
        "net = (ValueNetwork.load if 'value' in sys.argv[1] else load_head)(sys.argv[1])\n"
        "open(sys.argv[1], 'w').close()\n"
        "print(sum(float(p.sum()) for p in net.parameters()))"
    )
    told = subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], cwd=Path(__file__).parent, check=True)
    assert told.returncode == 0


def test_a_part_that_claims_more_than_it_has_is_not_read_beyond(tmp_path):
    """torch.load would take the neighbouring memory for weights."""
    file = tmp_path / "head.pth"
    weights = AestheticHead(8).state_dict()
    torch.save(weights, file)
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(tmp_path / "short.pth", "w") as new:
        for entry in old.infolist():
            part = old.read(entry)
            new.writestr(entry.filename, part[:64] if entry.filename.endswith("/data/0") else part)
    try:
        found = load_head(tmp_path / "short.pth").layers["0"].weight
    except ValueError as error:
        assert "short.pth" in str(error)
    else:  # what follows in the file, and nothing else
        assert found.isfinite().all()
