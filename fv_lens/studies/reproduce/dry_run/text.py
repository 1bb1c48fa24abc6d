"""Tables and phrases of an estimate in plain text."""

from collections.abc import Mapping, Sequence

from .cost import Cost
from .devices import Holding
from .flops import Number

LEAST = 1e6  # bytes that are told of


def stage_table(stages: Mapping[str, Cost], total: Cost, seconds: Mapping[str, Number]) -> list[str]:
    """A line for each stage and one for all, under a heading."""
    width = max(map(len, stages))
    lines = [f"{'stage':<{width}} {'rows':>11} {'tokens':>12} {'TFLOP':>9} {'time':>9}"]
    took = {**seconds, "total": sum(seconds.values())}
    for name, cost in {**stages, "total": total}.items():
        numbers = f"{cost.rows:>11,.0f} {cost.tokens:>12,.0f} {cost.flop / 1e12:>9.3g} {duration(took[name]):>9}"
        lines.append(f"{name:<{width}} {numbers}")
    return lines


def device_table(holdings: Sequence[Holding], n_devices: int) -> list[str]:
    """What goes where: a line for each device, and one for what finds no place."""
    width = max(len(holding.parts) for holding in holdings)
    lines = [f"{'device':<8} {'parts':<{width}} {'weights':>10} {'all it holds':>13}"]
    for at, holding in enumerate(holdings):
        name, everything = (f"{at}", f"{holding.total / 1e9:.1f} GB") if at < n_devices else ("no place", "")
        lines.append(f"{name:<8} {holding.parts:<{width}} {holding.memory['weights'] / 1e9:>7.1f} GB {everything:>13}")
    return lines


def in_gigabytes(memory: Mapping[str, Number]) -> str:
    """What holds how much."""
    large = {what: size / 1e9 for what, size in memory.items() if size >= LEAST}
    return ", ".join(f"{what} {size:,.1f}" if size >= 10 else f"{what} {size:.2g}" for what, size in large.items())


def duration(seconds: Number) -> str:
    """Seconds, minutes or hours, rounded."""
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:,.1f} h"
