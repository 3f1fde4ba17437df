"""The features of every pair of a sweep: what a predictor learns from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import SimpleITK as sitk
from HyperPredictRegLib.engines import engine_settings, get_engine
from HyperPredictRegLib.errors import HyperPredictRegError
from HyperPredictRegLib.predictor.features import VERSION, pair_features

from HyperPredictRegLab.sweep.runs import PreparedPair, Row, SweepSettings


def feature_rows(prepared: PreparedPair, settings: SweepSettings) -> list[Row]:
    """Compute the features of a prepared pair.

    Returns
    -------
    rows : the first for the pair (``label`` 0, its features as ``pair_<name>``), then one per structure of the moving
        segmentation (``token_<name>``). A pair that cannot be described has one row with the reason in ``error``.
    """
    engine = get_engine(settings.engine)
    common: Row = {"features_version": VERSION, "error": "", "label": 0}
    try:
        found = pair_features(
            prepared.inputs,
            prepared.pair,
            prepared.alignment,
            engine,
            engine_settings(engine, settings.engine_settings),
            seed=settings.seed,
        )
    except HyperPredictRegError as error:
        return [common | {"error": str(error)}]
    rows = [common | {f"pair_{name}": value for name, value in found.pair.items()}]
    return rows + [
        common | {"label": label} | {f"token_{name}": value for name, value in token.items()}
        for label, token in found.tokens.items()
    ]


def affine_from(matrix: Mapping[str, float]) -> sitk.AffineTransform:
    """Return the transform whose matrix a sweep's table holds in its columns ``affine_matrix_00`` ... ``affine_matrix_23``."""
    values = np.array([[matrix[f"affine_matrix_{r}{c}"] for c in range(4)] for r in range(3)], dtype=float)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(values[:, :3].ravel().tolist())
    transform.SetTranslation(values[:, 3].tolist())
    return transform
