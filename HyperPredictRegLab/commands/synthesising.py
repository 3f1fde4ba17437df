"""`hyperpredictreg synthesise`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from HyperPredictRegLib.cli import options
from HyperPredictRegLib.cli.command import app
from HyperPredictRegLib.cli.watching import watched
from HyperPredictRegLib.errors import Cancelled, InputError

_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


@app.command("synthesize", hidden=True)
@app.command("synthesise")
def synthesise(
    labelmaps: Annotated[str, typer.Argument(help="Folder with one label map per person, FreeSurfer's codes, 1 mm.")],
    out: options.Out,
    count: Annotated[int, typer.Option(min=1, help="Pairs to make.")],
    first: Annotated[int, typer.Option(min=0, help="Number of the first pair, to extend a set or share the work.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Fixes every random choice.")] = 20240901,
    quiet: options.Quiet = False,
) -> None:
    """Make training pairs with known labels from label maps, and list them in a manifest for sweep."""
    if not out:
        raise InputError("--out is empty: name a folder for the pairs.")
    from HyperPredictRegLib.progress import ProgressEvent

    from HyperPredictRegLab.synthesis.pairs import write_pairs


    with watched(quiet, "Stopping after this pair; again to stop at once.") as (progress, cancelled):

        def step(event: ProgressEvent) -> None:
            if cancelled():
                raise Cancelled("Stopped. Complete pairs are kept: the same command goes on with the rest.")
            progress(event)

        manifest = write_pairs(label_maps(labelmaps), Path(out), count=count, seed=seed, first=first, progress=step)
    typer.echo(f"Pairs {first} to {first + count - 1} are listed in {manifest}.")


def label_maps(folder: str) -> list[Path]:
    """Return the label maps in a folder, by name.

    Raises
    ------
    InputError : there are none.
    """
    try:
        found = sorted(path for path in Path(folder).iterdir() if path.name.lower().endswith(_ENDINGS))
    except OSError as error:
        raise InputError(f"The folder of label maps '{folder}' cannot be read ({error.strerror}): check the path.") from error
    if not found:
        raise InputError(f"The folder '{folder}' holds no label maps: give one with {', '.join(_ENDINGS)} files.")
    return found
