"""A small made-up outcome for the tests of the reporting, and the checks that every page must pass."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.core.search_space import Parameter, SearchSpace
from HyperPredictRegLib.core.trace import LevelTrace
from HyperPredictRegLib.quality.metrics import jacobian_determinant
from HyperPredictRegLib.reporting import report_page
from HyperPredictRegLib.reporting.page import Picture
from HyperPredictRegLib.results.job import Criterion, EngineUsed, Job
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.results.prediction import (
    BOOTSTRAP,
    Band,
    BandValue,
    Choice,
    Outlook,
    Prediction,
    PredictionSurface,
    Reliability,
)
from HyperPredictRegLib.results.report import (
    AlignmentUsed,
    DiceMeasure,
    Distances,
    FoldingPercent,
    GridUsed,
    InputUsed,
    Measured,
    Report,
    StructureMeasure,
    Trial,
)
from HyperPredictRegLib.selection import choose, per_structure, predict_at
from HyperPredictRegLib.selection.comparison import compared, predicted_at
from HyperPredictRegLib.spatial.geometry import Geometry
from PIL import Image

PICTURES = {
    "overlay_picture": "overlay.png",
    "checkerboard_picture": "checkerboard.png",
    "jacobian_picture": "jacobian.png",
    "deformed_grid_picture": "deformed_grid.png",
    "outlines_picture": "outlines.png",
    "trace_picture": "trace.png",
}
WEIGHT = Parameter(
    "regularization_weight", "λ", "voxels", "log", 0.1, 10.0, 1.0, "up", "Regularization weight", "Larger is smoother."
)
SPACE = SearchSpace((WEIGHT,))
STEP = Parameter("step", "s", "mm", "linear", -2.0, 6.0, 1.0, "down", "Step length", "Larger steps deform more.")
"""A parameter that is unlike λ in all: linear, partly negative, and less regularized where it is larger."""
NASTY = "<b>&\"'"


def rotation(axis: int, degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.eye(3)
    a, b = [n for n in range(3) if n != axis]
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


OBLIQUE = tuple((rotation(2, 12.0) @ rotation(0, -7.0) @ np.diag([-1.0, -1.0, 1.0])).ravel())
SIGNED_PERMUTATIONS = [
    np.eye(3)[:, order] * np.array(signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1.0, -1.0), repeat=3)
]


def level(
    stage: str = "deformable", number: int = 0, values: tuple[float, ...] = (3.0, 2.0, 1.5), **changes: object
) -> LevelTrace:
    parts = {
        "stage": stage, "level": number, "shrink_factor": float(2 ** (1 - number)), "smoothing_sigma_mm": 4.0,
        "metric": "mean squares", "values": values, "end_value": 1.4, "iteration_limit": 20,
        "stop_reason": "Convergence checker passed at iteration 3.", "seconds": 0.5,
    }
    return LevelTrace(**{**parts, **changes})


def structure(label: int, name: str, dice: float, before: float = 0.4, hd95: float | None = 3.21) -> StructureMeasure:
    return StructureMeasure(label, name, dice, before, hd95, 0.87, 12.5, 13.5)


def make_report(geometry: Geometry, alignment: np.ndarray) -> Report:
    zero = Distances(0.21, 0.6, 1.9)
    return Report(
        job=Job(
            fixed="data/fixed scan.nii.gz", moving="C:\\data\\moving.nrrd", out="out", seed=4711,
            fixed_labels="f.nrrd", moving_labels="m.nrrd", engine="demons",
        ),
        engine=EngineUsed("demons", "1", "Demons", SPACE, {"iterations": [30, 20]}, "0123456789abcdef"),
        setting={"regularization_weight": 1.5},
        inputs=(InputUsed("fixed", "data/fixed scan.nii.gz", geometry.size, geometry.spacing, "ab" * 32),),
        working_grid=GridUsed(geometry.size, geometry.spacing, geometry.origin, geometry.direction),
        alignment=AlignmentUsed({}, "mutual information", (level("affine", 0), level("affine", 1)), tuple(alignment.ravel()), 2),
        registration=(
            level(number=0),
            level(number=1, values=tuple(np.linspace(2, 1, 20)), stop_reason="maximum number of iterations"),
        ),
        measured=Measured(
            FoldingPercent(0.25, 0.1), 0.3, -0.2, 3.1, zero, Distances(4.0, 9.0, 12.0), 0.61, 0.93,
            DiceMeasure(0.75, 0.45, (structure(1, "shell", 0.9), structure(2, "core", 0.6)), ("absentee",)),
        ),
        seconds={"alignment": 1.0, "registration": 2.5},
        peak_memory_mb=321.0,
        warnings=("The moving image is coarser than the fixed one.",),
        versions={"SimpleITK": "2.5.7"},
        outputs={"warped": "warped.nii.gz"},
        choice=Choice({"regularization_weight": 1.5}, "λ = 1.5 was given.", by="user"),
    )


def make_outcome(direction: tuple[float, ...] = OBLIQUE) -> Outcome:
    """Two nested ellipsoids, deformed by a known smooth displacement that folds in a few voxels; affine scale 1.1."""
    geometry = Geometry((40, 36, 30), (4.0, 4.0, 4.0), (11.0, -7.0, 5.0), direction)
    k, j, i = np.meshgrid(*(np.linspace(-1, 1, n) for n in geometry.size[::-1]), indexing="ij")
    radius = np.sqrt((i / 0.7) ** 2 + (j / 0.8) ** 2 + (k / 0.65) ** 2)
    labels = (radius < 1).astype(np.uint8) + (radius < 0.5)

    def image(array: np.ndarray) -> sitk.Image:
        return geometry.apply_to(sitk.GetImageFromArray(array))

    fixed = image((0.4 * labels + 0.1 * np.cos(6 * i) * (labels > 0)).astype(np.float32))
    center = geometry.centre_lps
    matrix = np.eye(4)
    matrix[:3, :3] *= 1.1
    matrix[:3, 3] = center - 1.1 * center
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(tuple(matrix[:3, :3].ravel()))
    affine.SetTranslation(tuple(matrix[:3, 3]))
    deform = np.zeros((*radius.shape, 3))
    deform[..., 0] = 9 * np.sin(4 * j) * np.exp(-(radius**2))
    deform[14:17, 17:20, 18:21, 1] += 14.0
    field = geometry.apply_to(sitk.GetImageFromArray(deform, isVector=True))
    whole = sitk.CompositeTransform(3)
    whole.AddTransform(affine)
    whole.AddTransform(sitk.DisplacementFieldTransform(sitk.Image(field)))
    both = sitk.TransformToDisplacementField(
        whole, sitk.sitkVectorFloat64, geometry.size, geometry.origin, geometry.spacing, geometry.direction
    )
    aligned = geometry.resample(fixed, affine)
    label_image = image(labels)
    return Outcome(
        report=make_report(geometry, matrix),
        fixed=fixed,
        moving=fixed,
        warped=fixed,
        transform=whole,
        inverse=sitk.Transform(3, sitk.sitkIdentity),
        fixed_on_grid=fixed,
        moving_aligned=aligned,
        moving_registered=geometry.resample(fixed, whole),
        foreground=image((labels > 0).astype(np.uint8)),
        jacobian=jacobian_determinant(both),
        fixed_labels=label_image,
        moving_labels=label_image,
        warped_labels=geometry.resample(label_image, whole, interpolator=sitk.sitkNearestNeighbor),
        label_names={1: "shell", 2: "core"},
    )


def with_report(outcome: Outcome, **changes: object) -> Outcome:
    return dataclasses.replace(outcome, report=dataclasses.replace(outcome.report, **changes))


def with_measured(outcome: Outcome, **changes: object) -> Outcome:
    return with_report(outcome, measured=dataclasses.replace(outcome.report.measured, **changes))


def check_page(html: str, expected: tuple[str, ...] = (), unexpected: tuple[str, ...] = ()) -> str:
    """Check what holds for every report; return the text that a reader sees, blanks joined."""
    root = ElementTree.fromstring(html)  # also refuses a page with unbalanced or crossed tags
    assert html.startswith("<!DOCTYPE html>") and root.get("lang") == "en"
    assert len(html.encode()) < 5_000_000
    assert not re.search(r"https?:|<script|javascript:|@import|\bon\w+=", html)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for element in root.iter():
        assert "href" not in element.attrib
        labelled = element.get("aria-labelledby")
        assert labelled is None or labelled in ids
        for attribute in ("src", "srcset"):
            source = element.get(attribute)
            assert source is None or source.startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
            if source is not None:
                assert_not_blank(base64.b64decode(source.partition(",")[2]))
        assert element.tag != "img" or element.get("alt")
    for style in root.iter("style"):
        assert style.text is not None and "url(" not in style.text
        style.text = ""
    text = " ".join(" ".join(root.itertext()).split())
    for words in expected:
        assert words in text, words
    assert not re.search(r"\b(None|nan|inf)\b|Traceback|{{|{%", text)
    for words in unexpected:
        assert words not in text, words
    return text


def assert_not_blank(content: bytes) -> None:
    image = np.asarray(Image.open(io.BytesIO(content)).convert("L"), dtype=float)
    assert min(image.shape) > 100
    assert image.std() > 5


def render(outcome: Outcome) -> str:
    """Render a page without spending time on pictures."""
    pictures = tuple(Picture(c, problem="left out in this test") for c in report_page.captions(outcome).values())
    return report_page.render_report(outcome.report, pictures)


# What was predicted

NAMES = (
    "Left Hippocampus", "Right Hippocampus", "Left Thalamus", "Right Thalamus", "Left Caudate", "Right Caudate", "Left Putamen",
    "Right Putamen", "Left Pallidum", "Right Pallidum", "Left Amygdala", "Right Amygdala", "Left Accumbens", "Right Accumbens",
    "Left Lateral Ventricle", "Right Lateral Ventricle", "Left Inferior Lateral Ventricle", "Right Inferior Lateral Ventricle",
    "3rd Ventricle", "4th Ventricle", "Brain Stem", "CSF", "Left Cerebellum Cortex", "Right Cerebellum Cortex",
    "Left Cerebellum White Matter", "Right Cerebellum White Matter", "Left Cerebral Cortex", "Right Cerebral Cortex",
    "Left Cerebral White Matter", "Right Cerebral White Matter",
)
LAMBDA = Parameter(
    "regularization_weight", "λ", "voxels", "log", 0.4, 4.5, 0.7, "up", "Regularization weight", "Higher is more regularized."
)


def around(value: np.ndarray, below: float, above: float) -> Band:
    return Band(value, np.clip(value - below, 0, 1), np.clip(value + above, 0, 1))


def make_surface(names: tuple[str, ...] = NAMES, points: int = 48) -> PredictionSurface:
    """Curves of one pair over λ from 0.4 to 4.5: folding falls steeply, every structure has its best λ elsewhere."""
    weight = np.geomspace(0.4, 4.5, points)
    peaks = np.geomspace(0.25, 1.3, len(names))
    heights = 0.62 + 0.28 * np.abs(np.sin(1 + 2.3 * np.arange(len(names))))
    dice = heights[:, None] - 0.025 * (np.log(weight) - np.log(peaks)[:, None]) ** 2
    folding = np.minimum(9.0, 3.05 * (weight / 0.45) ** -9.0)
    folding = np.where(folding < 2e-4, 0.0, folding)

    def percent(share: float) -> Band:
        return Band(share * folding, share * folding / 3, share * folding * 3)

    return PredictionSurface(
        space=SearchSpace((LAMBDA,)),
        values=weight[:, None],
        structures=names,
        labels=tuple(range(1, len(names) + 1)),
        dice=around(dice, 0.03, 0.025),
        mean_dice=around(dice.mean(axis=0), 0.02, 0.015),
        folding_foreground=percent(1.0),
        folding_grid=percent(0.4),
        sd_log_jacobian=around(0.4 * weight**-0.5, 0.03, 0.03),
    )


def make_map(points: int = 24) -> PredictionSurface:
    """One pair over λ and `STEP`: Dice has a ridge across both, folding falls with λ and rises with the step."""
    space = SearchSpace((LAMBDA, STEP))
    values = space.grid(points)
    x, y = space.to_unit(values).T
    dice = 0.78 - 0.16 * (x - 0.35 - 0.3 * y) ** 2 - 0.05 * (y - 0.6) ** 2
    folding = 10.0 ** (0.6 - 5.0 * x + 2.5 * y)
    folding = np.where(folding < 2e-4, 0.0, np.minimum(folding, 30.0))

    def percent(share: float) -> Band:
        return Band(share * folding, share * folding / 3, share * folding * 3)

    return PredictionSurface(
        space=space,
        values=values,
        structures=("one", "two"),
        labels=(1, 2),
        dice=around(np.stack([dice + 0.05, dice - 0.05]), 0.03, 0.025),
        mean_dice=around(dice, 0.02, 0.015),
        folding_foreground=percent(1.0),
        folding_grid=percent(0.4),
        sd_log_jacobian=around(0.5 - 0.3 * x + 0.1 * y, 0.03, 0.03),
    )


def make_prediction(
    surface: PredictionSurface | None = None, criterion: Criterion | None = None, choice: Choice | None = None, **changes: object
) -> Prediction:
    """What `predict` hands over, chosen from a made-up surface as the workflow would choose; `changes` of its fields."""
    surface, criterion = surface or make_surface(), criterion or Criterion(rule="plateau", tolerance=0.003)
    best = dataclasses.replace(choose(surface, criterion, "brain-t1 1.0"), fixed=surface.space.defaults)
    parts = {
        "job": Job(fixed="data/fixed scan.nii.gz", moving="C:\\data\\moving.nrrd", out="out", seed=4711, engine="demons"),
        "engine": EngineUsed("demons", "1", "Demons", surface.space, {"iterations": [30, 20]}, "0123456789abcdef"),
        "predictor": "brain-t1 1.0",
        "bundle_sha256": "ab" * 32,
        "reliability": Reliability("reliable"),
        "criterion": criterion,
        "choice": choice or best,
        "structures": per_structure(surface, criterion),
        "surface": surface,
        "seconds": {"read": 1.25, "alignment": 8.0, "predict": 0.75},
        "warnings": (),
    }
    return Prediction(**{**parts, **changes})


def make_bootstrapped(surface: PredictionSurface | None = None, **changes: object) -> Prediction:
    """What `predict` hands over where no trained predictor serves: an expected error of 0.5 to 1 mm in place of Dice."""
    dice = surface or make_surface()
    error = 0.6 + 6 * (dice.mean_dice.value.max() - dice.mean_dice.value)
    none = np.zeros((0, len(error)))
    parts = {
        "structures": (), "labels": (), "dice": Band(none, none, none), "mean_dice": None,
        "error_mm": Band(error, 0.5 * error, 2 * error), "error_95_mm": Band(3 * error, 1.5 * error, 6 * error), "voxel_mm": 2.0,
    }  # fmt: skip
    errors = dataclasses.replace(dice, **parts)
    choice = dataclasses.replace(choose(errors, Criterion(), BOOTSTRAP), fixed=errors.space.defaults)
    outlook = Outlook(0.03, 0.924, BandValue(1.53, 0.77, 3.1), BandValue(0.93, 0.3, 1.2), BOOTSTRAP)
    why = Reliability("reliable", ("No trained predictor comes with the engine 'demons' at the preset 'fine'.",))
    return make_prediction(
        errors, Criterion(), choice,
        **{"predictor": BOOTSTRAP, "bundle_sha256": "", "reliability": why, "outlook": outlook, **changes},
    )  # fmt: skip


def make_unreliable(surface: PredictionSurface | None = None, **changes: object) -> Prediction:
    """What `predict` hands over for a pair that the predictor does not know."""
    fixed = {"regularization_weight": 0.7}
    reasons = ("The intensities correlate less than in 99 % of the training pairs.",)
    choice = Choice(fixed, "No suggestion is made, so the fixed λ = 0.7 is taken.", by="fixed", fixed=fixed)
    parts = {"reliability": Reliability("unreliable", reasons), "choice": choice, "structures": ()}
    return make_prediction(surface, **{**parts, **changes})


def trial(weight: float, foreground: float, limit: float = 0.5) -> Trial:
    folding = FoldingPercent(foreground, 0.4 * foreground)
    return Trial({"regularization_weight": weight}, folding, 0.31, foreground <= limit, 41.5)


def with_choice(outcome: Outcome, trials: tuple[Trial, ...], **changes: object) -> Outcome:
    """The outcome as the closed loop would hand it over after these trials, with a prediction for the first λ.

    `changes` are of the report's fields, or of its choice: `by`, `sentence`, `predicted`.
    """
    surface, criterion = make_surface(("shell", "core")), Criterion(rule="plateau", tolerance=0.003)
    first, last = trials[0].setting, trials[-1]
    parts = {"by": "predictor", "sentence": "λ = 0.6: for a reason.", "predicted": predict_at(surface, first, "brain-t1 1.0")}
    choice = Choice(first, **{name: changes.pop(name, value) for name, value in parts.items()})
    fields = {
        "setting": last.setting, "choice": choice, "predictor": "brain-t1 1.0", "limit_met": last.within_limit,
        "criterion": criterion,
        "reliability": Reliability("uncertain", ("The voxels are larger than in training.",)), "trials": trials,
    }
    changed = with_report(with_measured(outcome, folding_percent=last.folding_percent), **{**fields, **changes})
    reliability = changed.report.reliability or Reliability("reliable")
    prediction = make_prediction(surface, criterion, choice, reliability=reliability)
    return compared_anew(dataclasses.replace(changed, prediction=prediction))


def with_predicted(outcome: Outcome, **changes: object) -> Outcome:
    """The outcome with other parts of its choice, compared anew."""
    return compared_anew(with_report(outcome, choice=dataclasses.replace(outcome.report.choice, **changes)))


def compared_anew(outcome: Outcome) -> Outcome:
    """The outcome with its prediction compared with its measurements, as the workflow does it."""
    report, prediction = outcome.report, outcome.prediction
    at_result = None
    if prediction is not None:
        at_result = predicted_at(prediction.surface, report.choice.predicted, report.setting)
    comparisons = compared(report.choice.predicted, at_result, report.trials, report.measured)
    return with_report(outcome, predicted_at_result=at_result, comparisons=comparisons)
