"""From raw figures to tables. A figure that is infinite stands for "did not happen in the time allowed"."""

import math
from collections.abc import Callable, Sequence
from statistics import median

from case import Figures

Rounds = list[Figures]
OURS = "bkd"


def table(results: dict[str, Rounds], ours: Sequence[str] = (OURS,)) -> str:
    """One Markdown table: median, range and what bkd, or each of `ours`, needs in proportion to each peer."""
    heads = "".join(f" {name} ÷ peer |" for name in ours)
    lines = [f"| figure | peer | n | median | min–max |{heads}", f"|---|---|--:|--:|--:|{'--:|' * len(ours)}"]
    for metric in metrics(results):
        known = {name: pooled(results.get(name, []), metric) for name in ours}
        for peer, rounds in results.items():
            if values := pooled(rounds, metric):
                spread = f"{shown(min(values))}–{shown(max(values))}"
                ratios = [
                    _ratio(median(own), median(values)) if own and peer not in ours else "" for own in known.values()
                ]
                cells = [metric, peer, str(len(values)), shown(median(values)), spread, *ratios]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def grid(results: dict[str, Rounds], rows: list[str], cell: Callable[[Rounds, str], str]) -> str:
    """A Markdown table with a column for each peer; `cell` gets a peer's rounds and the name of the row."""
    lines = [f"| | {' | '.join(results)} |", "|---" * (len(results) + 1) + "|"]
    lines += [f"| {row} | {' | '.join(cell(rounds, row) for rounds in results.values())} |" for row in rows]
    return "\n".join(lines)


def typical(rounds: Rounds, metric: str) -> str:
    """Median and range; a dash when it was not measured."""
    values = pooled(rounds, metric)
    return f"{shown(median(values))} ({shown(min(values))}–{shown(max(values))})" if values else "–"


def summed(rounds: Rounds, metric: str) -> str:
    """Sum and range; a dash when it was not measured."""
    values = pooled(rounds, metric)
    return f"{shown(sum(values))} ({shown(min(values))}–{shown(max(values))})" if values else "–"


def paired(results: dict[str, Rounds], baseline: str) -> str:
    """One line for each metric and peer: its figure divided by the baseline's of the same round."""
    lines = []
    for metric in metrics(results):
        for peer, rounds in results.items():
            pairs = zip(rounds, results.get(baseline, []), strict=False)
            ratios = [_mean(a[metric]) / _mean(b[metric]) for a, b in pairs if a.get(metric) and b.get(metric)]
            if ratios and peer != baseline:
                spread = f"{min(ratios):.3f}–{max(ratios):.3f}"
                lines.append(f"{metric}: {peer} ÷ {baseline} = {median(ratios):.3f} ({spread}, {len(ratios)} pairs)")
    return "\n".join(lines)


def shown(value: float) -> str:
    if math.isinf(value):
        return "never"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == 0 else f"{value:.3g}"


def metrics(results: dict[str, Rounds]) -> list[str]:
    """In the order of their first appearance."""
    return list(dict.fromkeys(metric for rounds in results.values() for figures in rounds for metric in figures))


def pooled(rounds: Rounds, metric: str) -> list[float]:
    return [value for figures in rounds for value in figures.get(metric, [])]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f}" if theirs and math.isfinite(theirs) and math.isfinite(ours) else "–"
