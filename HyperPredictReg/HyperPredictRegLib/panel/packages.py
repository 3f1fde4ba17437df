"""What Slicer does not bring: asked for when it is first needed, never at start, with a way on without it."""

import importlib.util
import subprocess
from typing import Any

import slicer
from slicer.i18n import tr as _

TORCH_REQUIREMENT = ">=2.4"
REQUESTER = "HyperPredictReg"

_asked_for_torch = False


def torch_is_there() -> bool:
    """Tell whether PyTorch can be imported, without importing it."""
    return importlib.util.find_spec("torch") is not None


def make_torch_ready(*, ask_again: bool = True) -> bool:
    """See to PyTorch through the extension of that name, asking first; return whether it is there now.

    While Slicer tests itself nothing is installed and nobody is asked.

    Parameters
    ----------
    ask_again : ask even if the user has been asked since Slicer was started.
    """
    global _asked_for_torch
    if torch_is_there():
        return True
    if slicer.app.testingEnabled() or (_asked_for_torch and not ask_again):
        return False
    _asked_for_torch = True
    try:
        import PyTorchUtils
    except ImportError:
        slicer.util.infoDisplay(
            _(
                "For the trained predictor the free extension \"PyTorch\" is needed: install it in the Extensions Manager and "
                "restart Slicer.\n\nThe work goes on without it: λ is then chosen by coarse trial registrations of this pair, "
                "the folding is measured, and λ is corrected until your limit holds."
            ),
            windowTitle=_("PyTorch is not installed"),
        )
        return False
    try:
        logic: Any = PyTorchUtils.PyTorchUtilsLogic()
        if not logic.torchInstalled():
            logic.installTorch(askConfirmation=True, torchVersionRequirement=TORCH_REQUIREMENT)
    except Exception as error:  # whatever pip or an import of torch came to grief on: the work goes on without
        slicer.util.errorDisplay(_("PyTorch could not be installed: {reason}").format(reason=error))
        return False
    importlib.invalidate_caches()
    return torch_is_there()


def make_page_ready(requirements: str) -> bool:
    """See to the packages of the report page, asking first; return whether they are there now.

    Parameters
    ----------
    requirements : path of the requirements file.
    """
    needed = ("jinja2", "matplotlib")
    if all(importlib.util.find_spec(name) is not None for name in needed):
        return True
    if slicer.app.testingEnabled():
        return False
    # New in Slicer 5.12, and needed only here.
    from slicer.packaging import load_requirements, pip_ensure

    try:
        pip_ensure(load_requirements(requirements), requester=REQUESTER)
    except (RuntimeError, subprocess.CalledProcessError):
        # Declined, or no network: the registration and its tables are there without the page.
        return False
    importlib.invalidate_caches()
    return all(importlib.util.find_spec(name) is not None for name in needed)
