"""What a PromQL expression asks of the metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import promql_parser

_VARIABLES = {"$__rate_interval": "1m", "$engine": ".*", "$instance": ".*", "$experiment": ".*"}
_LEGEND = re.compile(r"{{\s*(\w+)\s*}}")


@dataclass(frozen=True)
class Asked:
    """Names of metrics, each with the labels that it must have, and labels that one of them must have."""

    metrics: tuple[tuple[str, frozenset[str]], ...]
    labels: frozenset[str]


def filled_in(expr: str) -> str:
    """With values for Grafana's variables."""
    for name, value in _VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


def legend_labels(legend: str) -> set[str]:
    """Those that a legend shows."""
    return set(_LEGEND.findall(legend))


def asked(expr: str) -> Asked:
    """Of an expression without variables."""
    tree = promql_parser.parse(expr)
    return Asked(tuple(_metrics(tree)), frozenset(_grouped(tree)))


def _nodes(tree: promql_parser.Expr) -> list[promql_parser.Expr]:
    nodes: list[promql_parser.Expr] = []
    promql_parser.walk(tree, nodes.append)
    return nodes


def _metrics(tree: promql_parser.Expr) -> Iterator[tuple[str, frozenset[str]]]:
    for node in _nodes(tree):
        selector = node.vector_selector if isinstance(node, promql_parser.MatrixSelector) else node
        if isinstance(selector, promql_parser.VectorSelector):
            assert selector.name, f"a selector without a name: {selector.prettify()}"
            yield selector.name, frozenset(matcher.name for matcher in selector.matchers.matchers)


def _grouped(tree: promql_parser.Expr) -> Iterator[str]:
    for node in _nodes(tree):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            yield from node.modifier.labels
        if isinstance(node, promql_parser.BinaryExpr) and node.modifier is not None:
            yield from node.modifier.matching.labels if node.modifier.matching is not None else ()
