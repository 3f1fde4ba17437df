"""Whether the image of a further channel lies where the image of the first pair lies, whose alignment it shares."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.formatting import capitalized
from HyperPredictRegLib.preprocessing.resampling import label_places, within
from HyperPredictRegLib.spatial.geometry import Geometry

_MOST_PLACES = 20_000
_PART_TO_TELL = 0.95
_LEAST_SHARED = 0.5
"""Two images of one anatomy share most of the smaller foreground, even if one of them shows the skull and the other does not."""


def check_placement(anatomy: sitk.Image, image_anatomy: sitk.Image, what: str, first: str) -> list[str]:
    """Compare where a channel's image shows anatomy with where the first image of its side does.

    Parameters
    ----------
    anatomy : uint8, foreground of the first image, on its own grid (LPS mm).
    image_anatomy : the same of the channel's image, on its own grid.
    what, first : how to call the two images, such as "the fixed image of channel 2 't2.nrrd'".

    Returns
    -------
    Sentences for the report: the image shows a part only, or seems to lie elsewhere.

    Raises
    ------
    InputError : the channel's image lies beside the anatomy of the first one.
    """
    places = label_places(anatomy, _MOST_PLACES)
    covered = within(Geometry.of(image_anatomy), places)
    shared = max(_share(places[covered], image_anatomy), _share(label_places(image_anatomy, _MOST_PLACES), anatomy))
    if not shared:
        raise InputError(
            f"{capitalized(what)} shows nothing where {first} shows anatomy: each channel must lie in the space of the image "
            "of its side, as two scans of one session do; register it to that image first."
        )
    notes = []
    if covered.mean() < _PART_TO_TELL:
        percent = max(round(100 * float(covered.mean())), 1)
        notes.append(f"{capitalized(what)} covers about {percent} % of the anatomy of {first}: it pulls at nothing elsewhere.")
    if shared < _LEAST_SHARED:
        notes.append(
            f"{capitalized(what)} shows anatomy mostly where {first} shows none: check that the two lie in one space, since "
            "only the first is aligned."
        )
    return notes


def _share(places: np.ndarray, anatomy: sitk.Image) -> float:
    """Return which share of places, shape (n, 3), LPS mm, within the grid of a foreground lies in it; 0 if none is within."""
    grid = Geometry.of(anatomy)
    inside = places[within(grid, places)]
    if not len(inside):
        return 0.0
    i, j, k = grid.to_index(inside).round().astype(int).clip(0, [n - 1 for n in grid.size]).T
    return float((sitk.GetArrayViewFromImage(anatomy)[k, j, i] != 0).mean())
