"""All that a user can choose, as Slicer keeps it: in a node of the scene, saved and restored with it."""
# ruff: noqa: N815 - names of parameters are camelCase, as everywhere in Slicer's scenes and .ui files.

import enum
from dataclasses import replace
from typing import Annotated, Any

from slicer import (
    vtkMRMLDisplayableNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLTextNode,
    vtkMRMLTransformNode,
)
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from HyperPredictRegLib.job import Criterion


class Engine(enum.Enum):
    """How volumes are bent."""

    DEMONS = "demons"
    BSPLINE = "bspline"

    def title(self) -> str:
        """Return the method's name alone."""
        return {Engine.DEMONS: _("Demons"), Engine.BSPLINE: _("B-spline")}[self]

    def label(self) -> str:
        """Return the words that the panel shows."""
        suits = {Engine.DEMONS: _("scans of the same kind"), Engine.BSPLINE: _("also different contrasts")}[self]
        return f"{self.title()}: {suits}"


class Preset(enum.Enum):
    """How fine the working grid is."""

    FAST = "fast"
    STANDARD = "standard"
    FINE = "fine"

    def title(self) -> str:
        """Return the preset's name alone."""
        return {Preset.FAST: _("Fast"), Preset.STANDARD: _("Standard"), Preset.FINE: _("Fine")}[self]

    def label(self) -> str:
        """Return the words that the panel shows."""
        edge = {
            Preset.FAST: _("2 mm for a brain"),
            Preset.STANDARD: _("1.5 mm"),
            Preset.FINE: _("as fine as the fixed volume"),
        }[self]
        return f"{self.title()} ({edge})"


class Rule(enum.Enum):
    """What λ* should achieve."""

    PLATEAU = "plateau"
    MAXIMUM = "maximum"
    KNEE = "knee"

    def label(self) -> str:
        """Return the words that the panel shows."""
        return {
            Rule.PLATEAU: _("Smooth, nearly best overlap"),
            Rule.MAXIMUM: _("The best overlap"),
            Rule.KNEE: _("Balance overlap against folding"),
        }[self]


class Domain(enum.Enum):
    """What the folding limit is a percentage of."""

    FOREGROUND = "foreground"
    BOX = "box"

    def label(self) -> str:
        """Return the words that the panel shows."""
        return {Domain.FOREGROUND: _("of the foreground"), Domain.BOX: _("of the whole box")}[self]


class Combine(enum.Enum):
    """How the structures' Dice become one number."""

    MEAN = "mean"
    WORST = "worst"

    def label(self) -> str:
        """Return the words that the panel shows."""
        return {Combine.MEAN: _("Their (weighted) mean counts"), Combine.WORST: _("The worst of them counts")}[self]


class TransformKind(enum.Enum):
    """How the transform is stored."""

    COMPOSITE = "composite"
    FIELD = "field"

    def label(self) -> str:
        """Return the words that the panel shows."""
        return {
            TransformKind.COMPOSITE: _("Affine and bending (exact)"),
            TransformKind.FIELD: _("One displacement field"),
        }[self]


@parameterNodeWrapper
class ParameterNode:
    """One set of choices.

    Attributes
    ----------
    weight : λ, or whatever the method has in its place, as the slider stands; 0 as long as nobody has set it.
    weightOf : the name of what `weight` is a value of, such as "regularization_weight".
    structureWeights : the structures that count, by name; empty is all alike.
    fieldSpacing : mm between the points of the displacement field; 0 is as it was registered.
    foresight : the last prediction, or None.
    result : the report of the last registration, or None; the other results are found from it.
    """

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    fixedSegmentation: vtkMRMLSegmentationNode
    movingSegmentation: vtkMRMLSegmentationNode
    fixedMask: vtkMRMLDisplayableNode
    fixedMaskSegment: str
    movingMask: vtkMRMLDisplayableNode
    movingMaskSegment: str
    initialTransform: vtkMRMLTransformNode
    engine: Engine = Engine.DEMONS
    preset: Preset = Preset.FAST
    rule: Rule = Rule.PLATEAU
    limitFolding: bool = True
    foldingLimit: Annotated[float, WithinRange(0.01, 100.0)] = 0.5
    foldingDomain: Domain = Domain.FOREGROUND
    cautious: bool = True
    combine: Combine = Combine.MEAN
    structureWeights: dict[str, float]
    byHand: bool = False
    weight: float = 0.0
    weightOf: str
    seed: Annotated[int, WithinRange(1, 2147483647)] = 20240901
    reproducible: bool = False
    transformKind: TransformKind = TransformKind.COMPOSITE
    fieldSpacing: Annotated[float, WithinRange(0.0, 20.0)] = 0.0
    foresight: vtkMRMLTextNode
    result: vtkMRMLTextNode


def predictable_words() -> str:
    """Name the methods and details that a predictor is installed for, such as "Demons at \"Fast\""; "" if there is none."""
    from HyperPredictRegLib.predictor.paths import bundled

    found = [
        _("{method} at \"{detail}\"").format(method=engine.title(), detail=preset.title())
        for engine in Engine
        for preset in Preset
        if bundled(engine.value, preset.value) is not None
    ]
    return _(" or ").join(found)


def criterion_of(parameters: Any) -> Criterion:
    """Return the criterion that a parameter node asks for."""
    return Criterion(
        rule=parameters.rule.value,
        folding_limit=parameters.foldingLimit if parameters.limitFolding else None,
        domain=parameters.foldingDomain.value,
        cautious=parameters.cautious,
        structures={name: weight for name, weight in dict(parameters.structureWeights).items() if weight > 0},
        combine=parameters.combine.value,
    )


def job_options(parameters: Any, *, forPrediction: bool = False) -> dict[str, Any]:  # noqa: N803 - Slicer's style
    """Return the fields of a Job that a parameter node asks for, inputs and output folder apart.

    Parameters
    ----------
    forPrediction : leave λ open, because a prediction is for all λ.
    """
    from HyperPredictRegLib.engines import get_engine

    name = get_engine(parameters.engine.value).hyperparameters[0].name
    criterion = criterion_of(parameters)
    if forPrediction:
        # Curves serve every criterion, and the panel chooses from them: no structure may be in the way of them.
        criterion = replace(criterion, structures={})
    by_hand = parameters.byHand and parameters.weight > 0 and parameters.weightOf == name and not forPrediction
    return {
        "engine": parameters.engine.value,
        "preset": parameters.preset.value,
        "criterion": criterion,
        "hyperparameters": {name: parameters.weight} if by_hand else {},
        "seed": parameters.seed,
        "reproducible": parameters.reproducible,
    }
