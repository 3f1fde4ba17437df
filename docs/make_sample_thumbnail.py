"""Draw the picture of the sample pair in Slicer's Sample Data module: half fixed, half moving, 260 x 280 pixels.

Run `python docs/make_sample_thumbnail.py` from anywhere.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.workflow.sample import made_pair

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import FancyBboxPatch

TARGET = Path(__file__).resolve().parent.parent / "HyperPredictReg" / "Resources" / "Icons" / "SampleBrainPair.png"
WIDTH, HEIGHT = 260, 280
NIGHT, MIST, AMBER = "#14304f", "#8fc4e8", "#ffb632"
SLICE_HEIGHT_MM = 18.0
HALF_WIDTH_MM, HALF_HEIGHT_MM = 92.0, 99.0
CENTRE_LPS = (0.0, 22.0)


def axial(image: sitk.Image) -> np.ndarray:
    """Return one axial slice at half a millimetre, front up, the patient's right on the left, from 0 to about 1."""
    spacing = 0.5
    size = (int(2 * HALF_WIDTH_MM / spacing), int(2 * HALF_HEIGHT_MM / spacing), 1)
    origin = (CENTRE_LPS[0] - HALF_WIDTH_MM, CENTRE_LPS[1] - HALF_HEIGHT_MM, SLICE_HEIGHT_MM)
    voxels = sitk.GetArrayFromImage(
        Geometry(size, (spacing,) * 3, origin).resample(
            image, interpolator=sitk.sitkBSpline, pixel_type=sitk.sitkFloat32
        )
    )[0]
    return np.clip(voxels / np.percentile(voxels[voxels > 0.1 * voxels.max()], 99), 0, 1)


def main() -> None:
    """Write the picture."""
    pair = made_pair()
    figure = plt.figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100)
    figure.patch.set_alpha(0.0)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-HALF_WIDTH_MM, HALF_WIDTH_MM), ylim=(-HALF_HEIGHT_MM, HALF_HEIGHT_MM))
    axes.axis("off")
    tile = FancyBboxPatch((-82, -89), 164, 178, boxstyle="round,pad=8,rounding_size=16", color=NIGHT, linewidth=0, zorder=-1)
    axes.add_patch(tile)
    box = (-HALF_WIDTH_MM, HALF_WIDTH_MM, -HALF_HEIGHT_MM, HALF_HEIGHT_MM)
    for image, tint, left in ((pair.fixed, MIST, box[0]), (pair.moving, AMBER, 0.0)):
        colours = LinearSegmentedColormap.from_list("tint", [NIGHT, tint, "white"])
        brain = axial(image)
        shown = axes.imshow(np.ma.masked_less(brain, 0.12), cmap=colours, extent=box, vmin=0.0, vmax=1.05)
        shown.set_clip_path(plt.Rectangle((left, box[2]), HALF_WIDTH_MM, 2 * HALF_HEIGHT_MM, transform=axes.transData))
    axes.plot([0, 0], [-78, 88], color="white", linewidth=1.2, alpha=0.8, solid_capstyle="round")
    for x, word, colour in ((-45, "fixed", MIST), (45, "moving", AMBER)):
        axes.text(x, -91, word, color=colour, ha="center", va="center", fontsize=9, fontweight="bold")
    figure.savefig(TARGET, dpi=100, transparent=True, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
