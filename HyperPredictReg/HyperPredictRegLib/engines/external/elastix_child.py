"""The program ``elastix`` by the Python package itk-elastix: run by the Python that has it, with arguments of that program.

It understands ``-f -m -fMask -mMask -p -out -threads`` and ``--version``. It needs a process of its own, because ITK of one
package and SimpleITK do not go together in one. Imports nothing of this library, which that Python need not have.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

DISTRIBUTION = "itk-elastix"


def main(arguments: list[str]) -> None:
    """Do what the program does."""
    if arguments == ["--version"]:
        sys.stdout.write(f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)}\n")
        return
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    import itk

    fixed, moving = (itk.imread(given[side], itk.F) for side in ("-f", "-m"))
    parameters = itk.ParameterObject.New()
    parameters.AddParameterFile(given["-p"])
    options: dict[str, Any] = {
        name: itk.imread(given[side], itk.UC)
        for name, side in (("fixed_mask", "-fMask"), ("moving_mask", "-mMask"))
        if side in given
    }
    # It leaves TransformParameters.0.txt there, as the program does.
    itk.elastix_registration_method(
        fixed,
        moving,
        parameter_object=parameters,
        number_of_threads=int(given["-threads"]),
        output_directory=str(Path(given["-out"]).absolute()),
        log_to_console=True,
        **options,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
