"""How fast this machine multiplies, to read times beside: `python -m tests.benchmarks.machine` prints GFLOP/s.

Float32, 2000 x 2000, the median of nine, by PyTorch's own matmul and by oneDNN, which the engine uses on a CPU.
"""

import statistics

import torch

from .matmuls import ONEDNN
from .timing import timed

SIZE = 2000


def main():
    left, right = torch.randn(2, SIZE, SIZE)
    ways = {"matmul": lambda: left @ right}
    if ONEDNN is not None:
        ways["oneDNN"] = lambda: ONEDNN(left, right, None, "none", [], "")
    for name, multiply in ways.items():
        multiply()
        seconds = statistics.median(timed(multiply)[0] for _ in range(9))
        print(f"{name} {2 * SIZE**3 / seconds / 1e9:.0f} GFLOP/s on {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
