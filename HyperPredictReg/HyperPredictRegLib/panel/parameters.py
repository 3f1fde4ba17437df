"""All that a user can choose, as Slicer keeps it: in a node of the scene, saved and restored with it."""
# ruff: noqa: N815 - names of parameters are camelCase, as everywhere in Slicer's scenes and .ui files.
# mypy: disable-error-code="misc, valid-type"

import enum
from typing import Annotated, Any

from slicer import (
    vtkMRMLDisplayableNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLTextNode,
    vtkMRMLTransformNode,
)
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.presentation.choices import LABELS
from HyperPredictRegLib.presentation.panel import PanelState, PanelView, missing_channel, missing_inputs, missing_landmarks
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.slicerbridge.request import ChannelChoice, MaskChoice, Request
from HyperPredictRegLib.slicerbridge.volumes import volume_geometry


class ChoiceEnum(enum.Enum):
    """One of the entries of a list, whose words Slicer's combo boxes ask for."""

    def label(self) -> str:
        """Return the words that the panel shows."""
        return _(LABELS[type(self).__name__.lower()][self.value])


def _enum(name: str) -> Any:
    """Return the Enum that Slicer asks for: which entries there are, such as engines, is known only at run time."""
    return ChoiceEnum(name, {value.upper(): value for value in LABELS[name.lower()]}, module=__name__)  # type: ignore[call-arg]


Engine = _enum("Engine")
Preset = _enum("Preset")
Goal = _enum("Goal")
Rule = _enum("Rule")
Domain = _enum("Domain")
Combine = _enum("Combine")
Device = _enum("Device")
Transform = _enum("Transform")
LandmarksFor = _enum("LandmarksFor")

MASKS = {"fixed": ("fixedMask", "fixedMaskSegment"), "moving": ("movingMask", "movingMaskSegment")}
"""Of each side: the parameters that name its mask and the segment of it."""


@parameterNodeWrapper
class ParameterNode:
    """One set of choices.

    Attributes
    ----------
    setting : values of the method's own parameters, by name, as slider and spin boxes stand; empty as long as there are none.
    settingOf : the method that they are of.
    manual : whether to register with them as they are.
    structureWeights : the structures that count, by name; empty is all alike.
    fieldSpacing : mm between the points of the displacement field; 0 is as it was registered.
    prediction : the last prediction, or None.
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
    fixedLandmarks: vtkMRMLMarkupsFiducialNode
    movingLandmarks: vtkMRMLMarkupsFiducialNode
    landmarksFor: LandmarksFor = LandmarksFor.MEASURING
    fixedChannel: vtkMRMLScalarVolumeNode
    movingChannel: vtkMRMLScalarVolumeNode
    engine: Engine = next(iter(Engine))
    preset: Preset = Preset.FAST
    goal: Goal = Goal.AUTO
    rule: Rule = Rule.MAXIMUM
    limitFolding: bool = True
    foldingLimit: Annotated[float, WithinRange(0.01, 100.0)] = 0.5
    foldingDomain: Domain = Domain.FOREGROUND
    cautious: bool = True
    combine: Combine = Combine.MEAN
    structureWeights: dict[str, float]
    manual: bool = False
    setting: dict[str, float]
    settingOf: str
    seed: Annotated[int, WithinRange(1, 2147483647)] = 20240901
    reproducible: bool = False
    device: Device = Device.CPU
    transformKind: Transform = Transform.COMPOSITE
    fieldSpacing: Annotated[float, WithinRange(0.0, 20.0)] = 0.0
    prediction: vtkMRMLTextNode
    result: vtkMRMLTextNode


def criterion_of(parameters: Any) -> Criterion:
    """Return the criterion that a parameter node asks for, with all structures that are ticked."""
    return Criterion(
        rule=parameters.rule.value,
        goal=parameters.goal.value,
        folding_limit=parameters.foldingLimit if parameters.limitFolding else None,
        domain=parameters.foldingDomain.value,
        cautious=parameters.cautious,
        structures={name: weight for name, weight in dict(parameters.structureWeights).items() if weight > 0},
        combine=parameters.combine.value,
    )


def state_of(parameters: Any, **more: Any) -> PanelState:
    """Return what a parameter node says, with `more` fields of the state."""
    fixed, segmentation = parameters.fixedVolume, parameters.movingSegmentation
    try:
        grid = None if fixed is None or fixed.GetImageData() is None else volume_geometry(fixed)
    except InputError:
        grid = None
    return PanelState(
        engine=parameters.engine.value,
        preset=parameters.preset.value,
        criterion=criterion_of(parameters),
        setting=dict(parameters.setting),
        setting_of=parameters.settingOf,
        manual=parameters.manual,
        segments=tuple(segment_name(segmentation, one) for one in segment_ids(segmentation)),
        grid=grid,
        missing=missing_inputs(fixed, parameters.movingVolume)
        or missing_channel(parameters.fixedChannel, parameters.movingChannel)
        or missing_landmarks(
            parameters.landmarksFor.value, parameters.fixedLandmarks, parameters.movingLandmarks, parameters.initialTransform
        ),
        several=parameters.fixedChannel is not None,
        **more,
    )


def request_of(parameters: Any, view: PanelView | None = None) -> Request:
    """Return what a parameter node asks for.

    Parameters
    ----------
    view : of the node, for a registration; without one the request is for a prediction, for every setting and criterion.
    """
    masks = {}
    for side, (mask, segment) in MASKS.items():
        node = getattr(parameters, mask)
        masks[f"{side}_mask"] = None if node is None else MaskChoice(node, getattr(parameters, segment))
    options = {name: getattr(parameters, name).value for name in ("engine", "preset")}
    options |= {"seed": parameters.seed, "reproducible": parameters.reproducible}
    options |= {"landmarks_for": parameters.landmarksFor.value}
    if view is None:
        # The panel chooses from the curves: no structure may be in the way of them.
        criterion = Criterion(folding_limit=parameters.foldingLimit if parameters.limitFolding else None)
    else:
        criterion = view.criterion
        options["setting"] = view.setting if view.manual else {}
        # A choice for another method stays where it is, unseen.
        options["device"] = parameters.device.value if parameters.device.value in view.devices else "cpu"
    channel = (parameters.fixedChannel, parameters.movingChannel)
    return Request(
        fixed=parameters.fixedVolume,
        moving=parameters.movingVolume,
        fixed_segmentation=parameters.fixedSegmentation,
        moving_segmentation=parameters.movingSegmentation,
        initial_transform=parameters.initialTransform,
        fixed_landmarks=parameters.fixedLandmarks,
        moving_landmarks=parameters.movingLandmarks,
        # One that is incomplete cannot be started with.
        channels=() if None in channel else (ChannelChoice(*channel),),
        prediction=None if view is None or view.prediction is None else parameters.prediction,
        options=options | {"criterion": criterion},
        **masks,
    )


_LISTS = {
    "engine": Engine, "preset": Preset, "goal": Goal, "rule": Rule, "foldingDomain": Domain, "combine": Combine, "device": Device,
    "transformKind": Transform, "landmarksFor": LandmarksFor,
}  # fmt: skip


def forget_unknown(node: Any) -> None:
    """Take entries of lists that are not there any more, such as a method of another version, out of a set of parameters.

    Slicer would fail at every look at them; what is taken out gets its default.
    """
    for name, kind in _LISTS.items():
        stored = node.GetParameter(name)
        if stored and stored not in kind.__members__:
            node.UnsetParameter(name)


def stored_as(parameters: Any) -> tuple[str, float | None]:
    """Return how the transform is to be stored, and the spacing of its field in mm; None as it was registered."""
    as_field = parameters.transformKind is Transform.FIELD
    return parameters.transformKind.value, parameters.fieldSpacing if as_field and parameters.fieldSpacing > 0 else None


def segment_ids(node: Any) -> list[str]:
    """Return the ids of a segmentation's segments; none for any other node."""
    if node is None or not node.IsA("vtkMRMLSegmentationNode"):
        return []
    return list(node.GetSegmentation().GetSegmentIDs())


def segment_name(node: Any, segment_id: str) -> str:
    """Return the name of one segment of a segmentation."""
    return str(node.GetSegmentation().GetSegment(segment_id).GetName())
