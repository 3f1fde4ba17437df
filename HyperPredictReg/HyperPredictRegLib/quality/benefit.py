"""Whether deforming helped: evidence that no engine has optimized, and what follows from it.

A block of voxels is held out by asking its surroundings alone how it is displaced: the displacements of every second block are
left out, with a margin, and filled in from the others. Where a deformation is right, what the surroundings ask for improves the
agreement in the block as well; where it follows noise or another contrast, it does not. Agreement is that of edge directions
(normalized gradients: Haber and Modersitzki, MICCAI 2006, doi:10.1007/11866763_89) and mutual information. Beside them stand what
the images explain of each other, and how unevenly volume changes where the outlines had little left to gain.
`benchmarks/helpfulness.py` shows how far each kind of evidence leads, and where the numbers of the rule come from.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from HyperPredictRegLib.core.formatting import distance, number
from HyperPredictRegLib.preprocessing.working_grid import on_grid
from HyperPredictRegLib.quality.metrics import SAME_DICE, jacobian_determinant
from HyperPredictRegLib.results.report import Benefit, Measured
from HyperPredictRegLib.spatial.geometry import Geometry
from HyperPredictRegLib.spatial.transforms import displacement_field, field_transform

MOST_VOXELS = 90_000
"""The evidence is measured on a grid of at most about this many voxels, so that it costs the same for any image."""

_BLOCK = 4
_MARGIN = 1
_LEAST_OF_BLOCK = 0.25
"""A block counts if this share of it is anatomy."""
_BINS = 24
_SMOOTHING = 0.5
_WINDOW = 2.0
_FLOOR = 1e-3


WEIGHTS = (4.78, -0.88, -2.38, 1.01, 0.5)
INTERCEPT = 0.73
"""Of a logistic rule over `features`: fitted by `benchmarks/helpfulness.py tune`, where both sides weigh the same."""

HELPED, NOT_HELPED = 0.5, 0.0
"""Scores from which deforming is said to have helped, and below which it is said not to: on the tuning rows, cross-validated."""

MOST_UNEVEN = 12.0
"""More than this of the second number counts as this."""

TRIAL_WEIGHTS = (5.0, 20.2, -2.8)
TRIAL_INTERCEPT = -2.94
"""The same of an earlier rule, over what trial registrations tell (`chance_helped`)."""

UNRELATED, APART = 0.16, 0.3
"""If neither before nor after the images explain more of each other, or their foregrounds overlap more, they are nonsense."""

LEAST_BLOCKS = 20
SAME_VOXELS = 0.05
"""Landmark errors that differ by less of a voxel are about the same: .1 mm for a brain at Fast."""

CHANNEL_GAIN = 0.005
"""From this rise of a further channel's normalized mutual information on, the first pair alone cannot speak against deforming."""

SENTENCES = {
    "helped": "Deforming helped.",
    "unclear": "It is unclear whether deforming helped: compare with the affine-only result before you use it.",
    "did not help": "Deforming did not help: keep the affine result.",
    "nonsense": "These images do not show the same anatomy, or the alignment failed: use neither result.",
}
"""What is said first, by level."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for and against a deformation, measured inside the fixed foreground; NaN where there is too little of it.

    Attributes
    ----------
    improved_share : share of the held-out blocks whose edges agree better than by the affine step alone.
    effect : mean gain of the held-out blocks in units of its standard deviation among them. This, `gain_share` and the
        correlations are told; the rule needs none of them.
    gain_share : gain in held-out blocks over the gain that the whole deformation brings there.
    information_before, information_held_out, information_after : normalized mutual information by the affine step alone, with
        every block held out, and by the whole deformation.
    correlation_before, correlation_after : mean squared correlation of the intensities in small windows.
    explained_before, explained_after : share of one image's variance that the other explains, by any relation between their
        intensities; the larger of both ways.
    foreground_before, foreground_after : Dice of the two foregrounds.
    sd_log_jacobian : of the deformation, on the coarse grid.
    blocks : how many there are.
    """

    improved_share: float
    effect: float
    gain_share: float
    information_before: float
    information_held_out: float
    information_after: float
    correlation_before: float
    correlation_after: float
    explained_before: float
    explained_after: float
    foreground_before: float
    foreground_after: float
    sd_log_jacobian: float
    blocks: int


def evidence(
    fixed: sitk.Image,
    moving: sitk.Image,
    deformation: sitk.Transform,
    fixed_foreground: sitk.Image,
    moving_foreground: sitk.Image,
) -> Evidence:
    """Measure the evidence for a deformation.

    Parameters
    ----------
    fixed, moving : float images, about 0 to 1, on one working grid, the moving one aligned.
    deformation : the deformable step alone; maps fixed points to points of `moving`, LPS mm.
    fixed_foreground, moving_foreground : uint8 on that grid, the moving one aligned.
    """
    return Undeformed.of(fixed, moving, fixed_foreground, moving_foreground).evidence(deformation)


@dataclass(frozen=True)
class Undeformed:
    """An aligned pair on a coarse grid, and what the evidence for any deformation of it starts from; it is only read.

    Attributes
    ----------
    grid : the coarse grid.
    moving, moving_foreground : float32 images on it.
    reference, before : voxels of the fixed image and of the moving one.
    inside, aligned : the foregrounds, boolean.
    odd : which blocks are odd on a chessboard.
    seen : by which blocks are held out, the weight of the displacements around them, and the sum of those weights.
    slopes : of the fixed image.
    edges : how well the edges agree.
    correlation : of the fixed image with any other in small windows.
    """

    grid: Geometry
    moving: sitk.Image
    moving_foreground: sitk.Image
    reference: np.ndarray
    before: np.ndarray
    inside: np.ndarray
    aligned: np.ndarray
    odd: np.ndarray
    seen: tuple[tuple[np.ndarray, np.ndarray], ...]
    slopes: list[np.ndarray]
    edges: np.ndarray
    correlation: _LocalCorrelation
    information_before: float
    correlation_before: float
    explained_before: float

    @classmethod
    def of(
        cls, fixed: sitk.Image, moving: sitk.Image, fixed_foreground: sitk.Image, moving_foreground: sitk.Image
    ) -> Undeformed:
        """Look at a pair; parameters are those of `evidence`."""
        grid = coarse_grid(Geometry.of(fixed))
        f, m = on_grid(fixed, grid), on_grid(moving, grid)
        inside, aligned = (
            sitk.GetArrayFromImage(grid.resample(mask, interpolator=sitk.sitkNearestNeighbor)) != 0
            for mask in (fixed_foreground, moving_foreground)
        )
        reference, before = sitk.GetArrayFromImage(f), sitk.GetArrayFromImage(m)
        odd, slopes = _parity(reference.shape), _slopes(reference, inside)
        correlation = _LocalCorrelation.of(reference, inside)
        return cls(
            grid=grid,
            moving=m,
            moving_foreground=grid.resample(sitk.Cast(moving_foreground, sitk.sitkFloat32)),
            reference=reference,
            before=before,
            inside=inside,
            aligned=aligned,
            odd=odd,
            seen=tuple(_weights(odd != held_out) for held_out in (False, True)),
            slopes=slopes,
            edges=_edge_agreement(slopes, _slopes(before, inside)),
            correlation=correlation,
            information_before=_information(reference[inside], before[inside]),
            correlation_before=correlation.squared(before),
            explained_before=_explained(reference, before, inside & aligned),
        )

    def evidence(self, deformation: sitk.Transform) -> Evidence:
        """Measure the evidence for a deformation, which maps fixed points to points of the aligned moving image, LPS mm."""
        inside, reference = self.inside, self.reference
        coarse = displacement_field(deformation, self.grid)
        whole = _warped(self.moving, coarse)
        held_out = np.empty_like(whole)
        for side, weights in zip((False, True), self.seen, strict=True):
            of_side = self.odd == side
            held_out[of_side] = _warped(self.moving, _from_surroundings(coarse, *weights))[of_side]
        edges = [self.edges, *(_edge_agreement(self.slopes, _slopes(one, inside)) for one in (held_out, whole))]
        gains = _block_means(edges[1] - edges[0], inside)
        spread = float(gains.std()) if gains.size else math.nan
        held, own = (float((one - edges[0])[inside].sum()) for one in edges[1:])
        informed = [_information(reference[inside], one[inside]) for one in (held_out, whole)]
        moved = _warped(self.moving_foreground, coarse) >= 0.5
        return Evidence(
            improved_share=float((gains > 0).mean()) if gains.size else math.nan,
            effect=float(gains.mean()) / spread if spread > 0 else 0.0,
            gain_share=held / (abs(own) + 1e-4 * max(int(inside.sum()), 1)),
            information_before=self.information_before,
            information_held_out=informed[0],
            information_after=informed[1],
            correlation_before=self.correlation_before,
            correlation_after=self.correlation.squared(whole),
            explained_before=self.explained_before,
            explained_after=_explained(reference, whole, inside & moved),
            foreground_before=_overlap(inside, self.aligned),
            foreground_after=_overlap(inside, moved),
            sd_log_jacobian=_spread_of_volume(coarse, inside),
            blocks=len(gains),
        )


def features(numbers: Evidence, suited: bool) -> tuple[float, ...]:
    """Return what the rule weighs, in the order of `WEIGHTS`; see `judged_alone`.

    The gain of the variance that one image explains of the other, as a share of what it left; how unevenly the deformation
    changes volume, in units of what the outlines had left to gain (where these agreed before, much deforming speaks against
    itself); contrast; the gain of mutual information with blocks held out, as a share of what there was before; and the share
    of blocks whose edges agree better.
    """
    explained = (numbers.explained_after - numbers.explained_before) / (1.02 - numbers.explained_before)
    uneven = numbers.sd_log_jacobian / (1.05 - numbers.foreground_before)
    informed = numbers.information_held_out - numbers.information_before
    informed /= max(numbers.information_before - 1, 0.01)
    return explained, min(uneven, MOST_UNEVEN), float(not suited), informed, numbers.improved_share


def chance_helped(improved_share: float, gain: float, suited: bool = True) -> float:
    """Return the chance, 0 to 1, that deforming helped: the rule's score as a probability, where either is as likely before.

    Parameters
    ----------
    improved_share : see `Evidence`.
    gain : of the normalized mutual information by the whole deformation.
    suited : see `judged_alone`.
    """
    values = improved_share, min(max(gain, -0.1), 0.2), float(not suited)
    score = TRIAL_INTERCEPT + sum(w * value for w, value in zip(TRIAL_WEIGHTS, values, strict=True))
    return 1 / (1 + math.exp(-score))


def judged_alone(numbers: Evidence, suited: bool = True) -> str:
    """Return the level (of `BENEFITS`) that follows from the evidence without labels or landmarks.

    `suited` : False if the images seem to differ in contrast and the engine compares intensities directly.
    """
    # First, because images that hardly overlap leave few blocks.
    if max(numbers.foreground_before, numbers.foreground_after) < APART:
        return "nonsense"
    if numbers.blocks < LEAST_BLOCKS:
        return "unclear"
    if max(numbers.explained_before, numbers.explained_after) < UNRELATED:
        return "nonsense"
    told = features(numbers, suited)
    score = INTERCEPT + sum(w * value for w, value in zip(WEIGHTS, told, strict=True))
    if not math.isfinite(score):
        return "unclear"
    # A deformation that moves nothing speaks against nothing, and yet it has not helped.
    gained = told[0] > 0 or told[3] > 0
    return "did not help" if score < NOT_HELPED else "helped" if score >= HELPED and gained else "unclear"


def judged(numbers: Evidence, measured: Measured, voxel_mm: float, suited: bool = True) -> Benefit:
    """Judge from the evidence, and from labels or landmarks where these were measured, whether deforming helped.

    The evidence is that of the first pair of images. Where channels beside it agree better after the deformable step, what
    speaks against deforming is not enough to say so.

    `voxel_mm` : smallest spacing of the working grid; `suited` : see `judged_alone`.
    """
    level = judged_alone(numbers, suited)
    risen = [one.number for one in measured.channels if one.similarity_after - one.similarity_before > CHANNEL_GAIN]
    if risen and level in ("did not help", "nonsense"):
        level = "unclear"
    better, words = _told_by_labels(measured, voxel_mm)
    if better < 0 and level in ("helped", "unclear"):
        level = "did not help"
    elif better > 0 and level == "did not help":
        level = "unclear"
    elif better > 0 and level == "unclear":
        level = "helped"
    told = {name: float(value) for name, value in asdict(numbers).items()}
    return Benefit(level, SENTENCES[level], (*words, *_channel_words(measured, risen), *_reasons(numbers, suited)), told)


def _channel_words(measured: Measured, risen: list[int]) -> tuple[str, ...]:
    if not measured.channels:
        return ()
    better = f"; the images of channel {' and '.join(map(str, risen))} agree better than before" if risen else ""
    return (f"Only the first pair of images was judged{better}.",)


def _told_by_labels(measured: Measured, voxel_mm: float) -> tuple[int, tuple[str, ...]]:
    """Return 1 if labels or landmarks agree better after the deformable step, -1 if worse, else 0; and that in words."""
    dice, after, before = measured.dice, measured.tre_mm, measured.tre_before_mm
    if dice is not None and math.isfinite(dice.mean) and math.isfinite(dice.mean_before):
        gain = (dice.mean - dice.mean_before) / SAME_DICE
        words = f"Mean Dice went from {number(dice.mean_before, 3)} to {number(dice.mean, 3)}."
    elif after is not None and before is not None:
        gain = (before.mean - after.mean) / (SAME_VOXELS * voxel_mm)
        from_to = [distance(one.mean, voxel_mm=voxel_mm) for one in (before, after)]
        words = f"The mean landmark error went from {from_to[0]} to {from_to[1]}."
    else:
        return 0, ()
    return int(gain > 1) - int(gain < -1), (words,)


def _reasons(numbers: Evidence, suited: bool) -> tuple[str, ...]:
    overlap = max(numbers.foreground_before, numbers.foreground_after)
    apart = (f"The foregrounds overlap with a Dice of {number(overlap)} at most.",) if overlap < APART else ()
    if numbers.blocks < LEAST_BLOCKS:
        return apart or ("The anatomy is too small for evidence without labels.",)
    before, after = (number(value, 3) for value in (numbers.information_before, numbers.information_after))
    explained = [f"{100 * share:.0f}" for share in (numbers.explained_before, numbers.explained_after)]
    found = [
        f"One image explains {explained[1]} % of the other's variation after deforming, {explained[0]} % after the affine step.",
        f"The change of volume spreads by {number(numbers.sd_log_jacobian)} (standard deviation of its logarithm), where the "
        f"foregrounds had a Dice of {number(numbers.foreground_before)} before.",
        f"Edges agree better than by the affine step alone in {100 * numbers.improved_share:.0f} % of the blocks, each "
        f"deformed as its surroundings ask; the normalized mutual information went from {before} to {after}.",
    ]
    related = max(numbers.explained_before, numbers.explained_after)
    if related < UNRELATED:
        found.append(f"Inside the anatomy one image explains {100 * related:.0f} % of the other's variation at most.")
    if not suited:
        found.append("The images seem to differ in contrast, which this registration method does not allow for.")
    return (*found, *apart)


def coarse_grid(grid: Geometry, most: int = MOST_VOXELS) -> Geometry:
    """Return a grid of about `most` voxels over a working grid, or that grid itself where it has no more."""
    coarser = (grid.voxel_count / most) ** (1 / 3)
    return grid if coarser <= 1.1 else grid.covering(grid.corners_lps(), coarser * min(grid.spacing), 0.0)


def _warped(image: sitk.Image, field: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(Geometry.of(image).resample(image, field_transform(field)))


def _parity(shape: tuple[int, ...]) -> np.ndarray:
    """Return which blocks are even and which are odd, like the fields of a chessboard."""
    along = [(np.arange(n) // _BLOCK).reshape([-1 if k == axis else 1 for k in range(3)]) for axis, n in enumerate(shape)]
    return np.asarray((along[0] + along[1] + along[2]) % 2 == 1)


def _weights(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how much the displacements of the `seen` blocks count, none in their margin, and the sum of that around voxels."""
    weight = ndimage.binary_erosion(seen, np.ones((3, 3, 3)), iterations=_MARGIN, border_value=1).astype(np.float32)
    return weight, ndimage.gaussian_filter(weight, _BLOCK / 2, truncate=3.0) + np.float32(1e-6)


def _from_surroundings(field: sitk.Image, weight: np.ndarray, total: np.ndarray) -> sitk.Image:
    """Return the displacements that those with a weight ask for everywhere; see `_weights`."""
    vectors = sitk.GetArrayFromImage(field)
    for axis in range(3):
        vectors[..., axis] = ndimage.gaussian_filter(vectors[..., axis] * weight, _BLOCK / 2, truncate=3.0) / total
    return Geometry.of(field).apply_to(sitk.GetImageFromArray(vectors, isVector=True))


def _slopes(image: np.ndarray, inside: np.ndarray) -> list[np.ndarray]:
    """Return the gradient of an image, about 1 long at clear edges and short where nothing is."""
    slopes = np.gradient(ndimage.gaussian_filter(image, _SMOOTHING))
    squared = slopes[0] ** 2 + slopes[1] ** 2 + slopes[2] ** 2
    level = 0.25 * float(squared[inside].mean()) if inside.any() else 1.0
    length = np.sqrt(squared + (level + 1e-12))
    return [slope / length for slope in slopes]


def _edge_agreement(one: list[np.ndarray], other: list[np.ndarray]) -> np.ndarray:
    """Return the squared cosine between the edges of two images, whatever is bright in which, weighted by their clearness."""
    return np.asarray(sum(a * b for a, b in zip(one, other, strict=True)) ** 2)


def _block_means(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    counts = [-(-n // _BLOCK) for n in values.shape]
    along = [(np.arange(n) // _BLOCK).reshape([-1 if k == axis else 1 for k in range(3)]) for axis, n in enumerate(values.shape)]
    block = ((along[0] * counts[1] + along[1]) * counts[2] + along[2])[inside]
    voxels = np.bincount(block, minlength=1)
    enough = voxels >= _LEAST_OF_BLOCK * _BLOCK**3
    return np.asarray(np.bincount(block, weights=values[inside], minlength=1)[enough] / voxels[enough])


def _information(one: np.ndarray, other: np.ndarray) -> float:
    """Return the normalized mutual information of two samples, 1 to 2."""
    if one.size == 0:
        return math.nan
    joint = np.histogram2d(one, other, bins=_BINS)[0] / one.size
    whole, rows, columns = (-float((p[p > 0] * np.log(p[p > 0])).sum()) for p in (joint, joint.sum(axis=1), joint.sum(axis=0)))
    return (rows + columns) / whole if whole > 0 else 1.0


def _explained(one: np.ndarray, other: np.ndarray, inside: np.ndarray) -> float:
    """Return the correlation ratio of two images inside a mask, the larger of both ways; 0 to 1."""
    core = ndimage.binary_erosion(inside, iterations=2, border_value=1)
    # The rim of any two outlines explains itself; of thin anatomy nothing else is left.
    inside = core if core.sum() >= 0.1 * inside.sum() else inside
    found = [0.0]
    for given, asked in ((one[inside], other[inside]), (other[inside], one[inside])):
        if asked.size and float(asked.var()) > 0:
            place = np.searchsorted(np.quantile(given, np.linspace(0, 1, _BINS + 1)[1:-1]), given)
            counts = np.bincount(place, minlength=_BINS)
            means = np.bincount(place, weights=asked, minlength=_BINS) / np.maximum(counts, 1)
            found.append(float((counts * (means - asked.mean()) ** 2).sum() / (asked.size * asked.var())))
    return max(found)


@dataclass(frozen=True)
class _LocalCorrelation:
    """What the correlation of one image with others in small windows takes of that one image."""

    image: np.ndarray
    inside: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray, inside: np.ndarray) -> _LocalCorrelation:
        mean = _windowed(image)
        return cls(image, inside, mean, np.maximum(_windowed(image * image) - mean * mean, 0) + _FLOOR)

    def squared(self, other: np.ndarray) -> float:
        """Return the mean squared correlation with another image inside the anatomy."""
        one = _LocalCorrelation.of(other, self.inside)
        squared = (_windowed(self.image * other) - self.mean * one.mean) ** 2 / (self.variance * one.variance)
        return float(squared[self.inside].mean()) if self.inside.any() else math.nan


def _windowed(image: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.gaussian_filter(image, _WINDOW, truncate=2.5))


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    together = int(one.sum()) + int(other.sum())
    return 2 * float((one & other).sum()) / together if together else 0.0


def _spread_of_volume(field: sitk.Image, inside: np.ndarray) -> float:
    values = sitk.GetArrayFromImage(jacobian_determinant(field))[inside]
    return float(np.log(np.clip(values, 1e-9, 1e9)).std()) if values.size else math.nan
