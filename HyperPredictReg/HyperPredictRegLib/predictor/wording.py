"""Features in words, for physicians."""

from __future__ import annotations

_WORDS = {
    "log_voxel_mm": "the voxel size of the working grid",
    "log_fixed_volume": "the size of the anatomy",
    "log_volume_ratio": "the moving anatomy's volume against the fixed one's",
    "foreground_share": "the share of the working grid that the anatomy fills",
    "foreground_overlap": "the overlap of the two foregrounds after the affine step",
    "log_affine_scale": "the overall scaling by the affine step",
    "log_affine_stretch": "the stretch by the affine step",
    "log_spacing_voxels": "the voxel size of the {side} image",
    "log_anisotropy": "the slice thickness of the {side} image",
    "spread": "the contrast inside the {side} image",
    "entropy": "the variety of grey values of the {side} image",
    "roughness": "the noise of the {side} image",
    "roughness_tail": "the sharpness of edges of the {side} image",
    "bias": "the shading across the {side} image",
    "correlation": "the correlation of the images {when}",
    "difference": "the difference of grey values {when}",
    "edges": "the agreement of edges {when}",
    "edges_squared": "the agreement of edges, light or dark, {when}",
    "information": "the mutual information of the images {when}",
}
_PROBE_WORDS = {
    "folding": "the folding in the foreground of {probe}",
    "folding_box": "the folding anywhere in {probe}",
    "near_folding": "the strong compression in {probe}",
    "roughness": "the roughness of the deformation in {probe}",
    "compression": "the strongest compression in {probe}",
    "expansion": "the strongest expansion in {probe}",
    "shift": "the mean displacement in {probe}",
    "shift_tail": "the largest displacements in {probe}",
    "to_next": "the change of the deformation from {probe} to the next stiffer one",
}
_PROBES = ("the loosest trial registration", "the middle trial registration", "the stiffest trial registration")


def feature_words(name: str, standard: float) -> str:
    """Return a sentence on a feature that lies `standard` standard deviations from what is usual."""
    direction = "higher" if standard > 0 else "lower"
    how = "far " if abs(standard) > 4 else ""
    amount = f"{standard:+.1f}" if abs(standard) < 20 else "more than 20"
    return f"{_words(name).capitalize()} is {how}{direction} than usual ({amount} standard deviations)."


def _words(name: str) -> str:
    if name in _WORDS:
        return _WORDS[name]
    head, _, rest = name.partition("_")
    if head in ("fixed", "moving"):
        if rest in _WORDS:
            return _WORDS[rest].format(side=head)
        if rest[:1] == "p" and rest[1:].isdigit():
            return f"the brightness at percentile {rest[1:]} of the {head} image"
    if head.startswith("probe") and head[5:].isdigit():
        probe = _PROBES[min(int(head[5:]), len(_PROBES) - 1)]
        if rest in _PROBE_WORDS:
            return _PROBE_WORDS[rest].format(probe=probe)
        when = f"after {probe}"
    else:
        when = "after the affine step"
    if rest.startswith("local"):
        return f"the local correlation of the images {when}"
    return _WORDS.get(rest, rest.replace("_", " ") + " {when}").format(when=when)
