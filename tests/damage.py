"""Damaged or hostile files of weights: cut, flipped, of other keys, shapes and kinds, bombs, pickles with code."""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch


class Touch:
    """A pickle that runs code where it is loaded: it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def saved(thing, **options):
    into = io.BytesIO()
    torch.save(thing, into, **options)
    return into.getvalue()


def bytewise(content, rng):
    """Any file, damaged without a look at what it is."""
    b, n = bytearray(content), len(content)
    kind = rng.integers(9)
    at = int(rng.integers(n))
    if kind == 0:
        return bytes(b[:at])
    if kind == 1:
        return b""
    if kind == 2:
        b[at : at + 64] = bytes(len(b[at : at + 64]))
    if kind == 3:
        b[at:at] = rng.bytes(int(rng.integers(1, 100)))
    if kind == 4:
        del b[at : at + int(rng.integers(1, 100))]
    if kind == 5:
        return bytes(b[at:] + b[:at])
    if kind == 6:
        return rng.bytes(int(rng.integers(1, 5000)))
    if kind >= 7:  # in its beginning, where a header lies, or anywhere
        for _ in range(int(rng.choice([1, 4, 64]))):
            b[int(rng.integers(min(n, 600) if kind == 7 else n))] ^= 1 << int(rng.integers(8))
    return bytes(b)


def another(tensors, rng):
    """Weights that a program could have saved, and that are not what is asked for."""
    found, key = dict(tensors), list(tensors)[int(rng.integers(len(tensors)))]
    own = found[key]
    changes = [
        lambda: found.pop(key),
        lambda: found.update({key: own[..., None]}),
        lambda: found.update({key: own.flatten()[:1]}),
        lambda: found.update({key: own.flatten()[:0]}),
        lambda: found.update({key: own.new_zeros(())}),
        lambda: found.update({key: own.to(torch.int64)}),
        lambda: found.update({key: own.to(torch.float8_e4m3fn)}),
        lambda: found.update({key: own.bool()}),
        lambda: found.update({key: torch.full_like(own, torch.nan)}),
        lambda: found.update({key: torch.full_like(own, torch.inf)}),
        lambda: found.update({key: torch.cat([own, own])}) if own.ndim else found.pop(key),
        lambda: found.update({"other." + k: found.pop(k) for k in list(found)}),
        lambda: found.clear(),
    ]
    changes[int(rng.integers(len(changes)))]()
    return found


def pickled(tensors, rng, marker):
    """What only a pickle can hold: other things than plain tensors by name, and code."""
    key = next(iter(tensors))
    many = [
        {**tensors, key: Touch(marker)},
        Touch(marker),
        {**tensors, key: tensors[key].to(torch.complex64)},
        {**tensors, key: tensors[key].reshape(-1, 1).to_sparse()},
        {**tensors, key: tensors[key].new_ones(()).expand(10**6, 10**6)},
        {**tensors, 7: tensors[key]},
        {**tensors, key: torch.empty(10**6, 10**6, device="meta")},
        {"state_dict": [1, 2]},
        {"state_dict": {"state_dict": dict(tensors)}},
        list(tensors.values()),
        None,
        7,
        "text",
    ]
    return saved(many[int(rng.integers(len(many)))], _use_new_zipfile_serialization=bool(rng.integers(2)))


def rezipped(content, rng, marker):
    """An archive of PyTorch's made anew: compressed, with a part of zeros, with a pickle that runs code, or bent."""
    kind, into = int(rng.integers(4)), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(into, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            part, name = old.read(entry), entry.filename
            if kind == 0 and "/data/" in name:
                new.writestr(name, bytes(4 << 20), zipfile.ZIP_DEFLATED)
                continue
            if kind == 1 and name.endswith("data.pkl"):
                part = pickle.dumps(Touch(marker), protocol=2)
            if kind == 2 and name.endswith("data.pkl"):
                part = bytewise(part, rng)
            if kind == 3 and "/data/" in name and rng.integers(2):
                part = part[: int(rng.integers(len(part) + 1))]
            new.writestr(name, part)
    return into.getvalue()


def reheaded(content, rng):
    """A safetensors file whose header says something else."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    key = list(header)[int(rng.integers(len(header)))]
    about = header.get("__metadata__", {})
    odd = [None, [], {}, "x", -1, 0, 1, 2**31, 2**63, 1e308, True, [1 << 40, 1 << 40]]
    value = odd[int(rng.integers(len(odd)))]
    kind = int(rng.integers(5))
    if kind == 0:
        header[key] = value
    elif kind == 1 and key != "__metadata__":
        field = ["dtype", "shape", "data_offsets"][int(rng.integers(3))]
        header[key][field] = value
    elif kind == 2 and "config" in about:
        config = json.loads(about["config"])
        config[list(config)[int(rng.integers(len(config)))]] = value
        about["config"] = json.dumps(config)
    elif kind == 3 and about:
        about[next(iter(about))] = ["[" * 100_000, "", "null", "7", '{"width": 1}'][int(rng.integers(5))]
    else:
        header.pop(key)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def damaged(name, content, tensors, count, marker, seed=0):
    """`count` damaged kinds of a file, by its name's ending."""
    for i in range(count):
        rng = np.random.default_rng([seed, i, *map(ord, name)])
        if i % 3 == 0:
            yield bytewise(content, rng)
        elif i % 3 == 1:
            if Path(name).suffix == ".safetensors":
                from safetensors.torch import save

                about = {"config": json.dumps({"width": 1})} if rng.integers(2) else None
                kept = {k: v.contiguous().clone() for k, v in another(tensors, rng).items()}
                yield save(kept, about)
            else:
                yield saved(another(tensors, rng), _use_new_zipfile_serialization=bool(rng.integers(2)))
        elif Path(name).suffix == ".safetensors":
            yield reheaded(content, rng)
        elif zipfile.is_zipfile(io.BytesIO(content)) and rng.integers(2):
            yield rezipped(content, rng, marker)
        else:
            yield pickled(tensors, rng, marker)
