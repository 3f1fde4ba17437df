"""Small organs to sweep over, and questions to the system about the processes that do it."""

from __future__ import annotations

import csv
import ipaddress
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from conftest import FIXED_GRID, blob_image, blob_labels

COLUMNS = ("pair", "fixed", "moving", "fixed_labels", "moving_labels", "fixed_subject", "moving_subject", "group")


def write_organs(folder: Path) -> Path:
    """Write three organs with labels, and an image that cannot be registered."""
    for name, deform in (("anna", 0.0), ("bert", 0.3), ("carl", -0.3)):
        image = blob_image(FIXED_GRID, deform=deform)
        sitk.WriteImage(sitk.Cast(image * 5, sitk.sitkInt16), str(folder / f"{name}.nrrd"))
        sitk.WriteImage(blob_labels(image), str(folder / f"{name}-labels.nrrd"))
    empty = FIXED_GRID.apply_to(sitk.GetImageFromArray(np.zeros(FIXED_GRID.size[::-1], np.int16)))
    sitk.WriteImage(empty, str(folder / "empty.nrrd"))
    return folder


def write_manifest(path: Path, pairs: list[tuple[str, str, str]], **changes: str) -> Path:
    """List pairs of (name, fixed subject, moving subject) of the folder's organs; `changes` spoil the last one's row."""
    rows = [
        {
            "pair": name, "fixed": f"{a}.nrrd", "moving": f"{b}.nrrd", "fixed_labels": f"{a}-labels.nrrd",
            "moving_labels": f"{b}-labels.nrrd", "fixed_subject": a, "moving_subject": b, "group": "usual",
        }
        for name, a, b in pairs
    ]  # fmt: skip
    rows[-1].update(changes)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def process_tree(pid: int) -> set[int]:
    """Return a process and all that descend from it, as /proc lists them."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended meanwhile
    tree = {pid}
    while grown := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= grown
    return tree


def listening(pids: set[int]) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Return the addresses on which any of the processes waits for others: TCP that listens, UDP that is bound."""
    inodes = set()
    for pid in pids:
        with suppress(OSError):
            for link in list(Path(f"/proc/{pid}/fd").iterdir()):
                # The one by which the folder is being listed has gone again.
                with suppress(OSError):
                    inodes.add(link.readlink().name.removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table, waits in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        path = Path("/proc/net") / table
        for line in path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else ():
            local, state, inode = (line.split()[n] for n in (1, 3, 9))
            if state == waits and inode in inodes:
                found.add(_address(local.partition(":")[0]))
    return found


def _address(written: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read an address as the kernel writes it: words of 32 bits in the machine's own order of bytes."""
    data = bytes.fromhex(written)
    words = [data[n : n + 4] for n in range(0, len(data), 4)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    address = ipaddress.ip_address(b"".join(words))
    return getattr(address, "ipv4_mapped", None) or address
