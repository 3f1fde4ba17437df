"""Register two different people whose brains experts have labeled, and see how well the labels agree.

Run it with `make demo-real`. The data (brain-t1-nmm: OASIS-1 scans, Neuromorphometrics labels, CC BY-NC) is not part of this
repository: set HYPERPREDICTREG_DATA to the folder that holds it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from HyperPredictRegLib.cli import app

REPOSITORY = Path(__file__).resolve().parents[1]
OUT = Path("demo-real-output")
NAMES = {
    2: "left white matter", 3: "left cortex", 4: "left lateral ventricle", 7: "left cerebellar white matter",
    8: "left cerebellar cortex", 10: "left thalamus", 11: "left caudate", 12: "left putamen", 13: "left pallidum",
    14: "third ventricle", 15: "fourth ventricle", 16: "brain stem", 17: "left hippocampus", 18: "left amygdala", 24: "CSF",
    26: "left accumbens", 28: "left ventral diencephalon", 41: "right white matter", 42: "right cortex",
    43: "right lateral ventricle", 46: "right cerebellar white matter", 47: "right cerebellar cortex", 49: "right thalamus",
    50: "right caudate", 51: "right putamen", 52: "right pallidum", 53: "right hippocampus", 54: "right amygdala",
    58: "right accumbens", 60: "right ventral diencephalon", 5: "left inferior lateral ventricle",
    44: "right inferior lateral ventricle", 85: "optic chiasm",
}  # fmt: skip


def main() -> int:
    """Run the command on the pair and say where its results are."""
    data = Path(os.environ.get("HYPERPREDICTREG_DATA", REPOSITORY.parent / "shared" / "data")) / "brain-t1-nmm"
    if not data.is_dir():
        print(f"There is no '{data}': set HYPERPREDICTREG_DATA to the folder that holds brain-t1-nmm.", file=sys.stderr)
        return 2
    OUT.mkdir(exist_ok=True)
    names = OUT / "names.csv"
    names.write_text("label,name\n" + "".join(f"{label},{name}\n" for label, name in NAMES.items()))
    fixed, moving = data / "nmm_1011", data / "nmm_1036"
    command = ["register", f"{fixed}_t1.nii.gz", f"{moving}_t1.nii.gz", "--out", str(OUT / "result"), "--overwrite"]
    command += ["--fixed-labels", f"{fixed}_aseg.nii.gz", "--moving-labels", f"{moving}_aseg.nii.gz"]
    command += ["--label-names", str(names), "--scene", "scene.mrb"]
    app(command, standalone_mode=False)
    print(f"\nOpen {OUT / 'result' / 'report.html'} in a browser, and {OUT / 'result' / 'scene.mrb'} in 3D Slicer.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
