"""Compare vectors of objective values: Pareto dominance, the ranks of NSGA-II, and hypervolume.

In each vector, greater values are better. The functions need only comparisons and basic arithmetic, so their results
are equal on all machines.
"""

from __future__ import annotations

import math
import operator
from bisect import insort
from collections.abc import Iterable, Sequence

Values = tuple[float, ...]


def dominates(first: Values, second: Values) -> bool:
    """Return whether `first` is at least as good in every objective and better in at least one."""
    return first != second and all(a >= b for a, b in zip(first, second, strict=True))


def find_front(vectors: Sequence[Values]) -> list[int]:
    """Return the positions of the vectors that no other dominates, in ascending order.

    Of equal vectors, keep the first.
    """
    front: list[Values] = []
    positions = []
    # This order puts each vector after all vectors that dominate it, and after the first vector that equals it.
    for position in sorted(range(len(vectors)), key=vectors.__getitem__, reverse=True):
        vector = vectors[position]
        # With two objectives, the last vector of the front has the largest second value, so a comparison with this
        # vector suffices.
        rivals = front[-1:] if len(vector) == 2 else front
        better = next((place for place, rival in enumerate(rivals) if all(map(operator.ge, rival, vector))), None)
        if better is None:
            front.append(vector)
            positions.append(position)
        elif len(vector) != 2:
            # The dominating vector probably also dominates the next vectors, so compare it first from now on.
            front.insert(0, front.pop(better))
    return sorted(positions)


def extend_front(vectors: Sequence[Values], known: int) -> list[int]:
    """Return the same positions as `find_front`, in less time. The first `known` vectors must be a front, and so must
    the others: within each of these two parts, no vector may dominate another. Only vectors of different parts are
    compared.
    """
    front = vectors[:known]
    added = [
        position
        for position in range(known, len(vectors))
        if not any(all(map(operator.ge, member, vectors[position])) for member in front)
    ]
    kept = [
        position
        for position, member in enumerate(front)
        if not any(all(map(operator.ge, vectors[place], member)) for place in added)
    ]
    return [*kept, *added]


def sort_into_fronts(vectors: Sequence[Values]) -> list[list[int]]:
    """Return the positions of the vectors by front, in ascending order within each front.

    No vector dominates another vector of its front. Each vector of a later front is dominated by a vector of the
    previous front.
    """
    fronts: list[list[int]] = []
    # This order puts each vector after all vectors that dominate it, so the front of a vector is known when the loop
    # reaches the vector.
    for position in sorted(range(len(vectors)), key=lambda number: vectors[number], reverse=True):
        vector = vectors[position]
        for front in fronts:
            # With two objectives, the last vector of a front has the largest second value, so a comparison with this
            # vector suffices.
            rivals = front[-1:] if len(vector) == 2 else reversed(front)
            if not any(dominates(vectors[rival], vector) for rival in rivals):
                front.append(position)
                break
        else:
            fronts.append([position])
    return [sorted(front) for front in fronts]


def crowding_distances(front: Sequence[Values]) -> list[float]:
    """Return the distance of each vector of a front from its neighbours, as in NSGA-II (Deb et al., 2002).

    The distance is the mean over the objectives of the gap between the two neighbours, as a share of the front's
    extent. The first and the last vector in the order of any objective have an infinite distance. Of equal vectors, the
    first has the distance and the others have 0. Ties within an objective are ordered by position.
    """
    distinct = list({vector: number for number, vector in reversed(list(enumerate(front)))}.values())
    distinct.sort()
    distances = [0.0] * len(front)
    if len(distinct) <= 2:
        for number in distinct:
            distances[number] = math.inf
        return distances
    for objective in range(len(front[0])):
        # Compute with halves, because the difference of two large numbers may be infinite.
        halves = {number: front[number][objective] / 2 for number in distinct}
        ordered = sorted(distinct, key=lambda number: -halves[number])
        extent = halves[ordered[0]] - halves[ordered[-1]]
        if extent == 0:
            continue
        distances[ordered[0]] = distances[ordered[-1]] = math.inf
        for before, number, after in zip(ordered, ordered[1:], ordered[2:], strict=False):
            distances[number] += (halves[before] - halves[after]) / extent
    return [distance / len(front[0]) for distance in distances]


def rank_and_crowding(vectors: Sequence[Values]) -> list[tuple[int, float]]:
    """Return the number of each vector's front, from 0, and the negative of its crowding distance in this front.

    NSGA-II prefers vectors in the ascending order of these pairs.
    """
    keys = [(0, 0.0)] * len(vectors)
    for number, front in enumerate(sort_into_fronts(vectors)):
        for position, distance in zip(front, crowding_distances([vectors[place] for place in front]), strict=True):
            keys[position] = (number, -distance)
    return keys


def hypervolume(points: Sequence[Values], reference: Values) -> float:
    """Return the volume of the region whose vectors are dominated by a point and dominate the reference point.

    Exact sums over sorted points make the result independent of the order of the points.
    """
    gains = [tuple(a - b for a, b in zip(point, reference, strict=True)) for point in points]
    return _volume({gain for gain in gains if min(gain) > 0})


def _volume(points: Iterable[Values]) -> float:
    """Return the volume between the origin and distinct points with positive coordinates."""
    # Slice the volume along the last coordinate, from its largest value downwards. Between two successive points, the
    # cross-section is constant; it depends on the other coordinates of the points above.
    ordered = sorted(points, key=lambda point: (point[-1], point), reverse=True)
    bottoms = [*(point[-1] for point in ordered[1:]), 0.0]
    section: list[Values] = []
    slices = []
    for point, bottom in zip(ordered, bottoms, strict=False):
        _add_to_front(section, point[:-1])
        if point[-1] > bottom:
            slices.append((point[-1] - bottom) * _cross_section(section))
    return _sum(slices)


def _cross_section(front: list[Values]) -> float:
    """Return the volume between the origin and a front in the order that `_add_to_front` keeps."""
    if len(front[0]) == 1:
        return front[0][0]
    if len(front[0]) > 2:
        return _volume(front)
    heights = [0.0, *(height for _, height in front)]
    return _sum(width * (height - below) for (width, height), below in zip(front, heights, strict=False))


def _add_to_front(front: list[Values], point: Values) -> None:
    """Add a point to a front in descending order, unless a member is at least as good; remove the members that it
    dominates.
    """
    if any(all(a >= b for a, b in zip(member, point, strict=True)) for member in front):
        return
    front[:] = [member for member in front if not dominates(point, member)]
    insort(front, point, key=lambda member: tuple(-value for value in member))


def _sum(volumes: Iterable[float]) -> float:
    """Return the exact sum of positive volumes, which is infinite if it is too large for a float."""
    try:
        return math.fsum(volumes)
    except OverflowError:
        return math.inf
