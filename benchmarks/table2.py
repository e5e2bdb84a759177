"""Table 2: does a learned augmentation policy beat the others on small images?

The standard augmentation, Faster AutoAugment, RandAugment, TrivialAugment, MADAO's policy as it starts, and MADAO, with
the same seeds, batches and budget. Finished runs are kept, so an interrupted study goes on where it stopped.

    python benchmarks/table2.py                                  # scikit-learn's digits, a stand-in
    python benchmarks/table2.py --data cifar10 --root DIR        # the paper's data and recipe
    python benchmarks/table2.py --seeds 10 --rows standard,randaugment,madao
    python benchmarks/table2.py --render benchmarks/results/table2-digits.json
"""

import signal
import sys
from collections.abc import Sequence

import _comparison
from _comparison import Table

TABLE = Table(number=2, title="CIFAR-10, CIFAR-100 and SVHN", top5=False, description=__doc__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and render it; the exit status."""
    return _comparison.main(TABLE, argv)


if __name__ == "__main__":
    # As Ctrl-C does: the workers are ended too, and do not go on alone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
