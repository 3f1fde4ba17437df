"""Bundles by somebody who means harm, or that came to harm: refused in a sentence, and nothing is run or allocated for them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import read_text
from HyperPredictRegLib.core.tensor_files import MOST_MEMBERS
from HyperPredictRegLib.predictor.bundle import MOST_BYTES, load_bundle
from HyperPredictRegLib.predictor.card import bundled, read_card

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def bundle() -> Path:
    found = bundled("demons", "fast")
    assert found is not None
    return found


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def with_model(folder: Path, model: bytes) -> Path:
    """Put another model into a bundle, with the checksum that belongs to it: whoever means harm can reckon, too."""
    (folder / "model.pt").write_bytes(model)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    card["model_sha256"] = hashlib.sha256(model).hexdigest()
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    content = torch.load(folder / "model.pt", weights_only=True)
    change(content)
    return with_model(folder, saved(content))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_bundle(folder)
    sentence = str(caught.value)
    assert message in sentence and sentence.endswith(".") and "\n" not in sentence and len(sentence) < 700, sentence


def set_in(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Return what sets the value at the end of a path of keys; a tensor is changed in its first number."""
    *keys, last, value = path

    def change(content: dict[str, Any]) -> None:
        inner = content
        for key in keys:
            inner = inner[key]
        if isinstance(inner[last], torch.Tensor) and isinstance(value, float):
            inner[last].view(-1)[0] = value
        else:
            inner[last] = value

    return change


CONTENT = {
    "NaN threshold": (set_in("thresholds", 0, NAN), "'thresholds' holds nan"),
    "infinite threshold": (set_in("thresholds", 1, INF), "'thresholds' holds inf"),
    "text as threshold": (set_in("thresholds", 1, "3"), "'thresholds' holds 3"),
    "a threshold more": (lambda c: c["thresholds"].append(5.0), "too many values"),
    "thresholds exchanged": (lambda c: c["thresholds"].reverse(), "thresholds or spreads"),
    "no threshold": (set_in("thresholds", 0, -1.0), "thresholds or spreads"),
    "NaN in OOD distance": (set_in("ood", "precision", NAN), "'ood precision' holds numbers that are not finite"),
    "infinite mean": (set_in("ood", "mean", -INF), "'ood mean' holds numbers that are not finite"),
    "no spread": (set_in("ood", "sd", 0.0), "thresholds or spreads"),
    "NaN in calibration": (set_in("widths", "dice", NAN), "'widths' holds nan"),
    "negative width": (set_in("widths", "curves", (1.0, -1.0, 1.0)), "widths of bands"),
    "four curves": (set_in("widths", "curves", (1.0, 1.0, 1.0, 1.0)), "widths of bands"),
    "an unknown width": (lambda c: c["widths"].update(harm=1.0), "harm"),
    "NaN in a knot": (set_in("knots", 1, NAN), "'knots' holds nan"),
    "knots in disorder": (lambda c: c["knots"].reverse(), "knots do not rise"),
    "no knots": (set_in("knots", []), "does not hold the tensors"),
    "one knot many times": (lambda c: c.update(knots=[0.5] * len(c["knots"])), "knots do not rise"),
    "NaN in a weight": (set_in("network", "prior", NAN), "'prior' holds numbers that are not finite"),
    "a weight of another type": (set_in("network", "prior", torch.zeros(5, 3, 8).double()), "asks for 'torch DoubleStorage'"),
    "a weight of another shape": (set_in("network", "prior", torch.zeros(1, 3, 8)), "'prior' has another shape"),
    "a weight less": (lambda c: c["network"].pop("prior"), "other parts"),
    "a weight more": (lambda c: c["network"].update(more=torch.zeros(1)), "other parts"),
    "a number as weight": (set_in("network", "prior", 3), "'prior' has another shape or type"),
    "a mean of another shape": (lambda c: c["reading"].update(feature_mean=torch.zeros(7)), "'feature_mean' has another shape"),
    "a feature less": (lambda c: c["features"].pop(), "features, labels or knots"),
    "a feature twice": (lambda c: c.update(features=[c["features"][0]] * len(c["features"])), "'features' are not names"),
    "a name with separators": (lambda c: c.update(features=["../a", *c["features"][1:]]), "'features' are not names"),
    "a number as name": (lambda c: c.update(tokens=[3, *c["tokens"][1:]]), "'tokens' are not names"),
    "another label": (set_in("labels", 0, 999), "labels are not those on its card"),
    "text as label": (set_in("labels", 0, "2"), "labels are not those on its card"),
    "a label more": (lambda c: c["labels"].append(999), "labels are not those on its card"),
    "no list": (set_in("features", None), "does not hold the tensors"),
    "no settings": (lambda c: c.pop("settings"), "it lacks 'settings'"),
    "unknown setting": (lambda c: c["settings"].update(code=1), "code"),
}  # fmt: skip
CONTENT |= {f"no {name}": (lambda c, name=name: c.pop(name), f"it lacks '{name}'") for name in ("network", "widths", "ood")}


@pytest.mark.parametrize("name", CONTENT)
def test_what_a_bundle_cannot_say_is_refused(copy: Path, name: str) -> None:
    change, message = CONTENT[name]
    refused(changed(copy, change), message)


@pytest.mark.parametrize("name", ["members", "pair_features", "structures", "basis", "width", "hidden_layers", "embedding"])
def test_sizes_are_compared_before_anything_is_allocated(copy: Path, name: str) -> None:
    for size in (10**12, 10**400, 0, -1, 2.5, True, "9", None):
        # A predictor may know no structure by its name, but these weights do.
        known = "not as many as its settings say" if name == "structures" and size == 0 else f"its setting {name} is "
        refused(changed(copy, set_in("settings", name, size)), known)


@pytest.mark.parametrize(("name", "size"), [("members", 90), ("width", 1900), ("embedding", 499), ("hidden_layers", 4)])
def test_a_network_is_not_made_for_weights_that_are_not_there(copy: Path, name: str, size: int) -> None:
    message = "other parts than its settings say" if name == "hidden_layers" else "another shape or type than its settings say"
    refused(changed(copy, set_in("settings", name, size)), message)


def repacked(model: bytes, change: Callable[[str, bytes], bytes | None], pack: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    """Write an archive again; `change` gives each member's new bytes, `more` are members to add."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(model)) as old, zipfile.ZipFile(stream, "w", pack) as new:
        for member in old.infolist():
            data = change(member.filename, old.read(member))
            if data is not None:
                new.writestr(member.filename, data)
        for name, data in more.items():
            new.writestr(name, data)
    return stream.getvalue()


def same(_: str, data: bytes) -> bytes:
    return data


def described(change: Callable[[bytes], bytes]) -> Callable[[str, bytes], bytes]:
    return lambda name, data: change(data) if name.endswith("/data.pkl") else data


ARCHIVES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a bomb": (lambda m: repacked(m, same, zipfile.ZIP_DEFLATED, **{"archive/data/99": bytes(10**7)}), "packed or locked"),
    "packed": (lambda m: repacked(m, same, zipfile.ZIP_DEFLATED), "packed or locked"),
    "many members": (lambda m: repacked(m, same, **{f"archive/data/m{n}": b"" for n in range(MOST_MEMBERS)}), "where at most"),
    "a way out": (lambda m: repacked(m, same, **{"archive/../../harm": b""}), "a member called"),
    "an absolute name": (lambda m: repacked(m, same, **{"/harm": b""}), "several folders|a member called"),
    "a backslash": (lambda m: repacked(m, same, **{"archive/..\\harm": b""}), "a member called"),
    "no description": (lambda m: repacked(m, lambda n, d: None if n.endswith("data.pkl") else d), "no description"),
    "a long description": (lambda m: repacked(m, described(lambda d: d + bytes(1_000_001))), "description is too long"),
    "no pickle": (lambda m: repacked(m, described(lambda d: b"nonsense")), "does not hold the tensors"),
    "a number taken away": (
        lambda m: repacked(m, lambda n, d: d[:-4] if n.endswith("data/0") else d), "another size or kind than its description"
    ),
    "a member taken away": (lambda m: repacked(m, lambda n, d: None if n.endswith("data/0") else d), "has another size or kind"),
    "no archive": (lambda m: b"PK\x03\x04" + bytes(2000), "does not hold the tensors"),
    "the archive's end": (lambda m: m[-22:], "does not hold the tensors"),
    "empty": (lambda m: b"", "does not hold the tensors"),
    "huge": (lambda m: bytes(MOST_BYTES + 1), "is longer than 50 MB"),
    "a comment": (lambda m: m[:-2] + b"\x02\x00hi", "before or behind"),
    "a preface": (lambda m: b"hi" + repacked(m, same), "before or behind"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_that_say_more_than_they_hold_are_refused(copy: Path, name: str) -> None:
    make, message = ARCHIVES[name]
    with_model(copy, make((copy / "model.pt").read_bytes()))
    with pytest.raises(InputError, match=message):
        load_bundle(copy)


def test_members_that_share_their_bytes_are_refused(copy: Path) -> None:
    """A central directory may name the same bytes again and again (Fifield, A better zip bomb, WOOT 2019)."""
    model = repacked((copy / "model.pt").read_bytes(), same)
    start = int.from_bytes(model[-6:-2], "little")
    count = int.from_bytes(model[-12:-10], "little")
    directory = model[start:-22]
    end = model[-22:-14] + (2 * count).to_bytes(2, "little") * 2 + (2 * len(directory)).to_bytes(4, "little") + model[-6:]
    other = directory.replace(b"/data/", b"/dat_/").replace(b"/data.pkl", b"/dat_.pkl")
    for n in b"/version", b"/byteorder", b"/.format_version", b"/.storage_alignment", b"serialization_id":
        other = other.replace(n, n[:-1] + b"_")
    with_model(copy, model[:start] + directory + other + end)
    refused(copy, "larger than the file")


HOSTILE = {
    "memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "long": b"\x80\x02\x8b\x10\x00\x00\x00" + b"\xff" * 16 + b".",
    "import": b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.",
    "stack import": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.",
    "numpy": b"\x80\x02cnumpy\nload\n.",
    "build": b"\x80\x02ccollections\nOrderedDict\n)R}b.",
    "new object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "next buffer": b"\x80\x05\x97.",
    "outside": pickle.dumps("x" * 50, protocol=5),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_description_that_would_act_is_refused_before_it_is_read(copy: Path, name: str) -> None:
    model = (copy / "model.pt").read_bytes()
    with_model(copy, repacked(model, described(lambda _: HOSTILE[name])))
    refused(copy, "its description ")


def test_a_tensor_that_reaches_beyond_its_numbers_is_refused(copy: Path) -> None:
    numbers = torch.zeros(40)
    for shape, stride, offset in (((4, 4), (1, 1), 0), ((10**6,), (0,), 0), ((40,), (1,), 1)):
        stand_in = torch.zeros(40)
        model = saved({"network": stand_in})
        data = _description_of(shape, stride, offset, numbers)
        with_model(copy, repacked(model, described(lambda _, data=data: data)))
        refused(copy, "reaches beyond its numbers" if shape != (4, 4) else "it lacks 'settings'")


def _description_of(shape: tuple[int, ...], stride: tuple[int, ...], offset: int, numbers: torch.Tensor) -> bytes:
    """Return the pickle of a table with one tensor of a shape that torch itself would not make."""

    class Pickler(pickle._Pickler):  # type: ignore[name-defined]
        def persistent_id(self, given: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", len(numbers)) if given is numbers else None

    class Tensor:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (numbers, offset, shape, stride, False, None)

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump({"network": Tensor()})
    return stream.getvalue()


CARDS: dict[str, tuple[Callable[[str], str], str]] = {
    "endless": (lambda text: text + " " * 3_000_000, "is longer than 2 MB"),
    "deep": (lambda text: "[" * 100_000, "card"),
    "deep in a field": (lambda text: text.replace('"training":', '"training":' + "[" * 5000 + "]" * 5000 + ',"x":'), "card"),
    "digits": (lambda text: text.replace('"pairs": ', '"pairs": ' + "9" * 5000), "card"),
    "10**400": (lambda text: text.replace('"low": ', '"low": 1' + "0" * 400 + ', "x": '), "card"),
    "NaN": (lambda text: text.replace('"low": ', '"low": NaN, "x": '), "card"),
    "no object": (lambda text: "3", "card"),
    "cut": (lambda text: text[:200], "card"),
}


@pytest.mark.parametrize("name", CARDS)
def test_cards_that_cannot_be_read_are_refused(copy: Path, name: str) -> None:
    change, message = CARDS[name]
    path = copy / "card.json"
    path.write_text(change(json.dumps(json.loads(path.read_text(encoding="utf-8")))))
    refused(copy, message)


def range_of(**changed: Any) -> Callable[[dict[str, Any]], None]:
    return lambda card: card["space"]["parameters"][0].update(changed)


def second_parameter(card: dict[str, Any]) -> None:
    card["space"]["parameters"].append(card["space"]["parameters"][0] | {"name": "more"})
    card["fixed"]["more"] = 1.0


FIELDS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "range turned round": (range_of(low=1e9), "is none on its scale"),
    "range from zero": (range_of(low=0.0), "is none on its scale"),
    "infinite range": (range_of(high=1e999), "card"),
    "text as number": (range_of(low="0.4"), "should be a number"),
    "default beyond": (range_of(default=1e6), "lies outside of"),
    "unknown scale": (range_of(scale="cubic"), "must be one of"),
    "no parameter": (lambda card: card["space"].update(parameters=[]), "at least one parameter"),
    "two parameters": (second_parameter, "curves run over other parameters than its card names"),
    "fixed setting of another parameter": (lambda card: card.update(fixed={"more": 1.0}), "a fixed setting"),
    "fixed setting beyond": (lambda card: card["fixed"].update(regularization_weight=-1.0), "a fixed setting"),
    "label in letters": (lambda card: card.update(structures={"two": "x", "17": "y"}), "label values"),
    "label in other digits": (lambda card: card.update(structures={"²": "x", "17": "y"}), "label values"),
    "long label": (lambda card: card.update(structures={"2" * 5000: "x"}), "label values"),
    "long name": (lambda card: card.update(name="n" * 5000), "a text"),
    "two lines": (lambda card: card.update(name="a\nb"), "a text"),
    "no checksum": (lambda card: card.update(model_sha256="../model"), "a checksum"),
    "NaN assumed": (lambda card: card.update(assumed={"label_noise_mm": NAN}), "card"),
    "an alignment of text": (lambda card: card.update(alignment="fast"), "should be an object"),
    "another format": (lambda card: card.update(format=4), "format 4"),
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_cards_that_say_what_cannot_be_are_refused(copy: Path, name: str) -> None:
    change, message = FIELDS[name]
    path = copy / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    change(card)
    path.write_text(json.dumps(card))
    refused(copy, message)


@pytest.mark.skipif(os.name != "posix", reason="makes pipes and devices")
@pytest.mark.parametrize("name", ["card.json", "model.pt"])
def test_pipes_devices_and_links_that_lead_nowhere_are_refused(copy: Path, name: str) -> None:
    for make in (
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("gone"),
        Path.mkdir,
    ):
        (copy / name).unlink() if not (copy / name).is_dir() else (copy / name).rmdir()
        make(copy / name)
        refused(copy, "is no predictor")


@pytest.mark.skipif(os.name != "posix", reason="makes pipes")
def test_small_files_are_read_no_further_than_they_may_be(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b"x" * 101)
    wrong = {"link": "device or a pipe", "pipe": "device or a pipe", "long": "is longer than", "gone": "could not be read"}
    for name, message in wrong.items():
        with pytest.raises(InputError, match=message):
            read_text(tmp_path / name, "card", 100)
    assert read_text(tmp_path / "long", "card", 101) == "x" * 101


def test_the_bundle_that_comes_with_us_is_what_it_should_be(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    assert loaded.card == read_card(bundle)
    assert loaded.ood.precision.shape == (len(loaded.ood.features),) * 2
    assert all(not parameter.is_meta for parameter in loaded.ensemble.network.parameters())


def test_a_bundle_is_loaded_without_drawing_random_numbers(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # On the device without memory that its network is made on, each would load torch's compiler, which takes seconds.
    monkeypatch.setattr(torch, "randn", None)
    for name in ("uniform_", "normal_"):
        monkeypatch.setattr(torch.Tensor, name, None)
    load_bundle(bundle)
