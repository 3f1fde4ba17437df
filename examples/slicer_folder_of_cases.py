"""Register a folder of cases inside Slicer, without its window.

    Slicer --no-splash --no-main-window --python-script examples/slicer_folder_of_cases.py CASES RESULTS

CASES holds one folder for each case, with a volume called `fixed` and one called `moving` (.nrrd, .nii.gz or .mha) and, if you
have them, segmentations called `fixed.seg.nrrd` and `moving.seg.nrrd`. RESULTS/CASE gets the transform, the warped volume, the
propagated segmentation and the report; RESULTS/cases.jsonl gets one line for each case. Run it again to go on where it stopped:
cases that are done are left alone, cases that failed are tried anew. The exit code is 1 if a case failed.
"""

import json
import shutil
import sys
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


def register(folder, target):
    """Register one case, write its results to `target`, all of them or none, and return what to note of it."""
    from HyperPredictRegLib.slicerbridge.provenance import read_report_node

    from HyperPredictReg import HyperPredictRegLogic

    slicer.mrmlScene.Clear()
    volumes = [slicer.util.loadVolume(str(volume_file(folder, role))) for role in ("fixed", "moving")]
    files = {role: folder / f"{role}.seg.nrrd" for role in ("fixed", "moving")}
    segmentations = {
        role: slicer.util.loadSegmentation(str(file)) if file.is_file() else None for role, file in files.items()
    }
    nodes = HyperPredictRegLogic().process(
        *volumes, segmentations["moving"], fixedSegmentation=segmentations["fixed"], **OPTIONS
    )
    draft = target.with_name(target.name + ".partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    saved = {"transform.h5": nodes.transform, "warped.nrrd": nodes.warped, "propagated.seg.nrrd": nodes.propagated_segmentation}
    for name, node in saved.items():
        if node is not None and not slicer.util.saveNode(node, str(draft / name)):
            raise OSError(f"'{name}' could not be written to '{draft}'.")
    (draft / "report.json").write_text(nodes.report.GetText(), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    report = read_report_node(nodes.report)
    dice = report.measured.dice
    return {
        "lambda": report.hyperparameters,
        "folding_percent": report.measured.folding_percent.foreground,
        "dice": None if dice is None else dice.mean,
        "light": None if report.verdict is None else report.verdict.light,
        "warnings": list(report.warnings),
    }


def noted(file):
    """Return the last note on each case by its name; a line that was cut off by a crash does not count."""
    notes = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            note = json.loads(line)
        except ValueError:
            continue
        notes[note["case"]] = note
    return notes


def main(cases, results):
    """Register every case that is not done yet; return how many failed."""
    results.mkdir(parents=True, exist_ok=True)
    journal = results / "cases.jsonl"
    earlier = noted(journal)
    if journal.is_file() and not journal.read_bytes().endswith(b"\n"):
        # The last line was cut off: the next one must not become part of it.
        with journal.open("a", encoding="utf-8") as stream:
            stream.write("\n")
    failed = 0
    for folder in sorted(path for path in cases.iterdir() if path.is_dir()):
        if earlier.get(folder.name, {}).get("done") and (results / folder.name / "report.json").is_file():
            continue
        started = time.time()
        try:
            note = {"case": folder.name, "done": True, **register(folder, results / folder.name)}
        # One bad case must not cost the others: whatever it is, it is noted, and the next one begins.
        except Exception as error:
            failed += 1
            note = {"case": folder.name, "done": False, "error": str(error)}
        note["seconds"] = round(time.time() - started, 1)
        with journal.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(note, ensure_ascii=False) + "\n")
        print(json.dumps(note, ensure_ascii=False), flush=True)
    return failed


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(__doc__)
        slicer.util.exit(2)
    else:
        slicer.util.exit(1 if main(Path(sys.argv[1]), Path(sys.argv[2])) else 0)
