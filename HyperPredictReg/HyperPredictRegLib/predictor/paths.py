"""Where the bundles are that come with the extension."""

from __future__ import annotations

import sys
from pathlib import Path

_LIBRARY = Path(__file__).resolve().parents[1]


def bundled(engine: str, preset: str) -> Path | None:
    """Return the folder of the bundle that foresees an engine at a preset, or None if there is none.

    Slicer and a source tree keep bundles in ``Resources/Models`` beside the library; pip installs them below ``share`` of the
    environment.
    """
    for models in (_LIBRARY.parent / "Resources" / "Models", Path(sys.prefix) / "share" / "hyperpredictreg" / "models"):
        folder = models / f"{engine}-{preset}"
        if (folder / "card.json").is_file():
            return folder
    return None
