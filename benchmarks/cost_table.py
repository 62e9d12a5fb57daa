"""Results of `benchmarks.predictor_cost` as Markdown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Cells = Sequence[Mapping[str, Any]]


def markdown(results: Mapping[str, Any]) -> str:
    """Model alone and served by batch, then LLM steps, then how long rows would wait."""
    model, served, device = results["model"], results["served"], results["device"]
    parts = [
        *_by_batch(f"Model alone on {device}: microseconds a sample", model, _us_per_sample),
        *_by_batch(f"Served on {device}, end to end: microseconds a sample", served, _us_per_sample),
        *_by_batch(f"Served on {device}, end to end: milliseconds a step, median / p99", served, _ms),
        *_by_batch(f"Parts of a step on {device}: CPU milliseconds, median", _part_cells(results["parts"]), _median_ms),
        *_rows("LLM forward pass", ("from", "batch"), results["llm"], {"us a token": _us_per_sample, "ms a step": _ms}),
        *_rows(
            "Milliseconds that rows would wait for a batch to fill",
            ("llm", "llm_batch", "rows", "first_row_ms", "mean_ms"),
            results["waiting"],
            {},
        ),
    ]
    return "\n".join(parts)


def _by_batch(title: str, cells: Cells, show: Callable[[Mapping[str, Any]], str]) -> list[str]:
    batches = sorted({cell["rows"] for cell in cells})
    lines: dict[tuple[str, ...], dict[int, str]] = {}
    for cell in cells:
        name = tuple(cell[key] for key in ("artefact", "way", "part") if key in cell)
        lines.setdefault(name, {})[cell["rows"]] = show(cell)
    names = [key for key in ("artefact", "way", "part") if any(key in cell for cell in cells)]
    header = [*names, *(f"batch {batch}" for batch in batches)]
    return _table(title, header, ([*name, *(line.get(batch, "") for batch in batches)] for name, line in lines.items()))


def _part_cells(cells: Cells) -> Cells:
    """One cell a part."""
    found: list[Mapping[str, Any]] = []
    for cell in cells:
        parts = cell.get("parts", {"-": cell})
        found += [
            {"artefact": cell["artefact"], "rows": cell["rows"], "part": name} | part for name, part in parts.items()
        ]
    return found


def _rows(title: str, keys: Sequence[str], cells: Cells, shown: Mapping[str, Callable[..., str]]) -> list[str]:
    lines = ([*(str(cell[key]) for key in keys), *(show(cell) for show in shown.values())] for cell in cells)
    return _table(title, [*(key.replace("_", " ") for key in keys), *shown], lines)


def _table(title: str, header: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    return [title, "", _line(header), _line(["---"] * len(header)), *map(_line, lines), ""]


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def _us_per_sample(cell: Mapping[str, Any]) -> str:
    return "failed" if "error" in cell else f"{cell['us_per_sample']:.2f}"


def _median_ms(cell: Mapping[str, Any]) -> str:
    return "failed" if "error" in cell else f"{cell['median_us'] / 1000:.2f}"


def _ms(cell: Mapping[str, Any]) -> str:
    if "error" in cell:
        return "failed"
    median_ms, p99_ms = (cell.get(key, cell["median_us"]) / 1000 for key in ("median_us", "p99_us"))
    return f"{median_ms:.2f} / {p99_ms:.2f}"
