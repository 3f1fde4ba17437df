"""From a command's options, or a file, to the job that they ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from HyperPredictRegLib.cli.options import CHOOSING, given, settings
from HyperPredictRegLib.cli.structures import structure_weights, trained_names, user_names
from HyperPredictRegLib.errors import InputError
from HyperPredictRegLib.files import checked_path, read_text

if TYPE_CHECKING:
    from HyperPredictRegLib.job import Criterion, Job

_AS_THEY_ARE = (
    "fixed", "moving", "out", "fixed_labels", "moving_labels", "fixed_mask", "moving_mask", "fixed_landmarks", "moving_landmarks",
    "label_names", "initial_transform", "engine", "predictor", "preset", "seed", "reproducible", "scene",
)  # fmt: skip


def job_of(context: typer.Context) -> Job:
    """Return the job that the options of a command ask for; its paths are absolute, so it can be done again from anywhere.

    Raises
    ------
    InputError : an option is missing, contradicts another or cannot be understood.
    """
    from HyperPredictRegLib.engines import get_engine
    from HyperPredictRegLib.job import Job

    options = context.params
    if any(options[name] is None for name in ("fixed", "moving", "out")):
        raise InputError(
            f"Give a fixed image, a moving image and --out FOLDER; see hyperpredictreg {context.info_name} --help."
        )
    weight = options.get("weight")
    if weight is not None and (beside := given(context, CHOOSING)):
        raise InputError(f"{beside[0]} says how λ is chosen, but --weight gives it: leave out one of the two.")
    return absolute(
        Job(
            **{name: options[name] for name in _AS_THEY_ARE if name in options},
            hyperparameters={} if weight is None else {get_engine(options["engine"]).hyperparameters[0].name: weight},
            engine_settings=settings(options["set_engine"]),
            alignment=settings(options["set_alignment"]),
            criterion=criterion_of(options),
            stability_seeds=options.get("stability", 0),
        )
    )


def criterion_of(options: Mapping[str, Any]) -> Criterion:
    """Return the criterion that the options ask for."""
    from HyperPredictRegLib.job import Criterion

    counted: dict[str, float] = {}
    if options["structures"] is not None:
        named = user_names(options["label_names"], options["moving_labels"])
        trained = trained_names(options["predictor"], options["engine"], options["preset"])
        counted = structure_weights(options["structures"], named, trained)
    return Criterion(
        rule=options["rule"],
        folding_limit=limit_of(options["limit"]),
        domain=options["domain"],
        cautious=not options["not_cautious"],
        structures=counted,
        combine=options["combine"],
        tolerance=options["tolerance"],
    )


def limit_of(text: str) -> float | None:
    """Read a folding limit: a number, with or without a percent sign, or "none"."""
    if text.strip().casefold() == "none":
        return None
    try:
        return float(text.strip().removesuffix("%"))
    except ValueError as error:
        raise InputError(f"--limit '{text}' should be a number of percent such as 0.5, or none.") from error


def check_alone(context: typer.Context) -> None:
    """Raise `InputError` for options beside --job that the job would override in silence."""
    allowed = {"job", "out", "overwrite", "no_page", "as_json", "quiet"}
    beside = given(context, tuple(name for name in context.params if name not in allowed))
    if beside:
        raise InputError(f"'{beside[0]}' cannot stand beside --job: edit the job file instead.")


def read_job(path: str, out: str | None) -> Job:
    """Read the job in a job.json, or the one inside a report.json or prediction.json.

    Parameters
    ----------
    out : output folder in place of the job's own, or None.

    Raises
    ------
    InputError : the file cannot be read or holds no job.
    """
    from HyperPredictRegLib.job import Job
    from HyperPredictRegLib.records import from_plain, parsed_json

    data = parsed_json(read_text(Path(checked_path(path, "job")), "job"), f"The job '{path}'")
    if isinstance(data, dict) and isinstance(data.get("job"), dict):
        data = data["job"]
    if out is not None and isinstance(data, dict):
        data = data | {"out": out}
    return absolute(from_plain(Job, data, f"the job '{path}'"))


def absolute(task: Job) -> Job:
    """Return the job with absolute paths."""
    from HyperPredictRegLib.job import PATHS

    paths = {name: getattr(task, name) for name in PATHS}
    if task.predictor not in ("bundled", "none"):
        paths["predictor"] = task.predictor
    changes: dict[str, Any] = {
        name: str(Path(checked_path(path, name.replace("_", " "))).absolute()) for name, path in paths.items() if path is not None
    }
    return replace(task, **changes)
