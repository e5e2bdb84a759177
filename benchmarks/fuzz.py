"""Malformed files for every reader: each must end in an error that names the file, and harm nothing.

Settings, policies, checkpoints, runs, searches, reports, weights, archives, images and annotations are written,
changed (flipped bits, cut ends, other values in their places, pickles that would run code), and read. What stays valid
by chance is not counted. The exit status is 1 if anything else came of an input than a clear error.

    python benchmarks/fuzz.py                         # 500 inputs
    python benchmarks/fuzz.py --inputs 20000 --seed 7
    python benchmarks/fuzz.py --only report
"""

import argparse
import os
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from _fuzz_readers import Reader, make_readers
from _fuzz_trial import Trial, try_one


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=500, metavar="N", help="malformed inputs (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the changes (default: 0)")
    parser.add_argument("--only", metavar="TEXT", help="readers with this in their names")
    parser.add_argument("--show", action="store_true", help="print a few of the messages of each reader")
    parsed = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        # Its own cache, so that nobody's is filled with rubbish.
        os.environ["XDG_CACHE_HOME"] = str(Path(place) / "cache")
        (Path(place) / "valid").mkdir()
        readers = [r for r in make_readers(Path(place) / "valid") if parsed.only is None or parsed.only in r.name]
        trials = fuzz(readers, parsed.inputs, parsed.seed)
    return tell(readers, trials, parsed.show)


def fuzz(readers: Sequence[Reader], inputs: int, seed: int) -> list[Trial]:
    """Try inputs until so many were not valid by chance."""
    rng = random.Random(seed)
    trials: list[Trial] = []
    bad = 0
    while bad < inputs:
        reader = rng.choices(readers, [r.share for r in readers])[0]
        trials.append(try_one(reader, rng))
        bad += trials[-1].outcome != "valid"
    return trials


def tell(readers: Sequence[Reader], trials: Sequence[Trial], show: bool) -> int:
    """Print a line a reader and what went wrong; the exit status."""
    wrong = [t for t in trials if t.outcome == "wrong"]
    print(f"{'reader':24}{'inputs':>8}{'clear errors':>14}{'valid by chance':>17}{'slowest, s':>12}")
    for reader in readers:
        own = [t for t in trials if t.reader == reader.name]
        count = Counter(t.outcome for t in own)
        slowest = max((t.seconds for t in own), default=0.0)
        bad = count["refused"] + count["wrong"]
        print(f"{reader.name:24}{bad:8}{count['refused']:14}{count['valid']:17}{slowest:12.2f}")
        if show:
            for trial in [t for t in own if t.outcome == "refused"][:4]:
                print(f"    {trial.mutation}: {trial.detail[:300]!r}")
    for trial in wrong:
        print(f"\n{trial.reader}, {trial.mutation}:\n{trial.detail}")
    refused = sum(t.outcome == "refused" for t in trials)
    print(f"{refused + len(wrong)} malformed inputs, {refused} clear errors")
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
