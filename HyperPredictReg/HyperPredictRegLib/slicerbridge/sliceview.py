"""Pictures of a registration in Slicer's own slice views, made without a window."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util import numpy_support

from HyperPredictRegLib.core.errors import HyperPredictRegError
from HyperPredictRegLib.results.outcome import Outcome
from HyperPredictRegLib.slicerbridge.scene import application_logic
from HyperPredictRegLib.slicerbridge.segmentations import to_segmentation_node
from HyperPredictRegLib.slicerbridge.showing import show_grid, show_outlines
from HyperPredictRegLib.slicerbridge.transforms import to_transform_node
from HyperPredictRegLib.slicerbridge.volumes import LPS_RAS, to_volume_node
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import field_of, field_transform

_MANAGERS = (
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLTransformsDisplayableManager2D",
    "vtkMRMLRulerDisplayableManager",
)
_WINDOW_VARIABLE = "VTK_DEFAULT_OPENGL_WINDOW"
_LETTER_COLOR = (1.0, 0.85, 0.3)
_GAP_PX = 6
_FLIP = np.diag(LPS_RAS)[:3]
_ALIGN = {"left": 0, "bottom": 0, "center": 1, "right": 2, "top": 2}

_PROBE = """
import vtkmodules.vtkRenderingOpenGL2
from vtkmodules.vtkCommonCore import vtkUnsignedCharArray
from vtkmodules.vtkRenderingCore import vtkRenderer, vtkRenderWindow
window = vtkRenderWindow()
window.SetOffScreenRendering(1)
window.SetSize(16, 16)
renderer = vtkRenderer()
renderer.SetBackground(1, 0, 0)
window.AddRenderer(renderer)
window.Render()
pixel = vtkUnsignedCharArray()
window.GetPixelData(8, 8, 8, 8, 0, pixel, 0)
raise SystemExit(0 if pixel.GetValue(0) == 255 and pixel.GetValue(1) == 0 else 3)
"""


class PictureUnavailable(HyperPredictRegError):  # noqa: N818 - named for what happened; it is not a fault
    """This machine cannot draw slice views; the message says why. Everything else works without pictures."""


@dataclass(frozen=True)
class SliceStyle:
    """How slice views look.

    Attributes
    ----------
    height_px : height of the picture; widths follow from the anatomy, at one scale for all three views.
    foreground_opacity : of the warped image over the fixed one, 0 to 1.
    grid_spacing_mm : distance of the deformed grid's lines; None chooses one that gives about 20 lines.
    outline_px : thickness of segmentation outlines.
    """

    height_px: int = 480
    foreground_opacity: float = 0.5
    grid_spacing_mm: float | None = None
    outline_px: int = 2


@dataclass(frozen=True)
class _Plane:
    """An anatomical plane: Slicer's names for it, its horizontal and vertical RAS axes, and the letters of three sides."""

    orientation: str
    view: str
    across: int
    up: int
    left: str
    right: str
    top: str


_PLANES = (
    _Plane("Axial", "Red", 0, 1, "R", "L", "A"),
    _Plane("Coronal", "Green", 0, 2, "R", "L", "S"),
    _Plane("Sagittal", "Yellow", 1, 2, "A", "P", "S"),
)


@functools.cache
def offscreen_window() -> str:
    """Return the name of a VTK window class that draws here, "" for VTK's own choice.

    Tried in a child process, because VTK may end the process where there is no OpenGL.

    Raises
    ------
    PictureUnavailable : none works.
    """
    if getattr(slicer, "app", None) is not None:
        # The managers below belong to the application, which would lose its own views.
        raise PictureUnavailable("Inside of the Slicer application use its own slice views and the module 'Screen Capture'.")
    given = os.environ.get(_WINDOW_VARIABLE)
    has_display = bool(os.environ.get("DISPLAY")) or not sys.platform.startswith("linux")
    candidates = [given] if given else ([""] if has_display else []) + ["vtkEGLRenderWindow", "vtkOSOpenGLRenderWindow"]
    reasons = []
    for name in candidates:
        environment = {**os.environ, _WINDOW_VARIABLE: name} if name else dict(os.environ)
        try:
            child = subprocess.run(
                [sys.executable, "-c", _PROBE], env=environment, capture_output=True, encoding="utf-8", timeout=60, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            reasons.append(f"{name or 'the display'}: {error}")
            continue
        if child.returncode == 0:
            return name
        # VTK's log lines: colors, then time and place up to a bar, then the words.
        words = re.sub(r"\x1b\[\d*m|[^\n]*\|", "", child.stderr).strip().splitlines()
        message = f", saying: {words[-1].strip()}" if words else ""
        reasons.append(f"{name or 'the display'}: ended with code {child.returncode}{message}")
    tried = "; ".join(reason.rstrip(".") for reason in reasons)
    raise PictureUnavailable(
        "Slice views cannot be drawn on this machine: it has neither a display nor Mesa's software OpenGL "
        f"(on Debian or Ubuntu install libegl1 and libgl1-mesa-dri). Tried {tried}."
    )


def write_outcome_views(outcome: Outcome, path: Path, *, style: SliceStyle | None = None) -> None:
    """Draw a registration (see `write_slice_views`): fixed and warped image, fixed and propagated labels, deformed grid.

    The grid is that of the deformable step alone.
    """
    labels = [image for image in (outcome.fixed_labels, outcome.warped_labels) if image is not None]
    # The affine part would shift the whole grid out of the picture and hide what the deformable step did.
    field = field_of(outcome.transform)
    write_slice_views(
        path,
        outcome.fixed,
        outcome.warped,
        transform=outcome.transform if field is None else field_transform(field),
        labels=labels,
        names=outcome.label_names,
        cut_lps=_beside_the_middle(outcome),
        style=style,
    )


def write_slice_views(
    path: Path,
    fixed: sitk.Image,
    warped: sitk.Image,
    *,
    transform: sitk.Transform | None = None,
    labels: Sequence[sitk.Image] = (),
    names: Mapping[int, str] | None = None,
    cut_lps: Sequence[float] | np.ndarray | None = None,
    style: SliceStyle | None = None,
) -> None:
    """Draw axial, coronal and sagittal slice views side by side and save them as one PNG.

    Parameters
    ----------
    path : the PNG.
    fixed : background, grey.
    warped : foreground, blended over it.
    transform : fixed to moving points, LPS mm; drawn as a deformed grid.
    labels : label maps, drawn as outlines: the first one full, the others fainter.
    names : name of each label.
    cut_lps : the point, LPS mm, that the three planes go through; by default the middle of the labels or of what is bright.
    style : how it looks.

    Raises
    ------
    PictureUnavailable : this machine cannot draw.
    """
    style = style or SliceStyle()
    scene = slicer.vtkMRMLScene()
    with _drawing_by(offscreen_window()), application_logic(scene) as logic:
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
        background, foreground = (_gray_volume(scene, image) for image in (fixed, warped))
        if transform is not None:
            show_grid(to_transform_node(transform, scene, "Transform"), background, spacing_mm=style.grid_spacing_mm)
        for number, image in enumerate(labels):
            node = to_segmentation_node(image, scene, "Labels", names=names)
            show_outlines(node, opacity=1.0 if number == 0 else 0.55, thickness_px=style.outline_px)
        cut = (_middle_of_interest(fixed, labels) if cut_lps is None else np.array(cut_lps)) * _FLIP
        views = [_draw(scene, logic, plane, (background, foreground), cut, style) for plane in _planes(fixed, style)]
        scene.Clear(1)
    _write_png(views, path)


@contextmanager
def _drawing_by(window: str) -> Iterator[None]:
    """Let VTK make its windows of this class, "" for its own choice."""
    before, verbosity = os.environ.get(_WINDOW_VARIABLE), vtk.vtkLogger.GetCurrentVerbosityCutoff()
    if window:
        os.environ[_WINDOW_VARIABLE] = window
    # The grid is drawn through the transform's inverse, of which VTK warns wherever it does not converge; the report's
    # inverse consistency says the same with a number.
    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_ERROR)
    try:
        yield
    finally:
        vtk.vtkLogger.SetStderrVerbosity(verbosity)
        if before is None:
            os.environ.pop(_WINDOW_VARIABLE, None)
        else:
            os.environ[_WINDOW_VARIABLE] = before


def _planes(fixed: sitk.Image, style: SliceStyle) -> list[tuple[_Plane, tuple[int, int], float, np.ndarray]]:
    """Return each plane with the size of its view in pixels, the millimetres in a pixel and the middle of the image, RAS."""
    corners = Geometry.of(fixed).corners_lps()
    extent = np.ptp(corners, axis=0)
    mm = 1.04 * max(extent[plane.up] for plane in _PLANES) / style.height_px
    middle = Geometry.of(fixed).centre_lps * _FLIP
    return [(plane, (round(1.04 * extent[plane.across] / mm), style.height_px), mm, middle) for plane in _PLANES]


def _draw(
    scene: Any, application: Any, plane: tuple[_Plane, tuple[int, int], float, np.ndarray], volumes: tuple[Any, Any],
    cut_ras: np.ndarray, style: SliceStyle,
) -> np.ndarray:
    """Return one view, shape (height, width, 3), uint8, top row first."""
    where, (width, height), mm, middle_ras = plane
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetSize(width, height)
    renderer = vtk.vtkRenderer()
    window.AddRenderer(renderer)
    interactor = vtk.vtkRenderWindowInteractor()
    interactor.SetRenderWindow(window)

    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLApplicationLogic(application)
    logic.SetMRMLScene(scene)
    node = logic.AddSliceNode(where.view)
    node.SetOrientation(where.orientation)
    composite = logic.GetSliceCompositeNode()
    composite.SetBackgroundVolumeID(volumes[0].GetID())
    composite.SetForegroundVolumeID(volumes[1].GetID())
    composite.SetForegroundOpacity(style.foreground_opacity)
    logic.ResizeSliceNode(width, height)
    node.SetFieldOfView(width * mm, height * mm, mm)
    node.JumpSliceByCentering(*middle_ras.tolist())
    node.JumpSliceByOffsetting(*cut_ras.tolist())
    node.SetRulerType(node.RulerTypeThin)

    factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
    factory.SetMRMLApplicationLogic(application)
    for manager in _MANAGERS:
        if not factory.IsDisplayableManagerRegistered(manager):
            factory.RegisterDisplayableManager(manager)
    group = slicer.vtkMRMLDisplayableManagerGroup()
    group.Initialize(factory, renderer)
    group.SetMRMLDisplayableNode(node)
    # The mapper hands the already windowed colors of the slice logic through unchanged.
    mapper = vtk.vtkImageMapper()
    mapper.SetColorWindow(255)
    mapper.SetColorLevel(127.5)
    mapper.SetInputConnection(logic.GetImageDataConnection())
    picture = vtk.vtkActor2D()
    picture.SetMapper(mapper)
    picture.GetProperty().SetDisplayLocationToBackground()
    renderer.AddViewProp(picture)
    for actor in _letters(where, width, height):
        renderer.AddViewProp(actor)
    window.Render()
    pixels = _pixels(window)
    group.SetMRMLDisplayableNode(None)
    logic.SetMRMLScene(None)
    window.Finalize()
    return pixels


def _pixels(window: Any) -> np.ndarray:
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    grab.Update()
    image = grab.GetOutput()
    width, height, _ = image.GetDimensions()
    return numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1].copy()


def _letters(plane: _Plane, width: int, height: int) -> list[Any]:
    """Return the plane's name and the letters of the patient's sides."""
    middle = (width // 2, height // 2)
    texts = [
        (plane.orientation, (8, height - 8), "left", "top", 16, (1.0, 1.0, 1.0)),
        (plane.left, (6, middle[1]), "left", "center", 15, _LETTER_COLOR),
        (plane.right, (width - 6, middle[1]), "right", "center", 15, _LETTER_COLOR),
        (plane.top, (middle[0], height - 6), "center", "top", 15, _LETTER_COLOR),
    ]
    actors = []
    for text, position, horizontal, vertical, size, color in texts:
        actor = vtk.vtkTextActor()
        actor.SetInput(text)
        actor.SetPosition(*position)
        style = actor.GetTextProperty()
        style.SetJustification(_ALIGN[horizontal])
        style.SetVerticalJustification(_ALIGN[vertical])
        style.SetFontSize(size)
        style.SetBold(True)
        style.SetShadow(True)
        style.SetColor(*color)
        actors.append(actor)
    return actors


def _gray_volume(scene: Any, image: sitk.Image) -> Any:
    node = to_volume_node(image, scene, "Volume")
    voxels = sitk.GetArrayViewFromImage(image)
    inside = voxels[voxels > voxels.min()]
    if inside.size:
        # Air, which fills much of most images, would pull an automatic window down.
        low, high = np.percentile(inside, (0.5, 99.5))
        display = node.GetDisplayNode()
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(float(min(low, voxels.min())), 1.1 * float(high))
    return node


def _middle_of_interest(fixed: sitk.Image, labels: Sequence[sitk.Image]) -> np.ndarray:
    """Return the center of the labels or, without any, of what is bright in the fixed image, LPS mm."""
    points = _points_of_interest(labels[0] if labels else fixed, not labels)
    return points.mean(axis=0) if len(points) else Geometry.of(fixed).centre_lps


def _points_of_interest(image: sitk.Image, bright: bool) -> np.ndarray:
    """Return the voxels above zero, or above the mean if `bright`, shape (n, 3), LPS mm."""
    voxels = sitk.GetArrayViewFromImage(image)
    inside = np.argwhere(voxels > (float(voxels.mean()) if bright else 0))
    return Geometry.of(image).to_lps(inside[:, ::-1])


def _beside_the_middle(outcome: Outcome) -> np.ndarray | None:
    """Return the middle of what is labelled (or bright), moved into the patient's left half, LPS mm.

    Bodies are nearly symmetric: a cut between the halves shows least and meets the labels of both in tatters.
    """
    labels = outcome.fixed_labels
    points = _points_of_interest(outcome.fixed if labels is None else labels, labels is None)
    if not len(points):
        return None
    middle = points.mean(axis=0)
    return np.array([points[points[:, 0] >= middle[0], 0].mean(), middle[1], middle[2]])


def _write_png(views: Sequence[np.ndarray], path: Path) -> None:
    gap = np.full((views[0].shape[0], _GAP_PX, 3), 255, dtype=np.uint8)
    columns = [part for view in views for part in (view, gap)][:-1]
    sitk.WriteImage(sitk.GetImageFromArray(np.concatenate(columns, axis=1), isVector=True), str(path))
