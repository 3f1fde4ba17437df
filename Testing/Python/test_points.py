"""Point files as users have them: right places, nothing lost when written again, and a sentence for what is not clear."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.spatial import points
from HyperPredictRegLib.spatial.points import read_point_file, read_points

LPS = [[10.0, 20.0, -5.0], [-8.0, 3.0, 4.0]]
FCSV = "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n"
FCSV_COLUMNS = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"


def markups(point: dict[str, Any] | None = None, **changes: Any) -> str:
    control = {"id": "7", "label": "AC", "description": "front", "position": [1, 2, 3]} | (point or {})
    return json.dumps({"markups": [{"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": [control]} | changes]})


def written(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


TABLES = {
    "x, y, z": "x,y,z\n10,20,-5\n-8,3,4\n",
    "other order, more columns": "name,z,y,x\ntip,-5,20,10\nend,4,3,-8\n",
    "no header": "10,20,-5\n-8,3,4\n",
    "numbered from 1": "1,10,20,-5\n2,-8,3,4\n",
    "numbered from 0": "0,10,20,-5\n1,-8,3,4\n",
    "numbered behind": "10,20,-5,1\n-8,3,4,2\n",
    "named, no header": "AC,10,20,-5\nPC,-8,3,4\n",
    "numbered and named": "1,10,20,-5,AC\n2,-8,3,4,PC\n",
    "l, p, s": "label,l,p,s,defined\nAC,10,20,-5,1\nPC,-8,3,4,1\n",
    "r, a, s": "label,r,a,s,defined\nAC,-10,-20,-5,1\nPC,8,-3,4,1\n",
    "not placed": "label,l,p,s,defined\nAC,10,20,-5,1\nnone,0,0,0,0\nPC,-8,3,4,1\n",
    "byte order mark": "\ufeffx,y,z\n10,20,-5\n-8,3,4\n",
    "semicolons": "x;y;z\n10;20;-5\n-8;3;4\n",
    "tabs": "x\ty\tz\n10\t20\t-5\n-8\t3\t4\n",
    "Windows": "x,y,z\r\n10,20,-5\r\n\r\n-8,3,4\r\n",
    "old Mac": "x,y,z\r10,20,-5\r-8,3,4\r",
    "quotes": '"name","x","y","z"\n"A, b","10","20","-5"\n"C\nd","-8","3","4"\n',
    "stated in a comment": "# CoordinateSystem = RAS\nx,y,z\n-10,-20,-5\n8,-3,4\n",
    "exponents": "x,y,z\n1e1,+20.,-.5E1\n-8,3,4\n",
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES.keys())
def test_tables_are_read_as_what_they_are_and_come_back_the_same(tmp_path: Path, text: str) -> None:
    found = read_point_file(written(tmp_path, "points.csv", text), "points")
    np.testing.assert_array_equal(found.points, LPS)
    moved = found.points + np.array([0.5, -0.25, 100.0])
    again = read_point_file(written(tmp_path, "again.csv", found.rewritten(moved)), "points")
    np.testing.assert_array_equal(again.points, moved)
    # With the old places, all but how numbers are written is as it was.
    assert len(found.rewritten(found.points).splitlines()) == len(text.rstrip().splitlines())
    for word in ("AC", "tip", "A, b", "none,0,0,0,0", "label,r,a,s,defined", "# CoordinateSystem = RAS", "\ufeff"):
        assert (word in found.rewritten(moved)) == (word in text)


UNCLEAR_TABLES = {
    "four columns": "10,20,-5,7\n-8,3,4,7\n",
    "one row of four": "1,10,20,-5\n",
    "counting at both ends": "1,10,20,1\n2,-8,3,2\n",
    "five columns": "1,10,20,-5,0\n2,-8,3,4,0\n",
    "apart": "10,AC,20,-5\n-8,PC,3,4\n",
    "unknown names": "px,py,pz\n1,2,3\n",
    "two systems": "x,y,z,r,a,s\n1,2,3,-1,-2,3\n",
    "LPS and RAS": "l,p,r,a,s\n1,2,-1,-2,3\n",
    "a name twice": "x,y,z,x\n1,2,3,4\n",
    "contradiction": "# CoordinateSystem = RAS\nl,p,s\n1,2,3\n",
    "unknown system": "# CoordinateSystem = IJK\nx,y,z\n1,2,3\n",
    "rows of all lengths": "1,2,3\n4,5\n",
    "a short row": "x,y,z\n1,2,3\n4,5\n",
    "decimal commas": "x;y;z\n1,5;2,5;3,5\n",
    "spaces": "1 2 3\n4 5 6\n",
    "NaN": "x,y,z\n1,nan,3\n",
    "infinite": "x,y,z\n1,inf,3\n",
    "larger than any number": "x,y,z\n1,1e400,3\n",
    "absurd": "x,y,z\n1,1e300,3\n",
    "5,000 digits": f"x,y,z\n1,{'9' * 5000},3\n",
    "superscript": "x,y,z\n1,²,3\n",
    "underscore": "x,y,z\n1,1_000,3\n",
    "other digits": "x,y,z\n1,١,3\n",
    "empty field": "x,y,z\n1,,3\n",
    "unknown status": "x,y,z,defined\n1,2,3,perhaps\n",
    "long field": f"x,y,z,name\n1,2,3,{'a' * 200_000}\n",
    "NUL": "x,y,z\n1,2\0,3\n",
    "empty": "\n",
    "one blank line": "\n",
}


@pytest.mark.parametrize("text", UNCLEAR_TABLES.values(), ids=UNCLEAR_TABLES.keys())
def test_tables_that_are_not_clear_are_refused_with_a_sentence(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, "points.csv", text)
    with pytest.raises(InputError, match=r"The points '.*' could not be read as points: .*\.$") as caught:
        read_points(path, "points")
    assert len(str(caught.value)) < 600


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no such files")
@pytest.mark.parametrize("name", ["points.csv", "points.fcsv", "points.mrk.json"])
def test_a_pipe_and_an_endless_file_are_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="is a named pipe, not a file"):
        read_points(tmp_path / name, "points")
    (tmp_path / name).unlink()
    with (tmp_path / name).open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(InputError, match="is longer than 50 MB"):
        read_points(tmp_path / name, "points")


def test_more_points_than_there_is_memory_for_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "points.csv", "x,y,z\n1,2,3\n")
    monkeypatch.setattr(points, "available_bytes", lambda: 1000.0)
    with pytest.raises(InputError, match=r"could need .* GB of memory, but only .* GB are free"):
        read_points(path, "points")
    monkeypatch.setattr(points, "available_bytes", lambda: None)
    assert len(read_points(path, "points")) == 1
    monkeypatch.setattr(points, "_MOST_LINES", 1)
    with pytest.raises(InputError, match="has more than 1 lines"):
        read_points(path, "points")


@pytest.mark.parametrize("content", ["x,y,z\n1,2,3".encode("utf-16"), "x,y,z,Größe\n1,2,3,4".encode("latin-1"), b"\xff\xfe\x00"])
@pytest.mark.parametrize("name", ["points.csv", "points.fcsv", "points.mrk.json"])
def test_other_encodings_are_refused_with_a_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(InputError, match="could not be read as points"):
        read_points(written(tmp_path, name, content), "points")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "nothing.csv").touch()
    told = {"folder.csv": "is a folder", "absent.csv": "does not exist", "a\0b.csv": "NUL", "nothing.csv": r"empty \(0 bytes\)"}
    for name, message in told.items():
        with pytest.raises(InputError, match=message):
            read_points(tmp_path / name, "points")


@pytest.mark.parametrize(("system", "sign"), [("LPS", 1), ("RAS", -1), ("0", -1), ("1", 1), (0, -1), (1, 1), ("ras", -1)])
def test_coordinate_systems_of_markups(tmp_path: Path, system: object, sign: int) -> None:
    found = read_point_file(written(tmp_path, "points.mrk.json", markups(coordinateSystem=system)), "points")
    np.testing.assert_array_equal(found.points, [[sign * 1, sign * 2, 3]])
    again = json.loads(found.rewritten(found.points + 1))["markups"][0]
    assert again["coordinateSystem"] == system
    assert again["controlPoints"][0]["position"] == [1 + sign, 2 + sign, 4]


@pytest.mark.parametrize(("unit", "mm"), [("m", 1000), ("cm", 10), ("mm", 1), ("um", 1e-3), ("µm", 1e-3), ("nm", 1e-6)])
def test_units_of_markups_are_converted_and_kept(tmp_path: Path, unit: str, mm: float) -> None:
    found = read_point_file(written(tmp_path, "points.mrk.json", markups(coordinateUnits=unit)), "points")
    np.testing.assert_allclose(found.points, np.array([[1, 2, 3]]) * mm, rtol=1e-12)
    again = json.loads(found.rewritten(found.points + mm))["markups"][0]
    assert again["coordinateUnits"] == unit
    np.testing.assert_allclose(again["controlPoints"][0]["position"], [2, 3, 4], rtol=1e-12)


def test_all_that_markups_say_of_points_survives(tmp_path: Path) -> None:
    orientation = [-1.0, -0.0, -0.0, -0.0, -1.0, -0.0, 0.0, 0.0, 1.0]
    point = {"label": "Ä\ud800", "orientation": orientation, "selected": False, "locked": True, "visibility": False, "own": [1]}
    unplaced = {"id": "8", "label": "B", "position": "", "positionStatus": "undefined"}
    first = json.loads(markups(point | {"positionStatus": "defined"}, display={"color": [1, 0, 0]}, labelFormat="%N"))
    first["markups"][0]["controlPoints"].append(unplaced)
    line = json.loads(markups(type="Line", coordinateSystem="RAS"))["markups"][0]
    line["measurements"] = [{"name": "length", "enabled": True, "value": 7.0, "units": "mm"}, {"name": "dose", "value": 3}]
    first["markups"].append(line)
    first["@schema"] = "kept"
    found = read_point_file(written(tmp_path, "points.mrk.json", json.dumps(first)), "points")
    np.testing.assert_array_equal(found.points, [[1, 2, 3], [-1, -2, 3]])
    assert (found.lists, found.without_position) == (2, 1)
    again = json.loads(found.rewritten(np.array([[4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])))
    expected = first
    expected["markups"][0]["controlPoints"][0]["position"] = [4, 5, 6]
    expected["markups"][1]["controlPoints"][0]["position"] = [-7, -8, 9]
    # The line has another length now.
    del expected["markups"][1]["measurements"][0]["value"]
    assert again == expected
    # As landmarks, it would not be known which of them belong together.
    for text in (json.dumps(first), json.dumps({"markups": first["markups"][:1]})):
        with pytest.raises(InputError, match=r"lists|no position"):
            read_points(written(tmp_path, "landmarks.mrk.json", text), "fixed landmarks")


@pytest.mark.parametrize("kind", ["Fiducial", "Line", "Angle", "Curve", "ClosedCurve"])
def test_lists_of_points_of_all_kinds_keep_their_kind(tmp_path: Path, kind: str) -> None:
    found = read_point_file(written(tmp_path, "points.mrk.json", markups(type=kind)), "points")
    assert json.loads(found.rewritten(found.points))["markups"][0]["type"] == kind


DEEP = '{"markups":' + "[" * 10_000 + "]" * 10_000 + "}"
WRONG_MARKUPS = {
    "plane": (markups(type="Plane"), "a plane"),
    "ROI": (markups(type="ROI"), r"a box \(ROI\)"),
    "unknown type": (markups(type="Vessel"), "Vessel"),
    "unknown system": (markups(coordinateSystem="XYZ"), "XYZ"),
    "no system": (markups(coordinateSystem=None), "coordinate system"),
    "true": (markups(coordinateSystem=True), "coordinate system"),
    "unknown unit": (markups(coordinateUnits="inch"), "inch"),
    "six numbers": (markups({"position": [1, 2, 3, 4, 5, 6]}), "three numbers"),
    "two numbers": (markups({"position": [1, 2]}), "three numbers"),
    "words": (markups({"position": ["1", "2", "3"]}), "three numbers"),
    "truth": (markups({"position": [1, 2, True]}), "three numbers"),
    "nested": (markups({"position": [[1, 2, 3]]}), "three numbers"),
    "no position": (markups({"position": None}), "three numbers"),
    "NaN": (markups({"position": [1, 2, float("nan")]}), "NaN"),
    "infinite": (markups({"position": [1, 2, float("inf")]}), "infinite"),
    "400 digits": (markups({"position": [1, 2, 10**400]}), "absurdly large"),
    "5,000 digits": (markups({"position": [1, 2, 3]}).replace("3]", "9" * 5000 + "]"), "not valid JSON"),
    "too far in meters": (markups({"position": [1, 2, 1e11]}, coordinateUnits="m"), "absurdly large"),
    "unknown status": (markups({"positionStatus": "lost"}), "lost"),
    "points that are none": (markups(controlPoints=[1, 2]), "no list of points"),
    "no list": ('{"markups": {}}', "no list 'markups'"),
    "empty list": ('{"markups": []}', "no list 'markups'"),
    "a list": ("[1, 2]", "no list 'markups'"),
    "no JSON": ("{markups", "not valid JSON"),
    "deep": (DEEP, "could not be read as points"),
    "NUL": ('{"markups": "\0"}', "NUL"),
}


@pytest.mark.parametrize(("text", "reason"), WRONG_MARKUPS.values(), ids=WRONG_MARKUPS.keys())
def test_markups_that_are_not_clear_are_refused_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        read_point_file(written(tmp_path, "points.mrk.json", text), "points")
    assert str(caught.value).startswith("The points '")


def test_fcsv_keeps_its_columns_its_system_and_what_is_not_placed(tmp_path: Path) -> None:
    rows = '1,10,20,-5,0,0,0,1,1,1,0,"a,""b""",d e,,2,0\n2,1,1,1,0,0,0,1,1,1,0,F-2,,,0,0\n3,-8,3,4,0,0,0,1,1,1,0,F-3,,,2,0\n'
    found = read_point_file(written(tmp_path, "points.fcsv", FCSV + FCSV_COLUMNS + rows), "points")
    np.testing.assert_array_equal(found.points, LPS)
    text = found.rewritten(found.points + 1)
    expected = rows.replace("10,20,-5", "11.0,21.0,-4.0").replace("-8,3,4", "-7.0,4.0,5.0")
    assert text == FCSV + FCSV_COLUMNS + expected


@pytest.mark.parametrize(("system", "sign"), [("0", -1), ("1", 1), ("RAS", -1), ("LPS", 1), (None, -1)])
def test_fcsv_of_all_ages_and_with_columns_of_its_own(tmp_path: Path, system: str | None, sign: int) -> None:
    stated = "" if system is None else f"# CoordinateSystem = {system}\n"
    text = f"# Fiducial List file x\n{stated}#columns = label,z,y,x,sel,vis\nF,3,2,1,1,1\n"
    found = read_point_file(written(tmp_path, "old.fcsv", text), "points")
    np.testing.assert_array_equal(found.points, [[sign * 1, sign * 2, 3]])
    assert "F,4.0,2.0,1.0,1,1" in found.rewritten(found.points + np.array([0, 0, 1]))


@pytest.mark.parametrize(
    "text",
    ["# CoordinateSystem = IJK\n1,1,2,3\n", "# columns = id,l,p,s\n1,1,2,3\n", FCSV + "# CoordinateSystem = RAS\n1,1,2,3\n",
     FCSV + "1,1,2\n", FCSV + FCSV_COLUMNS + "1,1,2,3,0,0,0,1,1,1,0,F,,,²,0\n"],
)  # fmt: skip
def test_fcsv_that_is_not_clear_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="could not be read as points"):
        read_points(written(tmp_path, "points.fcsv", text), "points")


def test_lists_without_points_can_be_written_again_but_are_no_landmarks(tmp_path: Path) -> None:
    for name, text in (("a.mrk.json", markups(controlPoints=[])), ("a.csv", "x,y,z\n"), ("a.fcsv", FCSV)):
        path = written(tmp_path, name, text)
        found = read_point_file(path, "points")
        assert found.points.shape == (0, 3) and found.rewritten(found.points)
        with pytest.raises(InputError, match="holds no points"):
            read_points(path, "points")


def test_slicers_own_table_of_points(tmp_path: Path) -> None:
    slicer = pytest.importorskip("slicer", reason="needs slicer-core or Slicer")
    node = slicer.vtkMRMLScene().AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    for place in LPS:
        node.AddControlPoint(-place[0], -place[1], place[2])
    logic = slicer.vtkSlicerMarkupsLogic()
    for in_lps in (True, False):
        logic.ExportControlPointsToCSV(node, str(tmp_path / "table.csv"), in_lps)
        np.testing.assert_array_equal(read_points(tmp_path / "table.csv", "points"), LPS)
