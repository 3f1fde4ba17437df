"""Broken and hostile inputs of every kind, each made from a seed, and what becomes of them.

Those in HDF5 differ a little from run to run, since such a file holds the time at which it was made.

Used by `test_fuzz.py` with a few seeds and by `Testing/soak.py` with many. To see one again:

    python Testing/Python/fuzz_samples.py KIND SEED
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import io
import json
import re
import struct
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzz_bases
import numpy as np
from HyperPredictRegLib.core.errors import HyperPredictRegError

KINDS = ("images", "transforms", "jobs", "points", "bundles", "tables")

HANGS_AFTER = 300.0
"""Seconds for one input. None needs a hundredth of it; only what never ends comes here."""

MOST_MEMORY = 24 * 2**30
"""Bytes of address space. What asks for more has believed a header."""

Random = np.random.Generator
Change = Callable[[Random, bytes], bytes]

ODD_NUMBERS = (
    "0", "-1", "1", "2.5", "-0.0", "1e-9", "1e9", "1e300", "1e999", "-1e999", "nan", "inf", "0x10", "65536", "2147483648",
    "4294967296", "18446744073709551616", "9" * 400, "9" * 5000, "", "abc", "²", "١", "1_0", "1,5", "+-3", "null", "\0",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1e308, 10**400, 2**63, "", " ", "\0", "\ud800", "²", "a" * 5000, "../..", "/", "con", [], {}, [[]],
    [None], {"": 0}, [1, 2, 3, 4], "nan", "Infinity", "1e999", float("nan"), float("inf"), -0.0, "\n", "\u202e", "none",
)  # fmt: skip


@dataclass(frozen=True)
class Tried:
    """What became of one input: `wrong` is empty if it was accepted or refused as it should be."""

    kind: str
    seed: int
    wrong: str
    accepted: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.seed}: {self.wrong} (python Testing/Python/fuzz_samples.py {self.kind} {self.seed})"


def try_all(kind: str, seeds: range) -> list[Tried]:
    """Try seeds in child processes: what kills a child is one wrong result, and the next child goes on behind it."""
    found: list[Tried] = []
    while len(found) < len(seeds):
        first = seeds.start + len(found)
        command = [sys.executable, str(Path(__file__).resolve()), kind, str(first), str(seeds.stop)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"kind"')]
        found += [Tried(**line) for line in lines]
        if done.returncode and len(found) < len(seeds):
            words = done.stderr.strip().splitlines() or ["without a word"]
            last = next((line for line in words if line.startswith("Fatal Python error")), words[-1])
            hung = "Timeout" in done.stderr
            how = f"hung for {HANGS_AFTER:.0f} s" if hung else f"ended the process with {done.returncode}"
            found.append(Tried(kind, first + len(lines), f"{how}: {last[:300]}"))
        elif not lines:
            raise RuntimeError(f"the child tried nothing: {done.stderr[-500:]}")
    return found


def try_one(kind: str, seed: int, base: Path) -> Tried:
    """Make an input, give it to its reader and judge what the reader does.

    Parameters
    ----------
    base : folder of whole inputs, see `fuzz_bases`.
    """
    random = np.random.default_rng([seed, KINDS.index(kind)])
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=base) as folder:
        path, read = _MAKERS[kind](random, base, Path(folder))
        before = _digests(Path(folder))
        message, accepted = "", False
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                read()
            accepted = True
        except HyperPredictRegError as error:
            message = _wrong_sentence(str(error), path)
        except BaseException as error:
            message = f"raised {type(error).__name__}: {str(error)[:200]}"
        if not message and _digests(Path(folder)) != before:
            message = "something was written beside the input"
    return Tried(kind, seed, message, accepted)


def _wrong_sentence(sentence: str, path: Path) -> str:
    if not sentence.strip() or not sentence.endswith(".") or "Traceback" in sentence:
        return f"was refused without a sentence: {sentence[-200:]!r}"
    named = {path.name, path.parent.name, path.name.partition(".")[0]}
    roles = ("image", "label", "mask", "transform", "job", "point", "landmark", "predictor", "manifest", "table", "sweep", "part")
    if not any(name in sentence for name in named) and not any(role in sentence.lower() for role in roles):
        return f"was refused without its name: {sentence[:200]!r}"
    return ""


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
        for path in sorted(folder.rglob("*"))
    }


# ---- changes to bytes, lines, JSON -------------------------------------------------------------------------------------


def changed_bytes(random: Random, data: bytes, reach: int | None = None) -> bytes:
    """Damage bytes in one way or several; within the first `reach` of them, where there is a header."""
    changed = bytearray(data)
    for _ in range(int(random.integers(1, 4))):
        end = min(len(changed), reach or len(changed))
        if not end:
            break
        at = int(random.integers(end))
        length = int(random.integers(1, max(2, end // 4)))
        what = int(random.integers(8))
        if what == 0:
            changed[at] ^= 1 << int(random.integers(8))
        elif what == 1:
            del changed[at:]
        elif what == 2:
            del changed[at : at + length]
        elif what == 3:
            changed[at:at] = random.bytes(length)
        elif what == 4:
            changed[at : at + length] = bytes(min(length, len(changed) - at))
        elif what == 5:
            changed[at : at + 4] = b"\xff" * min(4, len(changed) - at)
        elif what == 6:
            changed[at:at] = changed[at : at + length]
        else:
            changed[at : at + 4] = random.bytes(min(4, len(changed) - at))
    return bytes(changed)


def changed_lines(random: Random, text: bytes) -> bytes:
    """Change lines of text: numbers that cannot be, lines lost, doubled, exchanged or endless."""
    lines = text.split(b"\n")
    for _ in range(int(random.integers(1, 3))):
        at = int(random.integers(len(lines)))
        what = int(random.integers(7))
        if what <= 2:
            odd = ODD_NUMBERS[int(random.integers(len(ODD_NUMBERS)))].encode()
            places = list(re.finditer(rb"-?[0-9][0-9.eE+-]*", lines[at]))
            if places:
                place = places[int(random.integers(len(places)))]
                lines[at] = lines[at][: place.start()] + odd + lines[at][place.end() :]
        elif what == 3:
            del lines[at]
            lines = lines or [b""]
        elif what == 4:
            lines.insert(at, lines[at])
        elif what == 5:
            lines[at] += [b"x" * 140_000, b"\0", b"\xff\xfe", b'"', b",,,,", b" 1 2 3", b"\r"][int(random.integers(7))]
        else:
            other = int(random.integers(len(lines)))
            lines[at], lines[other] = lines[other], lines[at]
    return b"\n".join(lines)


def changed_json(random: Random, data: Any) -> bytes:
    """Change JSON: a value of another kind, a field lost or added, text that is not JSON, nesting without end."""
    what = int(random.integers(12))
    whole = json.dumps(data)
    if what == 0:
        return changed_bytes(random, whole.encode())
    if what == 1:
        deep = int(random.choice([50, 5000, 100_000]))
        return random.choice([b"[" * deep, b"[" * deep + b"]" * deep, b'{"a":' * deep + b"1" + b"}" * deep])
    if what == 2:
        return re.sub(r"(?<=: )-?[0-9][0-9.e+-]*", lambda m: "9" * 5000 if random.random() < 0.2 else m[0], whole).encode()
    if what == 3:
        return whole.encode(str(random.choice(["utf-16", "utf-8-sig", "utf-32"])))
    for _ in range(int(random.integers(1, 3))):
        data = _changed_value(random, data)
    return json.dumps(data).encode()


def _changed_value(random: Random, data: Any) -> Any:
    """Return JSON with one of its values, anywhere, replaced, removed or added."""
    odd = ODD_VALUES[int(random.integers(len(ODD_VALUES)))]
    if not isinstance(data, dict | list) or not data or random.random() < 0.05:
        return odd
    copy: Any = dict(data) if isinstance(data, dict) else list(data)
    keys = list(copy) if isinstance(copy, dict) else list(range(len(copy)))
    key = keys[int(random.integers(len(keys)))]
    what = random.random()
    if isinstance(copy[key], dict | list) and copy[key] and what < 0.6:
        copy[key] = _changed_value(random, copy[key])
    elif what < 0.8:
        copy[key] = odd
    elif what < 0.9:
        del copy[key]
    elif isinstance(copy, dict):
        copy[str(odd)[:50]] = odd
    else:
        copy.append(odd)
    return copy


# ---- one maker per kind: returns the file and what reads it ----------------------------------------------------------------

Made = tuple[Path, Callable[[], Any]]


def _image(random: Random, base: Path, folder: Path) -> Made:
    from HyperPredictRegLib.spatial.geometry import Geometry
    from HyperPredictRegLib.spatial.images import read_image, read_labels, read_mask

    name = str(random.choice(["image.nrrd", "image.nii", "image.mha", "image.nii.gz", "image.nhdr"]))
    path = folder / name
    data = (base / name).read_bytes()
    if name.endswith(".nhdr"):
        (folder / "image.raw").write_bytes((base / "image.raw").read_bytes())
    path.write_bytes(_changed_volume(random, name, data))
    grid = Geometry((8, 7, 6), (1.0, 1.5, 2.0))
    readers: list[Callable[[], Any]] = [
        lambda: read_image(str(path), "fixed image"),
        lambda: read_labels(str(path), grid, "fixed labels"),
        lambda: read_mask(str(path), grid, "fixed mask"),
    ]
    return path, readers[int(random.choice([0, 0, 1, 2]))]


def _changed_volume(random: Random, name: str, data: bytes) -> bytes:
    if ".nii" in name:
        packed = name.endswith(".gz")
        if packed and random.random() < 0.3:
            return changed_bytes(random, data)
        plain = fuzz_bases.unzipped(data) if packed else data
        plain = _changed_nifti(random, plain) if random.random() < 0.7 else changed_bytes(random, plain, 352)
        return fuzz_bases.zipped(plain) if packed else plain
    ends = {".nrrd": b"\n\n", ".nhdr": b"\n\n", ".mha": b"ElementDataFile = LOCAL\n"}
    end = ends[Path(name).suffix]
    header, found, voxels = data.partition(end)
    if random.random() < 0.3:
        return changed_bytes(random, data, len(header) if random.random() < 0.7 else None)
    if random.random() < 0.3:
        odd = [b"double", b"unsigned char", b"int64", b"block", b"MET_DOUBLE", b"MET_ASCII_CHAR", b"MET_NONE", b"gzip", b"hex"]
        header = re.sub(rb"short|MET_SHORT|raw", odd[int(random.integers(len(odd)))], header, count=1)
    return changed_lines(random, header) + found + voxels


def _changed_nifti(random: Random, data: bytes) -> bytes:
    """Set fields of a NIfTI header to values at the ends of their types."""
    changed = bytearray(data)
    fields = [(40 + 2 * n, "<h") for n in range(8)] + [(70, "<h"), (72, "<h"), (252, "<h"), (254, "<h"), (68, "<h"), (0, "<i")]
    fields += [(76 + 4 * n, "<f") for n in range(8)] + [(108, "<f"), (112, "<f"), (116, "<f")]
    fields += [(256 + 4 * n, "<f") for n in range(18)] + [(123, "<b")]
    for _ in range(int(random.integers(1, 4))):
        at, form = fields[int(random.integers(len(fields)))]
        values: tuple[float, ...] = (0, -1, 1, 3, 7, 127)
        if form == "<h":
            values += (2, 4, 8, 16, 64, 128, 256, 512, 1007, 32767, -32768)
        elif form == "<f":
            values += (float("nan"), float("inf"), -float("inf"), 1e-30, 1e30, 0.5, 352)
        struct.pack_into(form, changed, at, random.choice(values) if form == "<f" else int(random.choice(values)))
    return bytes(changed)


def _transform(random: Random, base: Path, folder: Path) -> Made:
    from HyperPredictRegLib.spatial.transforms import read_transform

    names = ["affine.tfm", "spline.tfm", "affine.h5", "field.h5", "field.nii", "field.nrrd", "field.nii.gz", "affine.mat"]
    name = str(random.choice(names))
    path = folder / name
    data = (base / name).read_bytes()
    if name.endswith((".h5", ".mat")):
        data = changed_bytes(random, data, int(random.choice([600, 4000, len(data)])))
    elif name.endswith(".tfm"):
        data = changed_lines(random, data) if random.random() < 0.8 else changed_bytes(random, data)
    else:
        data = _changed_volume(random, name, data)
    path.write_bytes(data)
    return path, lambda: read_transform(path, "initial transform")


def _job(random: Random, base: Path, folder: Path) -> Made:
    from HyperPredictRegLib.cli.options import read_job

    path = folder / "job.json"
    data = json.loads((base / "job.json").read_text(encoding="utf-8"))
    path.write_bytes(changed_json(random, {"job": data} if random.random() < 0.2 else data))
    return path, lambda: read_job(str(path), None)


def _points(random: Random, base: Path, folder: Path) -> Made:
    from HyperPredictRegLib.spatial.points import read_points

    name = str(random.choice(["points.csv", "points.mrk.json", "points.fcsv"]))
    path = folder / name
    data = (base / name).read_bytes()
    if name.endswith(".json"):
        data = changed_json(random, json.loads(data))
    else:
        data = changed_lines(random, data) if random.random() < 0.8 else changed_bytes(random, data)
    path.write_bytes(data)
    return path, lambda: read_points(path, "fixed landmarks")


def _bundle(random: Random, base: Path, folder: Path) -> Made:
    from HyperPredictRegLib.predictor.bundle import load_bundle

    path = folder / "bundle"
    path.mkdir()
    card = json.loads((base / "bundle" / "card.json").read_text(encoding="utf-8"))
    model = (base / "bundle" / "model.pt").read_bytes()
    what = random.random()
    if what < 0.3:
        text = changed_json(random, card)
    else:
        if what < 0.6:
            model = fuzz_bases.model_with(model, lambda content: _changed_content(random, content))
        elif what < 0.8:
            model = fuzz_bases.with_member(model, "data.pkl", lambda data: changed_bytes(random, data))
        else:
            model = changed_bytes(random, model, int(random.choice([2000, len(model)])))
        text = json.dumps(card | {"model_sha256": hashlib.sha256(model).hexdigest()}).encode()
    (path / "card.json").write_bytes(text)
    (path / "model.pt").write_bytes(model)
    return path / ("card.json" if what < 0.3 else "model.pt"), lambda: load_bundle(path)


def _changed_content(random: Random, content: Any) -> Any:
    """Return a bundle's content with one value replaced, at any depth; tensors get other numbers or shapes."""
    if isinstance(content, dict) and content:
        key = list(content)[int(random.integers(len(content)))]
        if random.random() < 0.1:
            return {name: value for name, value in content.items() if name != key}
        return content | {key: _changed_content(random, content[key])}
    if isinstance(content, list | tuple) and content and random.random() < 0.8:
        at = int(random.integers(len(content)))
        return [_changed_content(random, value) if n == at else value for n, value in enumerate(content)]
    if hasattr(content, "clone"):
        return fuzz_bases.changed_tensor(random, content)
    odd = ODD_VALUES[int(random.integers(len(ODD_VALUES)))]
    # Text with half a character cannot be pickled, so nobody can send it.
    return "" if odd == "\ud800" else odd


def _table(random: Random, base: Path, folder: Path) -> Made:
    from HyperPredictRegLab.evaluation.judging import read_ood_sets
    from HyperPredictRegLab.manifest import read_manifest
    from HyperPredictRegLab.training.examples import read_examples

    what = random.random()
    if what < 0.3:
        for name in ("image", "labels"):
            (folder / name).touch()
        path = folder / "manifest.csv"
        data = (base / "manifest.csv").read_bytes()
        path.write_bytes(changed_lines(random, data) if random.random() < 0.8 else changed_bytes(random, data))
        return path, lambda: read_manifest(path)
    names = ("runs.parquet", "features.parquet")
    for name in names:
        (folder / name).write_bytes((base / name).read_bytes())
    path = folder / str(random.choice(names))
    data = path.read_bytes()
    if what < 0.65:
        # The last part of a Parquet file describes the rest.
        split = len(data) - int(random.choice([0, 2000, 8000, len(data)]))
        data = data[:split] + changed_bytes(random, data[split:]) if split < len(data) else changed_bytes(random, data)
    else:
        data = fuzz_bases.changed_table(random, data, ODD_VALUES)
    path.write_bytes(data)
    if path.name == "features.parquet" and random.random() < 0.3:
        return path, lambda: read_ood_sets(path)
    return path, lambda: read_examples(folder)


_MAKERS: dict[str, Callable[[Random, Path, Path], Made]] = {
    "images": _image, "transforms": _transform, "jobs": _job, "points": _points, "bundles": _bundle, "tables": _table,
}  # fmt: skip


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """End the process where one input takes for ever: only a thread of its own is heard while ITK is at work."""
    faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def main(kind: str, first: int, end: int) -> None:
    """Try seeds in this process and print what became of each."""
    faulthandler.enable()
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    with tempfile.TemporaryDirectory(prefix="fuzz-bases-") as folder:
        fuzz_bases.write_bases(kind, Path(folder))
        for seed in range(first, end):
            with _watched():
                tried = try_one(kind, seed, Path(folder))
            print(json.dumps(vars(tried)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else int(sys.argv[2]) + 1)
