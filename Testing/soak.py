"""Fuzz and kill for as long as you like: `make soak SOAK_MINUTES=60`. No part of `make test`.

Each round tries new seeds of every kind of input, and kills fifty registrations. What is found can be tried again by its seed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "Python"))

from fuzz_samples import KINDS, try_all
from worker_samples import kill_at_random_moments

PER_KIND = 200
FIRST = 1000
KILLS, KILLS_AT_START = 40, 10


def soak(minutes: float, first: int = FIRST, per_kind: int = PER_KIND) -> int:
    """Run rounds until the time is over, at least one; return how many things went wrong."""
    end = time.monotonic() + 60 * minutes
    wrong = turn = 0
    while not turn or time.monotonic() < end:
        seeds = range(first + turn * per_kind, first + (turn + 1) * per_kind)
        for kind in KINDS:
            found = try_all(kind, seeds)
            bad = [tried for tried in found if tried.wrong]
            accepted = sum(tried.accepted for tried in found)
            print(f"{kind}: seeds {seeds.start} to {seeds.stop - 1}, {accepted} accepted, {len(bad)} wrong", flush=True)
            for tried in bad:
                print(f"WRONG {tried}", flush=True)
            wrong += len(bad)
            if turn and time.monotonic() > end:
                break
        else:
            wrong += _kills(seeds.start)
        turn += 1
    print(f"{turn} rounds, {wrong} wrong", flush=True)
    return wrong


def _kills(seed: int) -> int:
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        try:
            endings = kill_at_random_moments(Path(folder), KILLS, KILLS_AT_START, seed)
        except AssertionError as error:
            print(f"WRONG kills of seed {seed}: {error}", flush=True)
            return 1
    message = ", ".join(f"{endings.count(ending)} {ending}" for ending in sorted(set(endings)))
    print(f"kills: seed {seed}, {len(endings)} kills: {message}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(1 if soak(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0) else 0)
