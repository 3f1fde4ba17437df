"""Small files of every kind that readers meet, written byte by byte where no library would write them."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

UPRIGHT = ((2.0, 0, 0, -9), (0, 2, 0, -8), (0, 0, 2, -7))
SLANTED = ((2.0, 0, 0, -9), (0, 2, 0.65, -8), (0, 0, 2, -7))
IN_PLACE = (0.0, 0.0, 0.0, -9.0, -8.0, -7.0)


def ramp(*size: int) -> np.ndarray:
    """Return float voxels [i, j, k], 0 to 119 and over again."""
    return (np.arange(np.prod(size)) % 120).astype(np.float32).reshape(size)


@dataclass(frozen=True)
class Nifti:
    """A NIfTI-1 header; `qform` is quaternion b, c, d and offset. Values may be as wrong as a test likes."""

    sform: tuple[tuple[float, ...], ...] | None = UPRIGHT
    qform: tuple[float, ...] | None = None
    sform_code: int = 1
    qform_code: int = 1
    pixdim: tuple[float, ...] = (2.0, 2.0, 2.0)
    units: int = 2
    slope: float = 1.0
    intercept: float = 0.0
    intent: int = 0
    intent_name: bytes = b""
    intent_p1: float = 0.0
    offset: float = 352.0
    dim: tuple[int, ...] | None = None
    datatype: tuple[int, int] = (16, 32)
    magic: bytes = b"n+1\0"
    order: str = "<"

    def header(self, shape: tuple[int, ...]) -> bytes:
        """Return the 352 bytes before the voxels, which are float32."""
        raw, o = bytearray(352), self.order
        dim = self.dim or (len(shape), *shape, *([1] * (7 - len(shape))))
        for kind, at, values in (
            ("i", 0, (348,)), ("8h", 40, dim), ("f", 56, (self.intent_p1,)), ("h", 68, (self.intent,)), ("2h", 70, self.datatype),
            ("8f", 76, (1.0, *self.pixdim, 1, 1, 1, 1)), ("f", 108, (self.offset,)), ("2f", 112, (self.slope, self.intercept)),
        ):  # fmt: skip
            struct.pack_into(o + kind, raw, at, *values)
        raw[123] = self.units
        if self.qform is not None:
            struct.pack_into(o + "h", raw, 252, self.qform_code)
            struct.pack_into(o + "6f", raw, 256, *self.qform)
        if self.sform is not None:
            struct.pack_into(o + "h", raw, 254, self.sform_code)
            struct.pack_into(o + "12f", raw, 280, *np.ravel(self.sform))
        raw[328 : 328 + len(self.intent_name)] = self.intent_name
        raw[344:348] = self.magic
        return bytes(raw)

    def write(self, path: Path, voxels: np.ndarray) -> Path:
        """Write voxels [i, j, k, ...] as .nii, .nii.gz, or the pair that starts with .hdr."""
        body = voxels.astype(self.order + "f4").tobytes(order="F")
        header = self.header(voxels.shape)
        if path.suffix == ".hdr":
            path.write_bytes(header[:348])
            path.with_suffix(".img").write_bytes(body)
            return path
        path.write_bytes(gzip.compress(header + body) if path.suffix == ".gz" else header + body)
        return path


def nifti2(path: Path, voxels: np.ndarray, rows: tuple[tuple[float, ...], ...] = UPRIGHT, units: int = 2) -> Path:
    """Write a NIfTI-2 file of float32 voxels."""
    raw = bytearray(544)
    struct.pack_into("<i", raw, 0, 540)
    raw[4:12] = b"n+2\0\r\n\x1a\n"
    struct.pack_into("<2h", raw, 12, 16, 32)
    struct.pack_into("<8q", raw, 16, voxels.ndim, *voxels.shape, *([1] * (7 - voxels.ndim)))
    struct.pack_into("<8d", raw, 104, 1, 2, 2, 2, 1, 1, 1, 1)
    struct.pack_into("<q", raw, 168, 544)
    struct.pack_into("<2d", raw, 176, 1, 0)
    struct.pack_into("<2i", raw, 344, 0, 1)
    struct.pack_into("<12d", raw, 400, *np.ravel(rows))
    struct.pack_into("<i", raw, 500, units)
    path.write_bytes(bytes(raw) + voxels.astype("<f4").tobytes(order="F"))
    return path


def nrrd(path: Path, *lines: str, data: bytes = bytes(range(125)), body: tuple[str, ...] | None = None) -> Path:
    """Write a NRRD file of 5 x 5 x 5 bytes with more header lines, or with all of them in `body`."""
    lines = (*(body or ("type: uint8", "dimension: 3", "sizes: 5 5 5", "encoding: raw")), *lines)
    path.write_bytes(("NRRD0004\n" + "\n".join(lines) + "\n\n").encode() + data)
    return path


def meta_image(path: Path, data: bytes = bytes(range(125)), **fields: str) -> Path:
    """Write a MetaImage file of 5 x 5 x 5 bytes; `fields` replace or add to the usual ones."""
    usual = {"ObjectType": "Image", "NDims": "3", "BinaryData": "True", "DimSize": "5 5 5", "ElementType": "MET_UCHAR"}
    last = {"ElementDataFile": fields.pop("ElementDataFile", "LOCAL")}
    path.write_bytes("".join(f"{name} = {value}\n" for name, value in (usual | fields | last).items()).encode() + data)
    return path


@dataclass(frozen=True)
class Slices:
    """A DICOM series of 12 x 11 pixels; `positions` are along the stack, in mm, `tags` replace or add to the usual ones."""

    positions: tuple[float, ...] = tuple(2.5 * k for k in range(10))
    series: str = "1.2.3.4"
    first_number: int = 1
    tilt_degrees: float = 0.0
    sideways: tuple[tuple[int, float], ...] = ()
    size: tuple[int, int] = (12, 11)
    spacing: float = 1.5
    orientation: str = "1\\0\\0\\0\\1\\0"
    tags: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write one file per position, ``NNNN.dcm``, whose voxels are all its place in `positions`; return the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        row, column = np.array([float(v) for v in self.orientation.split("\\")]).reshape(2, 3)
        normal = np.cross(row, column)
        for k, height in enumerate(self.positions):
            number = self.first_number + k
            one = sitk.GetImageFromArray(np.full((1, *self.size[::-1]), k, np.int16))
            one.SetSpacing([self.spacing, self.spacing, 1.0])
            aside = np.tan(np.radians(self.tilt_degrees)) * height + dict(self.sideways).get(k, 0.0)
            place = np.array([-5.0, 3.0, 7.0]) + height * normal + aside * column
            usual = {
                "0008|0060": "CT", "0020|000e": self.series, "0020|000d": "1.2.3", "0020|0013": str(number),
                "0008|0018": f"{self.series}.{number}", "0020|0032": "\\".join(f"{v:.4f}" for v in place),
                "0020|0037": self.orientation, "0018|0050": "2.5",
            }  # fmt: skip
            for tag, value in (usual | self.tags).items():
                if value:
                    one.SetMetaData(tag, value)
            writer.SetFileName(str(folder / f"{number:04d}.dcm"))
            writer.Execute(one)
        return folder


def without_tag(file: Path, group: int, element: int) -> None:
    """Take one tag out of an implicit little-endian DICOM file, as exporters do."""
    raw = bytearray(file.read_bytes())
    at = raw.find(struct.pack("<2H", group, element), 132)
    length = struct.unpack_from("<I", raw, at + 4)[0]
    del raw[at : at + 8 + length]
    file.write_bytes(bytes(raw))
