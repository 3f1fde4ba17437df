"""From a command's options, or a file, to the job that they ask for."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from HyperPredictRegLib.core.errors import InputError
from HyperPredictRegLib.core.files import checked_path, read_text, shown

if TYPE_CHECKING:
    from HyperPredictRegLib.results.job import Channel, Criterion, Job

Out = Annotated[str, typer.Option("--out", "-o", help="Folder for the results; made if it does not exist.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]

FixedLabels = Annotated[str | None, typer.Option(help="Label map on the fixed image's grid, to measure Dice against.")]
MovingLabels = Annotated[str | None, typer.Option(help="Label map on the moving image's grid, to transform.")]
FixedMask = Annotated[str | None, typer.Option(help="Where the fixed image may be compared (not 0).")]
MovingMask = Annotated[str | None, typer.Option(help="Where the moving image may be compared (not 0).")]
FixedLandmarks = Annotated[str | None, typer.Option(help="Points (.mrk.json, .fcsv, .csv), for what --landmarks-for says.")]
MovingLandmarks = Annotated[str | None, typer.Option(help="The same points in the moving image, in the same order.")]
LandmarksFor = Annotated[
    str,
    typer.Option(help="measuring (distances in mm), start (the alignment starts from their fit), or 'start and deformation'."),
]
LabelNames = Annotated[str | None, typer.Option(help="CSV file with the columns label,name.")]
FixedChannel = Annotated[
    list[str] | None, typer.Option(help="Fixed image of one more channel, such as T2 beside T1; may repeat.")
]
MovingChannel = Annotated[list[str] | None, typer.Option(help="Its moving image; as many, in the same order.")]
ChannelWeight = Annotated[
    list[float] | None, typer.Option(help="Weight of that channel (the first pair's is 1); for each of them or for none.")
]
InitialTransform = Annotated[str | None, typer.Option(help="Transform file to start from, fixed to moving points.")]

EngineName = Annotated[str | None, typer.Option("--engine", help="Registration method.")]
"""Its help is made by `HELP_OF_ENGINES` when it is shown, so that nothing else loads the engines."""
Preset = Annotated[str, typer.Option(help="fast (2 mm for a brain), standard (1.5 mm) or fine (fixed image's own).")]
Seed = Annotated[int, typer.Option(help="Fixes every random choice; not 0.")]
Reproducible = Annotated[bool, typer.Option("--reproducible", help="One thread: equal results bit for bit.")]
Device = Annotated[str, typer.Option(help="What computes the deformable step: cpu, or cuda where the engine can.")]
SetAlignment = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Alignment setting; may repeat.")]
SetEngine = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Engine setting; may repeat.")]

Rule = Annotated[str, typer.Option("--criterion", help="How a setting is chosen: plateau, maximum or knee.")]
Goal = Annotated[
    str, typer.Option(help="What counts: overlap of structures, accuracy of every point in mm, or auto: Dice if predicted.")
]
Limit = Annotated[str, typer.Option("--limit", metavar="PERCENT", help="Folded voxels that may not be exceeded, or none.")]
Domain = Annotated[str, typer.Option(help="What the limit is a percentage of: foreground or grid.")]
Structures = Annotated[
    str | None, typer.Option(metavar="NAMES", help="Which count, with weights: 'left hippocampus,53:2'. All if left out.")
]
Combine = Annotated[str, typer.Option(help="What counts of the structures' Dice: mean or worst.")]
Tolerance = Annotated[float, typer.Option(help="Dice that plateau may give up for a smoother field.")]
PredictorName = Annotated[str, typer.Option("--predictor", help="bundled, the folder of another bundle, or none.")]
Trials = Annotated[bool, typer.Option("--trials", help="With a program or network, too, let trial registrations choose.")]
NotCautious = Annotated[bool, typer.Option("--not-cautious", help="Hold the best guess, not its band, under the limit.")]

CHOOSING = ("rule", "goal", "limit", "domain", "structures", "combine", "tolerance", "predictor", "trials", "not_cautious")
"""Parameters that say how a setting is chosen."""

_MOST_DIGITS = 10
_AS_THEY_ARE = (
    "fixed", "moving", "out", "fixed_labels", "moving_labels", "fixed_mask", "moving_mask", "fixed_landmarks", "moving_landmarks",
    "landmarks_for", "trials",
    "label_names", "initial_transform", "engine", "predictor", "prediction", "preset", "seed", "reproducible", "device",
    "scene",
)  # fmt: skip


def job_of(context: typer.Context) -> Job:
    """Return the job that the options of a command ask for; its paths are absolute, so it can be done again from anywhere.

    What is not given is as in the job of the prediction, if one is given, else as a job has it by itself.

    Raises
    ------
    InputError : an option is missing, contradicts another or cannot be understood.
    """
    from HyperPredictRegLib.engines import engine_names, get_engine
    from HyperPredictRegLib.results.job import Job

    options, names = context.params, given(context)
    prediction = options.get("prediction")
    if options["out"] is None or (prediction is None and (options["fixed"] is None or options["moving"] is None)):
        raise InputError(f"Give a fixed image, a moving image and --out FOLDER; see hyperpredictreg {context.info_name} --help.")
    if prediction is None:
        task = Job(options["fixed"], options["moving"], options["out"], engine=engine_names()[0])
    else:
        task = read_job(_file_of(prediction), what="prediction")
    task = replace(task, **{name: options[name] for name in _AS_THEY_ARE if name in names})
    if any(name in names for name in ("fixed_channel", "moving_channel", "channel_weight")):
        task = replace(task, channels=_channels(options))
    if "set_engine" in names:
        task = replace(task, engine_settings=settings(options["set_engine"]))
    if "set_alignment" in names:
        task = replace(task, alignment=settings(options["set_alignment"]))
    if "stability" in names:
        task = replace(task, stability_seeds=options["stability"])
    if by := next((name for name in ("weight", "set_parameters") if name in names), None):
        if beside := next((name for name in CHOOSING if name in names), None):
            raise InputError(f"{names[beside]} says how λ is chosen, but {names[by]} gives it: leave out one of the two.")
        space = get_engine(task.engine, task.engine_settings).info.search_space
        setting = numbers_by_name(options["set_parameters"], "--set")
        if options["weight"] is not None and setting.setdefault(space.first.name, options["weight"]) != options["weight"]:
            raise InputError(f"--weight and --set give two values for {space.first.name}: leave out one of them.")
        task = replace(task, setting=space.complete(setting, task.engine))
    return absolute(replace(task, criterion=_criterion(task, options, [name for name in CHOOSING if name in names])))


def given(context: typer.Context) -> dict[str, str]:
    """Return which of a command's parameters were given on the command line, and how each one is written there."""
    written = {parameter.name or "": parameter.opts[0] for parameter in context.command.params}
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name: written.get(name, name) for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def check_alone(context: typer.Context) -> None:
    """Raise `InputError` for options beside --job that the job would override in silence."""
    allowed = {"job", "out", "overwrite", "no_page", "as_json", "quiet"}
    for name, written in given(context).items():
        if name not in allowed:
            raise InputError(f"'{written}' cannot stand beside --job: edit the job file instead.")


def read_job(path: str, out: str | None = None, *, what: str = "job") -> Job:
    """Read the job in a job.json, or the one inside a report.json or prediction.json.

    Parameters
    ----------
    out : output folder in place of the job's own, or None.
    what : how to call the file in an error.

    Raises
    ------
    InputError : the file cannot be read or holds no job.
    """
    from HyperPredictRegLib.core.json_records import from_plain, parsed_json
    from HyperPredictRegLib.results.job import Job

    data = parsed_json(read_text(Path(checked_path(path, what)), what), f"The {what} '{path}'")
    if isinstance(data, dict) and isinstance(data.get("job"), dict):
        data = data["job"]
    if out is not None and isinstance(data, dict):
        data = data | {"out": out}
    return absolute(from_plain(Job, data, f"the {what} '{path}'"))


def absolute(task: Job) -> Job:
    """Return the job with absolute paths."""
    from HyperPredictRegLib.results.job import PATHS

    paths = {name: getattr(task, name) for name in PATHS}
    if task.predictor not in ("bundled", "none"):
        paths["predictor"] = task.predictor

    def whole(path: str, name: str) -> str:
        return str(Path(checked_path(path, name.replace("_", " "))).absolute())

    changes: dict[str, Any] = {name: whole(path, name) for name, path in paths.items() if path is not None}
    channels = tuple(
        replace(channel, fixed=whole(channel.fixed, "fixed channel"), moving=whole(channel.moving, "moving channel"))
        for channel in task.channels
    )
    return replace(task, channels=channels, **changes)


def _channels(options: Mapping[str, Any]) -> tuple[Channel, ...]:
    """Return the channels that the options of a command name.

    Raises
    ------
    InputError : one of them lacks an image or a weight.
    """
    from HyperPredictRegLib.results.job import Channel

    fixed, moving, weights = (options[name] or [] for name in ("fixed_channel", "moving_channel", "channel_weight"))
    if len(fixed) != len(moving):
        raise InputError(
            f"{len(fixed)} --fixed-channel and {len(moving)} --moving-channel are given: each channel needs one of both, in the "
            "same order."
        )
    if weights and len(weights) != len(fixed):
        raise InputError(
            f"{len(weights)} --channel-weight for {len(fixed)} channels: give one for each, in the same order, or none."
        )
    return tuple(Channel(*channel) for channel in zip(fixed, moving, weights or [1.0] * len(fixed), strict=True))


def settings(pairs: list[str] | None) -> dict[str, Any]:
    """Turn NAME=VALUE into a dict; a value is JSON where it can be, else text."""
    from HyperPredictRegLib.core.json_records import parsed_json

    found: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"'{pair}' is not a setting: write NAME=VALUE.")
        try:
            found[name] = parsed_json(text, f"The setting {shown(pair)}") if text.lstrip()[:1] not in ("N", "I") else text
        except InputError:
            if text.lstrip()[:1] in "[{-0123456789":
                raise
            found[name] = text
    return found


def numbers_by_name(pairs: Sequence[str] | None, option: str) -> dict[str, float]:
    """Turn NAME=NUMBER into a dict.

    Raises
    ------
    InputError : there is no number, or one name twice.
    """
    found: dict[str, float] = {}
    for pair in pairs or ():
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not (equals and name) or name in found:
            raise InputError(f"{option} '{pair}' should be NAME=NUMBER, each name once.")
        found[name] = _number(text, option, pair)
    return found


def settings_at(texts: Sequence[str] | None) -> list[dict[str, float]]:
    """Turn "0.5,0.8" into two settings of the first parameter, called "" here, and "a=1,b=2" into one setting of two."""
    found: list[dict[str, float]] = []
    for text in texts or ():
        parts = [part for part in text.split(",") if part.strip()]
        if "=" in text:
            found.append(numbers_by_name(parts, "--at"))
        else:
            found += [{"": _number(part, "--at", text)} for part in parts]
    return found


def _number(text: str, option: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{option} '{whole}' should be numbers with commas between them, such as 0.5,0.8, or NAME=NUMBER.")
    return value


def structure_weights(text: str, named: Mapping[int, str], trained: Mapping[int, str]) -> dict[str, float]:
    """Read "left hippocampus,53:2" as weights by the names that a prediction has.

    Parameters
    ----------
    text : names or label values, each with an optional weight after a colon.
    named : the user's names of labels, which win.
    trained : the predictor's names.

    Raises
    ------
    InputError : a structure that nobody knows, one twice, or no structure at all.
    """
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        word, weight = _weighted(part, named, trained)
        name = _name(word, named, trained)
        if name in found:
            raise InputError(f"--structures names '{name}' twice: give each structure once.")
        found[name] = weight
    if not found:
        raise InputError("--structures names no structure: write names or label values with commas between them.")
    return found


def user_names(label_names: str | None, moving_labels: str | None) -> dict[int, str]:
    """Return the names that the user's files give to labels, as `read_inputs` will find them; unreadable label maps give none."""
    from HyperPredictRegLib.spatial.labels import embedded_label_names, read_label_names
    from HyperPredictRegLib.spatial.reading.files import is_regular
    from HyperPredictRegLib.spatial.reading.volumes import stated_volume

    names: dict[int, str] = {}
    if moving_labels is not None and is_regular(Path(moving_labels)):
        import SimpleITK as sitk

        # Whoever reads all of it says what is wrong with it; here it must only not reach a library that it would crash.
        with suppress(InputError, RuntimeError):
            stated_volume(moving_labels, "moving labels")
            reader = sitk.ImageFileReader()
            reader.SetFileName(moving_labels)
            reader.ReadImageInformation()
            names = embedded_label_names(reader)
    return names if label_names is None else names | read_label_names(label_names)


def trained_names(predictor: str, engine: str, preset: str) -> dict[int, str]:
    """Return the structures that the predictor of a job knows; none where there is no predictor.

    Raises
    ------
    InputError : a folder was named that holds no bundle.
    """
    from HyperPredictRegLib.predictor.card import bundled, read_card

    folder = None if predictor == "none" else bundled(engine, preset) if predictor == "bundled" else Path(predictor)
    return {} if folder is None else {int(label): name for label, name in read_card(folder).structures.items()}


def _weighted(part: str, named: Mapping[int, str], trained: Mapping[int, str]) -> tuple[str, float]:
    word, colon, weight = part.rpartition(":")
    # A name may hold a colon itself.
    if not colon or _label(part, named, trained) is not None:
        return part, 1.0
    try:
        return word.strip(), float(weight)
    except ValueError as error:
        raise InputError(f"'{part}' in --structures has no weight after its colon: write NAME:NUMBER.") from error


def _name(word: str, named: Mapping[int, str], trained: Mapping[int, str]) -> str:
    names = {**trained, **{label: name for label, name in named.items() if name}}
    # Not isdigit alone, for which ² is a digit.
    if word.isascii() and word.isdigit() and len(word) <= _MOST_DIGITS:
        return names.get(int(word)) or f"label {int(word)}"
    if (label := _label(word, named, trained)) is not None:
        return names[label]
    if not names:
        raise InputError(f"No structure is called '{word}', since nothing gives names: write its label value, or --label-names.")
    offer = difflib.get_close_matches(word, names.values(), n=3, cutoff=0.5) or list(names.values())
    raise InputError(f"No structure is called '{word}': write its label value, or one of {', '.join(offer)}.")


def _label(name: str, named: Mapping[int, str], trained: Mapping[int, str]) -> int | None:
    """Return the label that a name stands for; names that the user gave win."""
    from HyperPredictRegLib.spatial.structures import match

    found = (match(name, vocabulary) for vocabulary in (named, trained))
    return next((label for label in found if label is not None), None)


def _criterion(task: Job, options: Mapping[str, Any], names: Sequence[str]) -> Criterion:
    """Return the criterion of a job with the options of those names in place of its own."""
    plain = ("rule", "goal", "domain", "combine", "tolerance")
    changes: dict[str, Any] = {name: options[name] for name in plain if name in names}
    if "limit" in names:
        changes["folding_limit"] = _limit(options["limit"])
    if "not_cautious" in names:
        changes["cautious"] = not options["not_cautious"]
    if "structures" in names:
        named = user_names(task.label_names, task.moving_labels)
        changes["structures"] = structure_weights(
            options["structures"], named, trained_names(task.predictor, task.engine, task.preset)
        )
    return replace(task.criterion, **changes)


def _limit(text: str) -> float | None:
    """Read a folding limit: a number, with or without a percent sign, or "none"."""
    if text.strip().casefold() == "none":
        return None
    try:
        return float(text.strip().removesuffix("%"))
    except ValueError as error:
        raise InputError(f"--limit '{text}' should be a number of percent such as 0.5, or none.") from error


def _file_of(prediction: str) -> str:
    """Return the path of the prediction's file: itself, or the one in the folder that is named."""
    path = Path(checked_path(prediction, "prediction"))
    return str(path / "prediction.json" if path.is_dir() else path)


def _engine_help() -> str:
    from HyperPredictRegLib.engines import engine_infos, engine_names

    each = " ".join(f"{info.name}: {info.summary}" for info in engine_infos())
    return f"Registration method. {each} Default: {engine_names()[0]}."


def _parameters_help() -> str:
    from HyperPredictRegLib.engines import engine_infos

    each = (f"{info.name}: {p.name} {p.low:g} to {p.high:g}" for info in engine_infos() for p in info.search_space)
    return f"Any parameter, as --weight, with defaults for the others; may repeat. {'; '.join(each)}."


HELP_OF_ENGINES = {"engine": _engine_help, "set_parameters": _parameters_help}
"""What --help says of parameters that depend on which engines there are."""
