"""`SampleData`: sources that modules register, and a way for a test to press their buttons."""
# ruff: noqa: N802, N803, N806 - Slicer's names.

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import slicer

from slicerhost.missing import HostError, strict_module


class SampleDataSource:
    """One data set, with the checks that Slicer makes."""

    def __init__(self, sampleName: Any = None, uris: Any = None, fileNames: Any = None, nodeNames: Any = None,
                 checksums: Any = None, loadFiles: Any = None, customDownloader: Callable[..., Any] | None = None,
                 thumbnailFileName: Any = None, loadFileTypes: Any = None, loadFileProperties: Any = None,
                 sampleDescription: Any = None) -> None:  # fmt: skip
        if isinstance(uris, (list, tuple)):
            count = len(uris)
            loadFileTypes = [loadFileTypes] * count if loadFileTypes is None or isinstance(loadFileTypes, str) else loadFileTypes
            nodeNames, loadFiles, checksums = (one or [None] * count for one in (nodeNames, loadFiles, checksums))
        elif isinstance(uris, str):
            uris, fileNames, nodeNames = [uris], [fileNames], [nodeNames]
            loadFiles, loadFileTypes, checksums = [loadFiles], [loadFileTypes], [checksums]
        # Slicer takes len() of every one of them: a source without uris and fileNames is a TypeError there.
        lengths = {len(one) for one in (uris, fileNames, nodeNames, loadFiles, loadFileTypes, checksums)}
        if len(lengths) != 1:
            raise ValueError(f"All fields of the sample data source '{sampleName}' must have the same length.")
        if thumbnailFileName is not None and not Path(thumbnailFileName).is_file():
            raise HostError(f"The thumbnail of the sample data '{sampleName}' is missing: {Path(thumbnailFileName).name}")
        self.sampleName = sampleName
        self.sampleDescription = sampleDescription or sampleName
        self.uris, self.fileNames, self.nodeNames, self.checksums = uris, fileNames, nodeNames, checksums
        self.loadFiles, self.loadFileTypes, self.loadFileProperties = loadFiles, loadFileTypes, loadFileProperties or {}
        self.customDownloader, self.thumbnailFileName = customDownloader, thumbnailFileName


class SampleDataLogic:
    """Registers data sets in `slicer.modules.sampleDataSources`."""

    def __init__(self, logMessage: Callable[..., None] | None = None) -> None:
        if logMessage is not None:
            self.logMessage = logMessage  # type: ignore[method-assign]

    def logMessage(self, message: str, logLevel: int = 10) -> None:
        """Take a line for the log."""

    @staticmethod
    def registerCustomSampleDataCategory(category: str, title: str) -> None:
        """Say how a category is called on the screen."""
        vars(slicer.modules).setdefault("sampleDataSourceCategories", {})[category] = {"title": title}

    @staticmethod
    def registerCustomSampleDataSource(category: str = "Custom", sampleName: Any = None, uris: Any = None, fileNames: Any = None,
                                       nodeNames: Any = None, customDownloader: Callable[..., Any] | None = None,
                                       thumbnailFileName: Any = None, loadFileTypes: Any = None, loadFiles: Any = None,
                                       loadFileProperties: Any = None, checksums: Any = None) -> None:  # fmt: skip
        """Add a data set to a category; the same one again changes nothing."""
        sources = vars(slicer.modules).setdefault("sampleDataSources", {}).setdefault(category, [])
        source = SampleDataSource(
            sampleName=sampleName, uris=uris, fileNames=fileNames, nodeNames=nodeNames, checksums=checksums, loadFiles=loadFiles,
            customDownloader=customDownloader, thumbnailFileName=thumbnailFileName, loadFileTypes=loadFileTypes,
            loadFileProperties=loadFileProperties)  # fmt: skip
        if all(source.sampleName != other.sampleName for other in sources):
            sources.append(source)

    def sourceForSampleName(self, sampleName: str) -> SampleDataSource | None:
        """Return a registered data set, or None."""
        every = (source for sources in vars(slicer.modules).get("sampleDataSources", {}).values() for source in sources)
        return next((source for source in every if source.sampleName == sampleName), None)

    def downloadSamples(self, sampleName: str) -> Any:
        """Refuse: Slicer downloads here from the uris, even of a source with a customDownloader."""
        raise HostError(f"slicerhost downloads nothing: '{sampleName}'. Slicer's downloadSample does not call a "
                        "customDownloader; its button does: press_button of slicerhost.sampledata.")  # fmt: skip

    def downloadSample(self, sampleName: str) -> Any:
        """Refuse, as `downloadSamples` does."""
        return self.downloadSamples(sampleName)[0]


def press_button(sampleName: str) -> Any:
    """Do what the button of a data set with a customDownloader does, and return what that returns."""
    source = SampleDataLogic().sourceForSampleName(sampleName)
    if source is None:
        raise HostError(f"No sample data '{sampleName}' is registered.")
    if source.customDownloader is None:
        raise HostError(f"The sample data '{sampleName}' is downloaded from {source.uris}, and slicerhost downloads nothing.")
    return source.customDownloader(source)


def make_sample_data() -> ModuleType:
    """Return the module `SampleData`."""
    logic = SampleDataLogic()
    contents = {"SampleDataLogic": SampleDataLogic, "SampleDataSource": SampleDataSource,
                "downloadSample": logic.downloadSample, "downloadSamples": logic.downloadSamples}  # fmt: skip
    return strict_module("SampleData", contents, "A stand-in for Slicer's SampleData.")
