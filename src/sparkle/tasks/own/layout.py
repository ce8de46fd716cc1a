"""Places the nodes of a graph in the plane: springs and repulsion, the same picture for the same graph."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

_ROUNDS = 60
_SEED = 20_260_101


def force_layout(count: int, edges: Sequence[tuple[int, int]]) -> list[tuple[float, float]]:
    """Positions in the unit square (Fruchterman and Reingold 1991); about a second for 200 nodes.

    Args:
        count: Number of nodes.
        edges: Pairs of node numbers below ``count``.
    """
    if count <= 1:
        return [(0.5, 0.5)] * count
    rng = random.Random(_SEED)  # noqa: S311  a picture, not a secret
    angle = math.pi * (3 - math.sqrt(5))
    # A sunflower to begin with: no two nodes in one place, and little left to do for graphs without edges.
    xs = [0.5 + 0.45 * math.sqrt((at + 0.5) / count) * math.cos(at * angle) for at in range(count)]
    ys = [0.5 + 0.45 * math.sqrt((at + 0.5) / count) * math.sin(at * angle) for at in range(count)]
    ideal = 0.9 / math.sqrt(count)
    for turn in range(_ROUNDS):
        heat = 0.12 * (1 - turn / _ROUNDS) + 0.002
        dx, dy = [0.0] * count, [0.0] * count
        for one in range(count):
            x, y = xs[one], ys[one]
            for other in range(one + 1, count):
                ox, oy = x - xs[other], y - ys[other]
                square = ox * ox + oy * oy
                if square > 9 * ideal * ideal:
                    continue  # too far to matter
                if square < 1e-9:
                    ox, oy = rng.uniform(-1e-3, 1e-3), rng.uniform(-1e-3, 1e-3)
                    square = ox * ox + oy * oy + 1e-12
                push = ideal * ideal / square
                dx[one] += ox * push
                dy[one] += oy * push
                dx[other] -= ox * push
                dy[other] -= oy * push
        for one, other in edges:
            ox, oy = xs[one] - xs[other], ys[one] - ys[other]
            pull = math.hypot(ox, oy) / ideal
            dx[one] -= ox * pull
            dy[one] -= oy * pull
            dx[other] += ox * pull
            dy[other] += oy * pull
        for at in range(count):
            length = math.hypot(dx[at], dy[at]) or 1.0
            step = min(length, heat) / length
            xs[at] += dx[at] * step + (0.5 - xs[at]) * 0.01
            ys[at] += dy[at] * step + (0.5 - ys[at]) * 0.01
    return list(zip(_spread(xs), _spread(ys), strict=True))


def _spread(values: Sequence[float]) -> list[float]:
    """``values`` stretched over 0 to 1."""
    least, most = min(values), max(values)
    if most - least < 1e-9:
        return [0.5] * len(values)
    return [(value - least) / (most - least) for value in values]
