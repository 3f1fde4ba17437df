"""`slicer.packaging`: notes down what a module asks for, and installs nothing."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import slicer
from packaging.requirements import Requirement

from slicerhost.missing import HostError, strict_module


class Packages:
    """What was asked for, in `asked`; packages named in `absent` count as not installed."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], str | None]] = []
        self.absent: set[str] = set()

    def _requirements(self, requirements: Any) -> list[Requirement]:
        if isinstance(requirements, str):
            requirements = requirements.split()
        elif isinstance(requirements, Requirement):
            requirements = [requirements]
        return [one if isinstance(one, Requirement) else Requirement(one) for one in requirements]

    def pip_check(self, req: Any) -> bool:
        """Say whether requirements are met."""
        return all(self._is_met(one) for one in self._requirements(req))

    def _is_met(self, requirement: Requirement) -> bool:
        if requirement.marker is not None and not requirement.marker.evaluate():
            return True
        if requirement.name in self.absent:
            return False
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            return False
        return requirement.specifier.contains(found, prereleases=True)

    def pip_ensure(self, requirements: Any, constraints: Any = None, skip_packages: Any = None, prompt_install: bool = True,
                   prompt_restart: bool = True, requester: str | None = None, skip_in_testing: bool = True,
                   show_progress: bool = True) -> None:  # fmt: skip
        """Do as Slicer up to the installation: ask the user, and raise RuntimeError if they decline."""
        expected = self._requirements(requirements)
        self.asked.append(([str(one) for one in expected], requester))
        absent = [one for one in expected if not self._is_met(one)]
        if not absent or (skip_in_testing and slicer.app.testingEnabled()):
            return
        names = ", ".join(str(one) for one in absent)
        if prompt_install and not slicer.util.confirmOkCancelDisplay(f"Python packages need to be installed: {names}"):
            raise RuntimeError("User declined package installation")
        for one in absent:
            self.absent.discard(one.name)
            if not self._is_met(one):
                raise HostError(f"slicerhost installs nothing, and {one} is not here.")

    def load_requirements(self, path: Any) -> list[Requirement]:
        """Return what a requirements file lists."""
        lines = (line.split(" #")[0].strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
        return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]

    def pip_install(self, *arguments: Any, **kwargs: Any) -> None:
        """Refuse."""
        raise HostError(f"A test must not install packages: {arguments}")


def make_packaging(packages: Packages) -> ModuleType:
    """Return the module `slicer.packaging`."""
    contents = {name: getattr(packages, name) for name in ("pip_check", "pip_ensure", "pip_install", "load_requirements")}
    return strict_module("slicer.packaging", contents, "A stand-in for slicer.packaging.")


def make_i18n() -> ModuleType:
    """Return the module `slicer.i18n`, which translates nothing."""

    def tr(text: str) -> str:
        if not isinstance(text, str):
            raise TypeError(f"_() takes a text, not {text!r}.")
        return text

    def translate(context: str, text: str) -> str:
        if not isinstance(context, str):
            raise TypeError(f"translate() takes a context and a text, not {context!r}.")
        return tr(text)

    return strict_module("slicer.i18n", {"tr": tr, "translate": translate}, "A stand-in for slicer.i18n.")
