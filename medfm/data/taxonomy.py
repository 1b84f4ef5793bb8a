"""A tree of diseases: training classes of a fair size cut from it, and probabilities summed up it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medfm.errors import DataError

__all__ = ["partition", "roll_up"]


def partition(parents: Mapping[str, str], counts: Mapping[str, int], *, most: int) -> dict[str, str]:
    """Which training class each disease belongs to (Esteva et al., Nature 2017).

    From the root down: a node whose diseases have fewer than `most` pictures in all becomes one class; a larger one is
    divided into its children, and keeps as a class of its own name what lies at the node itself.

    parents: node -> the node above it, none for the root. counts: pictures of each node. Raises DataError: a circle.
    """
    children: dict[str, list[str]] = {}
    for node, above in parents.items():
        children.setdefault(above, []).append(node)
    roots = sorted(
        {above for above in parents.values() if above not in parents} | (set(counts) - set(parents) - set(children))
    )
    found: dict[str, str] = {}

    def below(node: str, seen: tuple[str, ...]) -> list[str]:
        if node in seen:
            raise DataError(f"the tree runs in a circle: {' -> '.join((*seen, node))}")
        return [node, *(n for child in children.get(node, ()) for n in below(child, (*seen, node)))]

    def cut(node: str) -> None:
        nodes = below(node, ())
        if sum(counts.get(n, 0) for n in nodes) < most or not children.get(node):
            found.update(dict.fromkeys(nodes, node))
            return
        found[node] = node
        for child in children[node]:
            cut(child)

    if not roots:
        below(next(iter(parents)), ())
    for root in roots:
        cut(root)
    return found


def roll_up(
    probabilities: Mapping[str, float], parents: Mapping[str, str], *, nodes: Sequence[str]
) -> dict[str, float]:
    """The probability of each inner node: the sum over the training classes at and below it."""

    def at_or_below(name: str, node: str) -> bool:
        while name != node and name in parents:
            name = parents[name]
        return name == node

    return {node: sum(p for name, p in probabilities.items() if at_or_below(name, node)) for node in nodes}
