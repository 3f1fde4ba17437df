"""Tensors in a file that torch saved, read so that nothing in the file is run and no more is reserved than it is long."""

from __future__ import annotations

import io
import pickle
import pickletools
import warnings
import zipfile
from collections import OrderedDict
from typing import Any

MOST_MEMBERS = 500
MOST_DESCRIPTION_BYTES = 1_000_000

_STORAGES = {"FloatStorage": 4}
"""Kinds of numbers that our networks are made of, with their size in bytes."""

_REBUILD = "torch._utils _rebuild_tensor_v2"
_GLOBALS = {_REBUILD, "collections OrderedDict", *(f"torch {name}" for name in _STORAGES)}
_OPCODES = frozenset({
    "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE",
    "SHORT_BINUNICODE", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT",
    "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "MEMOIZE", "GLOBAL", "REDUCE", "BINPERSID",
})  # fmt: skip
"""What torch writes for dicts, lists, numbers, text and tensors. None of it acts but GLOBAL and REDUCE, which are limited."""

_OF_A_MODULE = "BUILD"
"""The state of a module is a table with an attribute, the versions of its parts; only a plain table takes attributes."""


def read_tensors(data: bytes, *, of_a_module: bool = False) -> Any:
    """Return what torch saved: dicts, lists, numbers, text and float32 tensors. Nothing in `data` is run.

    Parameters
    ----------
    data : the file's bytes; who reads them sets a limit, see `files.read_bounded`.
    of_a_module : whether it may be what a module's `state_dict` returned.

    Raises
    ------
    ValueError : it is no such file, or says of itself what is not so.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sizes = _member_sizes(archive, len(data))
        described = [name for name in sizes if name.endswith("/data.pkl")]
        if len(described) != 1:
            raise ValueError("it has no description of its tensors")
        folder = described[0].removesuffix("data.pkl")
        _check_description(archive.read(described[0]), folder, sizes, of_a_module)
    import torch  # loading it takes seconds, which only those pay who read tensors

    with warnings.catch_warnings():
        # What torch only warns of, a file that it did not write, has been refused above.
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _member_sizes(archive: zipfile.ZipFile, whole: int) -> dict[str, int]:
    """Return the size of each member by name, having made sure that they cannot unpack to more than there is."""
    members = archive.infolist()
    if len(members) > MOST_MEMBERS:
        raise ValueError(f"it has {len(members)} members, where at most {MOST_MEMBERS} belong")
    sizes = {member.filename: member.file_size for member in members}
    folders = {name.partition("/")[0] for name in sizes}
    if len(sizes) < len(members) or len(folders) > 1:
        raise ValueError("it has two members of one name, or of several folders")
    for name in sizes:
        if "\\" in name or name.startswith("/") or not name.isprintable() or {"", ".", ".."} & set(name.split("/")):
            raise ValueError(f"it has a member called {name[:60]!r}")
    # torch packs nothing: what is packed could be a thousand times as large.
    if any(m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size or m.flag_bits & 1 for m in members):
        raise ValueError("its members are packed or locked")
    # Two programs could otherwise find two different archives in one file.
    if archive.comment or min((member.header_offset for member in members), default=0) != 0:
        raise ValueError("something lies before or behind its members")
    if sum(sizes.values()) > whole:
        raise ValueError("its members say that they are larger than the file")
    return sizes


def _check_description(description: bytes, folder: str, sizes: dict[str, int], of_a_module: bool) -> None:
    """Raise `ValueError` unless the description asks for plain values and for tensors that lie inside of their members."""
    if len(description) > MOST_DESCRIPTION_BYTES:
        raise ValueError("its description is too long")
    for opcode, argument, _ in pickletools.genops(description):
        if opcode.name not in _OPCODES and not (of_a_module and opcode.name == _OF_A_MODULE):
            raise ValueError(f"its description would do something ({opcode.name}), where it may only describe")
        if opcode.name == "GLOBAL" and argument not in _GLOBALS:
            raise ValueError(f"its description asks for '{str(argument)[:60]}'")
        # Such a number alone makes Python reserve memory for as many places.
        if opcode.name == "LONG_BINPUT" and int(argument or 0) > len(description):
            raise ValueError("its description counts further than it is long")
    _StandIns(description, folder, sizes).load()


class _StandIns(pickle.Unpickler):
    """Reads a description whose opcodes were checked, with stand-ins for tensors that look at their sizes alone."""

    def __init__(self, description: bytes, folder: str, sizes: dict[str, int]) -> None:
        super().__init__(io.BytesIO(description))
        self._folder, self._sizes = folder, sizes

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in for one of the few names that a description may use."""
        if f"{module} {name}" == _REBUILD:
            return _check_extent
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return name
        raise ValueError(f"its description asks for '{module} {name}'")

    def persistent_load(self, pid: Any) -> int:
        """Return how many numbers a member holds, having compared it with what the description says."""
        what, kind, key, _, count = pid
        size = self._sizes.get(f"{self._folder}data/{key}")
        if what != "storage" or kind not in _STORAGES or not isinstance(count, int) or size != count * _STORAGES[kind]:
            raise ValueError(f"its member '{str(key)[:20]}' has another size or kind than its description says")
        return count


def _check_extent(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> None:
    """Raise `ValueError` for a tensor that reaches beyond its member, or repeats numbers to look larger than it is."""
    numbers = [offset, *size, *stride]
    if not isinstance(storage, int) or len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("a tensor has a shape that cannot be")
    count = 1
    for length in size:
        count *= length
    reach = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) + 1
    if count < 1 or count > storage or reach > storage:
        raise ValueError("a tensor reaches beyond its numbers")
