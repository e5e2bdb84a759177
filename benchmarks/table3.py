"""Table 3: does a learned augmentation policy beat the others on ImageNet?

The standard augmentation, Faster AutoAugment, RandAugment, TrivialAugment, MADAO's policy as it starts, and MADAO, with
the same seeds, batches and budget. Finished runs are kept, so an interrupted study goes on where it stopped.

    python benchmarks/table3.py                                  # scikit-learn's digits, a stand-in
    python benchmarks/table3.py --data imagenet --root DIR        # the paper's data and recipe
    python benchmarks/table3.py --seeds 10 --rows standard,randaugment,madao
    python benchmarks/table3.py --render benchmarks/results/table3-digits.json
"""

import signal
import sys
from collections.abc import Sequence

import _comparison
from _comparison import Table

TABLE = Table(number=3, title="ImageNet", top5=True, description=__doc__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and render it; the exit status."""
    return _comparison.main(TABLE, argv)


if __name__ == "__main__":
    # As Ctrl-C does: the workers are ended too, and do not go on alone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
