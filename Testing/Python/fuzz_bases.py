"""Whole inputs of every kind, small, for `fuzz_samples` to break."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np


def write_bases(kind: str, folder: Path) -> None:
    """Write the whole inputs of a kind into a folder."""
    _WRITERS[kind](folder)


def zipped(data: bytes) -> bytes:
    """Return gzip of data, the same each time."""
    return gzip.compress(data, 1, mtime=0)


def unzipped(data: bytes) -> bytes:
    """Return what gzip data holds."""
    return gzip.decompress(data)


def _images(folder: Path) -> None:
    import SimpleITK as sitk

    voxels = np.random.default_rng(1).integers(0, 900, (6, 7, 8)).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.0, 1.5, 2.0))
    for name in ("image.nrrd", "image.nii", "image.mha", "image.nii.gz", "image.nhdr"):
        sitk.WriteImage(image, str(folder / name))
    if not (folder / "image.raw").exists():
        shutil.move(next(folder.glob("*.raw*")), folder / "image.raw")


def _transforms(folder: Path) -> None:
    import SimpleITK as sitk

    affine = sitk.AffineTransform(3)
    affine.SetTranslation((1.0, -2.0, 3.0))
    for name in ("affine.tfm", "affine.h5", "affine.mat"):
        sitk.WriteTransform(affine, str(folder / name))
    domain = sitk.Image((8, 7, 6), sitk.sitkUInt8)
    sitk.WriteTransform(sitk.BSplineTransformInitializer(domain, [2, 2, 2]), str(folder / "spline.tfm"))
    vectors = np.random.default_rng(2).normal(size=(6, 7, 8, 3))
    field = sitk.GetImageFromArray(vectors, isVector=True)
    for name in ("field.nii", "field.nrrd", "field.nii.gz"):
        sitk.WriteImage(field, str(folder / name))
    sitk.WriteTransform(sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64)), str(folder / "field.h5"))


def _jobs(folder: Path) -> None:
    from HyperPredictRegLib.results.job import Job

    job = Job("fixed.nrrd", "moving.nrrd", "out", fixed_landmarks="f.csv", alignment={"multi_start": False})
    (folder / "job.json").write_text(json.dumps(asdict(job)), encoding="utf-8")


def _points(folder: Path) -> None:
    points = np.random.default_rng(3).normal(scale=40, size=(5, 3)).round(3)
    lines = [",".join(map(str, point)) for point in points]
    (folder / "points.csv").write_text("x,y,z\n" + "\n".join(lines) + "\n", encoding="utf-8")
    head = "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock\n"
    rows = [f"{n},{line},0,0,0,1,1,1,0,F-{n},," for n, line in enumerate(lines)]
    (folder / "points.fcsv").write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    known = {"positionStatus": "defined"}
    control = [{"id": str(n), "label": f"F-{n}", "position": point.tolist(), **known} for n, point in enumerate(points)]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": control}
    (folder / "points.mrk.json").write_text(json.dumps({"markups": [markup]}), encoding="utf-8")


def _bundles(folder: Path) -> None:
    from HyperPredictRegLib.predictor.card import bundled

    ours = bundled("demons", "fast")
    if ours is None:
        raise FileNotFoundError("the bundle that comes with the library is not there")
    shutil.copytree(ours, folder / "bundle")


def _tables(folder: Path) -> None:
    import pandas as pd
    from predictor_samples import planted_examples
    from test_cli_training import write_tables

    write_tables(planted_examples(pairs=12, subjects=6), folder)
    for name in ("runs.parquet", "features.parquet"):
        pd.read_parquet(folder / name).to_parquet(folder / name, index=False)
    columns = "pair,fixed,moving,fixed_labels,moving_labels,fixed_subject,moving_subject,group,label_noise_mm"
    rows = [f"p{n},image,image,labels,labels,a{n},b{n},usual,0.{n}" for n in range(5)]
    (folder / "manifest.csv").write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")


_WRITERS: dict[str, Callable[[Path], None]] = {
    "images": _images, "transforms": _transforms, "jobs": _jobs, "points": _points, "bundles": _bundles, "tables": _tables,
}  # fmt: skip


def model_with(model: bytes, change: Callable[[Any], Any]) -> bytes:
    """Return a bundle's tensors saved again with another content."""
    import torch

    stream = io.BytesIO()
    torch.save(change(torch.load(io.BytesIO(model), weights_only=True)), stream)
    return stream.getvalue()


def with_member(model: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """Return an archive with one member changed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(model)) as old, zipfile.ZipFile(stream, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            new.writestr(member.filename, change(data) if member.filename.endswith(f"/{name}") else data)
    return stream.getvalue()


def changed_tensor(random: np.random.Generator, tensor: Any) -> Any:
    """Return a tensor with numbers that are none, of another type, or of another shape."""
    import torch

    changed = tensor.clone()
    what = int(random.integers(5))
    if what <= 1 and changed.numel():
        changed.view(-1)[int(random.integers(changed.numel()))] = float(random.choice([np.nan, np.inf, -np.inf, 3e38]))
        return changed
    if what == 2:
        return changed.to(torch.float64 if random.random() < 0.5 else torch.int32)
    if what == 3:
        return changed.reshape(-1)
    return changed[..., :1].clone() if changed.ndim else changed[None]


def changed_table(random: np.random.Generator, data: bytes, odd: tuple[Any, ...]) -> bytes:
    """Return a Parquet table with a column lost, renamed, of odd values or of another type, or with rows doubled or lost."""
    import pandas as pd

    table = pd.read_parquet(io.BytesIO(data))
    name = str(random.choice(table.columns))
    what = int(random.integers(8))
    if what == 0:
        table = table.drop(columns=name)
    elif what == 1:
        table = table.rename(columns={name: str(random.choice(["dice_x", "pair_", "token_", "", "dice_1.5", "label"]))})
    elif what == 2:
        value = odd[int(random.integers(len(odd)))]
        column = [value if not isinstance(value, int) or abs(value) < 2**63 else float("inf")] * len(table)
        table[name] = pd.Series([str(v)[:40].encode("utf-8", "replace").decode() if isinstance(v, str) else v for v in column])
    elif what == 3:
        table[name] = table[name].astype(str)
    elif what == 4:
        table = pd.concat([table, table.iloc[: int(random.integers(1, len(table)))]])
    elif what == 5:
        table = table.iloc[: int(random.integers(0, 3))]
    elif what == 6:
        numbers = table.select_dtypes("number").columns
        chosen = str(random.choice(numbers))
        table[chosen] = table[chosen].astype(float)
        table.iloc[int(random.integers(len(table))), table.columns.get_loc(chosen)] = random.choice([np.nan, np.inf, -1e300, 1.5])
    else:
        table = pd.concat([table, table.assign(**{name: table[name].iloc[::-1].to_numpy()})])
    stream = io.BytesIO()
    table.loc[:, ~table.columns.duplicated()].to_parquet(stream, index=False)
    return stream.getvalue()
