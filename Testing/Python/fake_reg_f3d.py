#!/usr/bin/env python3
"""A small program of ours that behaves like NiftyReg's ``reg_f3d`` 1.5, for tests: not NiftyReg, and no registration.

It takes the arguments that our engine gives, prints what the engine listens to, and leaves a control-point grid in NiftyReg's
format: a shift that brings the centres of mass together, less of it the higher be and le are. FAKE_REG_F3D makes it behave badly:

warp         a warp made of random numbers in place of the shift
nothing      ends well, but leaves nothing
other grid   leaves a grid with one point less along each axis
nan          leaves a grid with a NaN
cut          leaves the first half of its file
far          leaves a shift of a kilometre
fails        says why and ends with exit code 3
killed       kills itself in the middle
silent       starts a process, writes both process ids into the file FAKE_PIDS, and sleeps for an hour
version ...  states that version
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SEED = 7


def read_image(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels (i, j, k) and the spacing of a NIfTI image of floats that lies upright."""
    raw = Path(path).read_bytes()
    size, pixdim = struct.unpack_from("<8h", raw, 40)[1:4], struct.unpack_from("<8f", raw, 76)[1:4]
    offset = int(struct.unpack_from("<f", raw, 108)[0])
    return np.frombuffer(raw, "<f4", int(np.prod(size)), offset).reshape(size, order="F"), np.array(pixdim)


def write_grid(path: str, positions: np.ndarray, spacing: np.ndarray) -> None:
    """Write positions, shape (i, j, k, 3), as NiftyReg writes a cubic B-spline."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 5, *positions.shape[:3], 1, 3, 1, 1)
    struct.pack_into("<fffhhh", header, 56, 2.0, 0.0, 0.0, 1007, 16, 32)
    struct.pack_into("<8f", header, 76, 1.0, *spacing, 1, 1, 1, 1)
    struct.pack_into("<3f", header, 108, 352.0, 1.0, 0.0)
    struct.pack_into("<2h", header, 252, 0, 1)
    rows = [[spacing[0], 0, 0, -spacing[0]], [0, spacing[1], 0, -spacing[1]], [0, 0, spacing[2], -spacing[2]]]
    struct.pack_into("<12f", header, 280, *np.ravel(rows))
    struct.pack_into("<16s4s", header, 328, b"NREG_TRANS", b"n+1\0")
    Path(path).write_bytes(bytes(header) + positions.astype("<f4").tobytes(order="F"))


def shift(fixed: np.ndarray, moving: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return the way from one centre of mass to the other, in mm."""
    places = np.stack(np.indices(fixed.shape), axis=-1) * spacing
    one, other = ((places * m[..., None]).sum(axis=(0, 1, 2)) / m.sum() for m in (fixed, moving))
    return np.asarray(other - one)


def warp(size: tuple[int, ...], spacing: np.ndarray) -> np.ndarray:
    """Return the random displacements of the control points, shape (i, j, k, 3), mm."""
    return np.random.default_rng(SEED).normal(size=(*size, 3)) * 0.2 * spacing


def print_levels(given: dict[str, str], spacing: np.ndarray, mode: str) -> None:
    """Print what is printed meanwhile."""
    levels = int(given["-ln"])
    for level in range(levels):
        print(f"[NiftyReg F3D] Current level: {level + 1} / {levels}")
        print(f"[NiftyReg F3D] Maximum iteration number: {int(given['-maxit']) * 2 ** (levels - 1 - level)}")
        print(f"[NiftyReg F3D] \t* image spacing: {spacing[0]:g} x {spacing[1]:g} x {spacing[2]:g} mm")
        print(f"[NiftyReg F3D] Initial objective function: {1 + level / 10} = (wSIM){1 + level / 10} - (wBE)0")
        for step in (9, 17):
            print(f"[NiftyReg F3D] [{step}] Current objective function: {1.1 + (level + step / 20) / 10} = (wSIM)1 [+ 1 mm]")
        if mode == "fails":
            print("[NiftyReg ERROR] The moon is in the wrong place.", file=sys.stderr)
            raise SystemExit(3)
        if mode == "killed":
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Behave like reg_f3d."""
    mode = os.environ.get("FAKE_REG_F3D", "")
    if sys.argv[1:] == ["--version"]:
        print(mode.removeprefix("version ") if mode.startswith("version") else "1.5.68")
        return
    given = {name: value for name, value in zip(sys.argv[1:], [*sys.argv[2:], ""], strict=True) if name.startswith("-")}
    if os.environ.get("FAKE_ARGUMENTS"):
        mask = Path(given["-rmask"]).read_bytes()[352:] if "-rmask" in given else b""
        files = sorted(path.name for path in Path().iterdir())
        told = {"arguments": sys.argv[1:], "inside": len(mask) - mask.count(0), "files": files}
        Path(os.environ["FAKE_ARGUMENTS"]).write_text(json.dumps(told), encoding="utf-8")
    if mode == "silent":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        Path(os.environ["FAKE_PIDS"]).write_text(f"{os.getpid()} {child.pid}\n", encoding="ascii")
        time.sleep(3600)
    (fixed, spacing), (moving, _) = read_image(given["-ref"]), read_image(given["-flo"])
    print_levels(given, spacing, mode)
    if mode == "nothing":
        return
    apart = -float(given["-sx"]) * spacing
    size = tuple(int(n) for n in np.ceil(np.array(fixed.shape) * spacing / apart + 3 - 1e-6))
    if mode == "other grid":
        size = tuple(n - 1 for n in size)
    share = 1 - float(given["-be"]) - float(given["-le"])
    displacements = warp(size, apart) if mode == "warp" else np.broadcast_to(share * shift(fixed, moving, spacing), (*size, 3))
    if mode == "far":
        displacements = displacements + 1e6
    positions = (np.stack(np.indices(size), axis=-1) - 1) * apart + displacements
    if mode == "nan":
        positions[1, 2, 1, 0] = np.nan
    write_grid(given["-cpp"], positions, apart)
    if mode == "cut":
        os.truncate(given["-cpp"], Path(given["-cpp"]).stat().st_size // 2)


if __name__ == "__main__":
    main()
