"""Which numbers of a text are none of a report's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from HyperPredictRegLib.core.json_records import to_json
from HyperPredictRegLib.reporting import wording
from HyperPredictRegLib.results.report import Report

CONSTANTS = (90.0, 95.0, 0.01, 0.001)
"""Of the 90 % band, of 95 % of distances, and the least shares that are told from none."""


def leaves(value: Any) -> Iterator[float]:
    """Give every number of a JSON value, and the length of every list and object."""
    if isinstance(value, dict | list):
        yield float(len(value))
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def foreign_numbers(text: str, report: Report, names: Sequence[str]) -> list[str]:
    """Return the numbers of a text that no number of the report would be printed as.

    `names` : words of the text whose digits are no numbers, besides the names of measured structures and files.
    """
    known = [*leaves(json.loads(to_json(report))), sum(report.seconds.values()), *CONSTANTS]
    known += [float(number) for number in range(1, len(report.trials) + 1)]
    structures = [s.name for s in report.measured.dice.structures] if report.measured.dice is not None else []
    words = [*structures, report.job.fixed, report.job.moving, report.job.out, *names, *report.outputs.values()]
    for name in sorted(words, key=len, reverse=True):
        text = text.replace(name, "").replace(wording.file_name(name), "")
    found = re.findall(r"[-\N{MINUS SIGN}]?\d+(?:\.\d+)?(?:e-?\d+)?", text.replace("\u00a0", " "))
    return [word for word in found if not any(_reads(word, number) for number in known)]


def _reads(word: str, number: float) -> bool:
    word = word.replace("\N{MINUS SIGN}", "-")
    mantissa, _, exponent = word.partition("e")
    decimals = len(mantissa.partition(".")[2]) - int(exponent or 0)
    return abs(float(word) - number) <= 0.5000001 * 10.0**-decimals
