"""λ* for a job: by a trained predictor or the bootstrap rule, else a fixed value, and always with the reason in words."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from HyperPredictRegLib.core.errors import InputError, RegistrationError
from HyperPredictRegLib.core.formatting import capitalized
from HyperPredictRegLib.core.progress import CancelCheck, Progress, ProgressEvent, never, silent
from HyperPredictRegLib.core.search_space import SearchSpace
from HyperPredictRegLib.engines.base import engine_used
from HyperPredictRegLib.predictor.card import Card
from HyperPredictRegLib.predictor.evidence import PairEvidence, as_features
from HyperPredictRegLib.results.prediction import Band, Choice, Prediction
from HyperPredictRegLib.selection import interpolated
from HyperPredictRegLib.workflow.bootstrapping import found_evidence, predicted_by_bootstrap
from HyperPredictRegLib.workflow.planning import Plan, bundle_folders, fitting_card, load_predictor, structure_names
from HyperPredictRegLib.workflow.preparing import Prepared, settled_settings
from HyperPredictRegLib.workflow.reusing import chosen_by

if TYPE_CHECKING:
    import SimpleITK as sitk

    from HyperPredictRegLib.predictor.features import Described, PairFeatures
    from HyperPredictRegLib.predictor.predictor import Predictor

_T = TypeVar("_T")

NOT_AS_ALIGNED = "nothing can be predicted for this pair as it is aligned"
"""Why no prediction is used for a pair whose alignment is refused."""

FIRST_PAIR_ONLY = "The prediction looks at the first pair of images only: what the other channels change is not predicted."

TRIALS_NOT_ASKED_FOR = "trials with this engine, which may take minutes, were not asked for"

AGAINST = "what was measured of this pair speaks against it"
"""Why no suggestion is made where there is a prediction."""


def choose_setting(
    plan: Plan,
    prepared: Prepared,
    cancelled: CancelCheck = never,
    progress: Progress = silent,
    *,
    at_any_cost: bool = True,
) -> tuple[Choice, Prediction | None]:
    """Choose a setting for an aligned pair, and return it with the prediction for the pair, if there is one.

    A setting that the user gave goes first, then the prediction that the job names, then a new one: by the trained predictor that
    fits the job and knows such pairs, else by the bootstrap rule; else a fixed value is taken. What speaks against the alignment
    speaks against a prediction.

    Parameters
    ----------
    at_any_cost : whether the bootstrap rule may be used with engines that are not built in, whose trial registrations may take
        minutes.

    Raises
    ------
    InputError : the job names a bundle that cannot be used, or a structure that is not predicted.
    RegistrationError : a probe diverged.
    Cancelled : the caller asked to stop.
    """
    job, name = plan.job, plan.engine.info.name
    if job.setting:
        setting = prepared.space.complete(job.setting, name)
        return Choice(setting, f"{prepared.space.text(setting)} was given.", by="user"), plan.prediction
    if plan.prediction is not None:
        return plan.prediction.choice, plan.prediction
    if job.predictor == "none":
        return _fixed(prepared.space, None, "the job asks for no prediction"), None
    looked = _Looked(plan, prepared, progress, cancelled)
    trained, card, why = _trained(plan, prepared, looked)
    # With an outlook, unreliable means that failure was measured, which trying more settings would not cure.
    told = trained is not None and (prepared.alignment.refusals or trained.outlook is not None)
    if trained is not None and (told or trained.reliability.level != "unreliable"):
        return trained.choice, trained
    if not at_any_cost and plan.engine.info.kind != "built-in":
        return _fixed(prepared.space, card, f"{why}, and {TRIALS_NOT_ASKED_FOR}"), trained
    doubts = _doubts(plan, prepared, trained=False)
    fixed = _fixed(prepared.space, card, NOT_AS_ALIGNED if prepared.alignment.refusals else AGAINST)
    try:
        found = predicted_by_bootstrap(plan, prepared, looked.evidence, fixed, f"{capitalized(why)}.", doubts)
    except (InputError, RegistrationError) as error:
        return (_fixed(prepared.space, card, str(error).rstrip(".")), None) if trained is None else (trained.choice, trained)
    prediction = chosen_by(found, job.criterion, prepared.space)
    return prediction.choice, prediction


@dataclass
class _Looked:
    """What predictors are told of a pair: found when it is first asked for, and once for all of them."""

    plan: Plan
    prepared: Prepared
    progress: Progress
    cancelled: CancelCheck
    _found: dict[str, Any] = field(default_factory=dict)

    def _once(self, name: str, find: Callable[[], _T]) -> _T:
        """Return what is found, or raise what kept it from being found; it is looked for once."""
        if name not in self._found:
            try:
                self._found[name] = find()
            except (InputError, RegistrationError) as error:
                self._found[name] = error
        found = self._found[name]
        if isinstance(found, Exception):
            raise found
        return found

    @property
    def settings(self) -> Any:
        """Return the engine's settings for coarser grids; errors are those of `settled_settings`."""
        return self._once("settings", lambda: settled_settings(self.plan, self.prepared, self.cancelled))

    @property
    def geometry(self) -> dict[str, float]:
        """Return the features that tell where it lies and how it is sampled."""
        from HyperPredictRegLib.predictor.features import geometry

        prepared = self.prepared
        return self._once("geometry", lambda: geometry(prepared.inputs, prepared.pair, prepared.affine, self._drawn))

    @property
    def described(self) -> Described:
        """Return what it shows before any trial registration; errors are those of `features.described`."""
        return self._once("described", self._described)

    @property
    def features(self) -> PairFeatures:
        """Return its features; errors are those of `described`, `probed` and `settled_settings`."""
        return self._once("features", self._features)

    @property
    def evidence(self) -> PairEvidence:
        """Return the evidence about it; errors are those of `found_evidence` and `settled_settings`."""
        return self._once("evidence", self._evidence)

    def told(self, predictor: Predictor) -> tuple[PairFeatures, dict[str, float] | None]:
        """Return features and evidence as far as a predictor reads them; errors are those of either."""
        from HyperPredictRegLib.predictor.features import PairFeatures

        features = None
        if predictor.reads_features:
            features = self.features
        elif predictor.reads_tokens and self.prepared.inputs.moving.labels is not None:
            # Without them structures are not told apart, but all else is.
            with contextlib.suppress(InputError, RegistrationError):
                features = self.features
        evidence = as_features(self.evidence) if predictor.reads_evidence else None
        return features or PairFeatures(self.geometry, {}), evidence

    @property
    def _drawn(self) -> sitk.Transform | None:
        """Return by what the moving image was sampled, if that is more than the alignment."""
        return None if self.prepared.pull is None else self.prepared.pull.through

    def _described(self) -> Described:
        # Imported late: features need nothing that Slicer lacks, but whoever gives λ needs none of them.
        from HyperPredictRegLib.predictor.features import described

        prepared = self.prepared
        self.progress(ProgressEvent("predict", 0.0, "describing the pair"))
        return described(prepared.inputs, prepared.pair, prepared.affine, self._drawn)

    def _features(self) -> PairFeatures:
        from HyperPredictRegLib.predictor.features import probed

        plan = self.plan
        return probed(self.described, plan.engine, self.settings, seed=plan.job.seed, cancelled=self.cancelled)

    def _evidence(self) -> PairEvidence:
        return found_evidence(self.plan, self.prepared, self.settings, self.progress, self.cancelled)


def _trained(plan: Plan, prepared: Prepared, looked: _Looked) -> tuple[Prediction | None, Card | None, str]:
    """Return what a trained predictor says of the pair, the card whose fixed setting suits it, and why it cannot serve.

    The first one that is reliable serves, else the last one that says anything. What it does not tell, such as the expected
    error, is told by whichever tells it.
    """
    folders = bundle_folders(plan.job)
    if not folders:
        job = plan.job
        return None, None, f"no trained predictor comes with the engine '{job.engine}' at the preset '{job.preset}'"
    # A bundle for any pair has no names of its own, but a criterion may ask for those of the first one.
    names = structure_names(folders[0], prepared.inputs)
    found: list[tuple[Prediction, Card]] = []
    failed: _NotPredictable | None = None
    later: list[Path] = []
    # One that is sure not to know the pair is asked only where no other one answers: its features cost trial registrations.
    for folder, asked_last in itertools.chain(((folder, False) for folder in folders), ((folder, True) for folder in later)):
        if asked_last and found:
            break
        try:
            found.append(_predicted(plan, prepared, folder, names, looked, asked_last))
        except _UnlikeAll:
            later.append(folder)
        except _NotPredictable as error:
            failed = failed or error
    if not found:
        return (None, None, "") if failed is None else (None, failed.card, failed.reason)
    prediction, card = next((one for one in found if one[0].reliability.level == "reliable"), found[-1])
    for other, _ in found:
        prediction = _told_more(prediction, other)
    # What was told last may be what counts for the goal.
    prediction = chosen_by(prediction, plan.job.criterion, prepared.space)
    reasons = prediction.reliability.reasons
    unknown = f"the trained predictor {prediction.predictor} does not know such pairs"
    return prediction, card, f"{unknown}: {reasons[0].rstrip('.')}" if reasons else unknown


_MORE = ("error_mm", "error_95_mm", "overlap_gain")
"""Bands of a surface that another predictor may tell."""

_WITHIN = 0.9
"""Of the settings of a surface, the share that another one has to reach."""


def _told_more(prediction: Prediction, other: Prediction) -> Prediction:
    """Return a prediction with what it does not tell itself but another one of the pair does."""
    prediction = replace(prediction, outlook=prediction.outlook or other.outlook)
    surface, known = prediction.surface, other.surface.bands
    missing = [name for name in _MORE if name not in surface.bands and name in known]
    if not missing or surface.names != other.surface.names or other.reliability.level == "unreliable":
        return prediction
    low, high = other.surface.values.min(axis=0), other.surface.values.max(axis=0)
    within = np.clip(surface.values, low, high)
    told = np.isclose(within, surface.values).all(axis=1)
    if told.mean() < _WITHIN:
        return prediction
    bands = interpolated(other.surface, within).bands
    # Where the other one was not trained it says nothing, and so nothing is chosen by it there.
    more: dict[str, Any] = {
        name: Band(*(np.where(told, part, np.nan) for part in (bands[name].value, bands[name].lower, bands[name].upper)))
        for name in missing
    }
    surface = replace(surface, voxel_mm=surface.voxel_mm or other.surface.voxel_mm, **more)
    return replace(prediction, surface=surface, further=other.predictor)


class _UnlikeAll(Exception):  # noqa: N818 - named for what was found; it is not a fault
    """A pair is unlike all that a predictor knows, whatever trial registrations would show."""


class _NotPredictable(Exception):  # noqa: N818 - named for what was found; it is not a fault
    """Nothing can be predicted for a pair: why, and the card whose fixed setting suits it nevertheless."""

    def __init__(self, error: Exception, card: Card | None) -> None:
        super().__init__(str(error))
        self.reason, self.card = str(error).rstrip("."), card


def _predicted(
    plan: Plan, prepared: Prepared, folder: Path, names: Mapping[int, str], looked: _Looked, at_any_cost: bool
) -> tuple[Prediction, Card]:
    """Return what a bundle predicts; raise `_UnlikeAll` where it is sure to know nothing, unless asked `at_any_cost`."""
    job, engine, settings, inputs, alignment = plan.job, plan.engine, plan.engine_settings, prepared.inputs, prepared.alignment
    bundled = job.predictor == "bundled"
    try:
        predictor = load_predictor(folder, engine, settings, job.preset, plan.alignment)
    except InputError as error:
        if not bundled:
            raise
        raise _NotPredictable(error, fitting_card(folder, engine, settings)) from error
    card = predictor.bundle.card
    try:
        if not at_any_cost and predictor.reads_features and predictor.knows_nothing_like(looked.described.features):
            raise _UnlikeAll
        features, evidence = looked.told(predictor)
    except (InputError, RegistrationError) as error:
        raise _NotPredictable(error, card) from error
    try:
        surface, reliability, warnings = predictor.predict(
            features,
            names=inputs.label_names if card.structures else names,
            evidence=evidence,
            within=prepared.space,
            doubts=_doubts(plan, prepared, trained=True),
            refusals=alignment.refusals,
        )
    except InputError as error:
        if not bundled:
            raise
        raise _NotPredictable(error, None) from error
    prediction = Prediction(
        job=job,
        engine=engine_used(engine, settings),
        predictor=predictor.name,
        bundle_sha256=card.model_sha256,
        reliability=reliability,
        criterion=job.criterion,
        choice=_fixed(prepared.space, card, NOT_AS_ALIGNED if alignment.refusals else AGAINST),
        structures=(),
        surface=surface,
        seconds={},
        warnings=(*inputs.notes, *alignment.warnings, *warnings),
        alignment=alignment,
        inputs=inputs.checksums,
        notes=inputs.notes,
        versions={"torch": str(sys.modules["torch"].__version__)},
        outlook=predictor.outlook(features, surface, reliability, evidence),
    )
    return chosen_by(prediction, job.criterion, prepared.space), card


def _doubts(plan: Plan, prepared: Prepared, *, trained: bool) -> tuple[str, ...]:
    """Return sentences on what forbids a reliable prediction, by a trained predictor or by the bootstrap rule."""
    doubts, info = prepared.alignment.doubts, plan.engine.info
    if prepared.pull is not None:
        pulled = "as with none of the pairs that the predictor was trained on" if trained else "but not the trial registrations"
        doubts = (*doubts, f"Landmarks pull the deformation, {pulled}.")
    if plan.job.channels:
        doubts = (*doubts, FIRST_PAIR_ONLY)
    if prepared.alignment.contrast != "different" or not (trained or info.contrasts == "same"):
        return doubts
    unsuited = f"and the registration method {info.title} compares intensities directly."
    why = unsuited if info.contrasts == "same" else "as in few of the pairs that the predictor was trained on."
    return (*doubts, f"Inside the anatomy the two images seem to differ in contrast, {why}")


def _fixed(space: SearchSpace, card: Card | None, reason: str) -> Choice:
    given = {} if card is None else card.fixed
    # The engine may accept less for this pair than for those of the training.
    setting = space.complete({p.name: min(max(given[p.name], p.low), p.high) for p in space if p.name in given})
    origin = "the engine's default" if card is None else "the fixed value that suits the training pairs best"
    # A reason that was a sentence of its own starts with a capital; names such as PyTorch keep theirs.
    lowered = reason[0].lower() + reason[1:] if reason.startswith(("The ", "A ")) else reason
    return Choice(setting, f"{space.text(setting)} is {origin}, taken because {lowered}.", by="fixed", fixed=setting)
