"""Register a folder of cases inside Slicer, without its window.

    Slicer --no-splash --no-main-window --python-script examples/slicer_folder_of_cases.py CASES RESULTS

CASES holds one folder for each case, with a volume called `fixed` and one called `moving` (.nrrd, .nii.gz or .mha) and, if you
have them, segmentations called `fixed.seg.nrrd` and `moving.seg.nrrd`. RESULTS/CASE gets the transform, the warped volume, the
propagated segmentation and the report; RESULTS/cases.jsonl gets one line for each case. Run it again to go on where it stopped:
cases that are done are left alone, cases that failed are tried anew.

Nothing that is there already is changed or removed. A folder RESULTS/CASE with a report counts as done, any other is an error:
move it away to have the case registered. If it is killed while it writes, a folder RESULTS/unfinished-... may be left; remove
it if you like. The exit code is 1 if a case failed, and 2 if the two folders cannot be used.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import slicer

OPTIONS = {"preset": "fast", "seed": 20240901}
ENDINGS = (".nrrd", ".nii.gz", ".nii", ".mha")


def volume_file(folder, role):
    """Return the file of the fixed or the moving volume."""
    for ending in ENDINGS:
        if (folder / (role + ending)).is_file():
            return folder / (role + ending)
    raise ValueError(f"There is no volume called '{role}' in '{folder}'.")


def register(folder, results):
    """Register one case, write its results to a new folder in `results`, all of them or none, and return the report."""
    from HyperPredictRegLib.slicerbridge.provenance import read_report_node

    from HyperPredictReg import HyperPredictRegLogic

    slicer.mrmlScene.Clear()
    volumes = [slicer.util.loadVolume(str(volume_file(folder, role))) for role in ("fixed", "moving")]
    files = {role: folder / f"{role}.seg.nrrd" for role in ("fixed", "moving")}
    segmentations = {role: slicer.util.loadSegmentation(str(file)) if file.is_file() else None for role, file in files.items()}
    nodes = HyperPredictRegLogic().process(*volumes, segmentations["moving"], fixedSegmentation=segmentations["fixed"], **OPTIONS)
    report = read_report_node(nodes.report)
    saved = {"transform.h5": nodes.transform, "warped.nrrd": nodes.warped, "propagated.seg.nrrd": nodes.propagated_segmentation}
    # Removed in the end with all that is in it: only a folder that nobody else has made may be.
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=results) as stage:
        draft = Path(stage) / folder.name
        draft.mkdir()
        for name, node in saved.items():
            if node is not None and not slicer.util.saveNode(node, str(draft / name)):
                raise OSError(f"'{name}' could not be written to '{draft}'.")
        (draft / "report.json").write_text(nodes.report.GetText(), encoding="utf-8")
        draft.rename(results / folder.name)
    return report


def earlier_report(target):
    """Return the report in a case's folder of results."""
    from HyperPredictRegLib.core.json_records import from_json
    from HyperPredictRegLib.results.report import Report

    file = target / "report.json"
    try:
        return from_json(Report, file.read_text(encoding="utf-8"), f"'{file}'")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"'{target}' is there already, but without the report of a registration: move it away to have this case registered."
        ) from error


def note_of(report):
    """Return what to note of a case that is done."""
    dice = report.measured.dice
    return {
        "setting": report.setting,
        "folding_percent": report.measured.folding_percent.foreground,
        "dice": None if dice is None else dice.mean,
        "reliability": None if report.reliability is None else report.reliability.level,
        "warnings": list(report.warnings),
    }


def noted(file):
    """Return the last note on each case by its name; a line that is damaged, by a crash for example, does not count."""
    notes = {}
    for line in file.read_bytes().splitlines():
        try:
            note = json.loads(line.decode("utf-8"))
        except ValueError:
            continue
        if isinstance(note, dict) and isinstance(note.get("case"), str):
            notes[note["case"]] = note
    return notes


def lies_in(inner, outer):
    """Tell whether a folder is another one or lies in it, by whatever links and names they are called."""
    inner = inner.resolve()
    return outer.exists() and any(path.exists() and path.samefile(outer) for path in (inner, *inner.parents))


def journal_in(results, cases):
    """Return the file of notes in `results`, made if need be."""
    if not cases.is_dir():
        raise ValueError(f"There is no folder '{cases}' to take cases from.")
    if lies_in(results, cases) or lies_in(cases, results):
        raise ValueError(f"'{cases}' and '{results}' are the same folder or one lies in the other: choose another for results.")
    journal = results / "cases.jsonl"
    try:
        results.mkdir(parents=True, exist_ok=True)
        with journal.open("ab") as stream:
            # A last line that was cut off: the next one must not become part of it.
            if stream.tell() and not journal.read_bytes().endswith(b"\n"):
                stream.write(b"\n")
    except OSError as error:
        raise ValueError(f"Results cannot be written to '{results}' ({error}): choose another folder.") from error
    return journal


def main(cases, results):
    """Register every case that is not done yet; return how many failed."""
    journal = journal_in(results, cases)
    earlier = noted(journal)
    failed = 0
    for folder in sorted(path for path in cases.iterdir() if path.is_dir()):
        target = results / folder.name
        if earlier.get(folder.name, {}).get("done") and (target / "report.json").is_file():
            continue
        started = time.time()
        try:
            report = earlier_report(target) if os.path.lexists(target) else register(folder, results)
            note = {"case": folder.name, "done": True, **note_of(report)}
        # One bad case must not cost the others: whatever it is, it is noted, and the next one begins.
        except Exception as error:
            failed += 1
            note = {"case": folder.name, "done": False, "error": str(error)}
        note["seconds"] = round(time.time() - started, 1)
        with journal.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(note) + "\n")
        print(json.dumps(note), flush=True)
    return failed


def command(arguments):
    """Do what the command line asks; return the exit code."""
    if len(arguments) != 2:
        print(__doc__)
        return 2
    try:
        return 1 if main(*map(Path, arguments)) else 0
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    code = 1
    try:
        code = command(sys.argv[1:])
    finally:
        # Whatever happens: without a window, Slicer would wait for ever.
        slicer.util.exit(code)
