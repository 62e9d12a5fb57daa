"""The result of an evaluation in a terminal."""

from rich.console import Console
from rich.table import Table

from predictor_service.evaluation.evaluation import IN_SUMMARY, Evaluation
from predictor_service.evaluation.report import HEADS, number


def show(evaluation: Evaluation, console: Console) -> None:
    """Every method's figures of remaining length, and those of the total length from the prompt alone."""
    title = f"{len(evaluation.requests)} requests, {evaluation.positions} positions; in tokens, with 95 % intervals"
    table = Table(title=title)
    for head in ("remaining length", *(HEADS[key] for key in IN_SUMMARY)):
        table.add_column(head, justify="left" if head == "remaining length" else "right")
    for name, method in evaluation.methods.items():
        table.add_row(name, *(number(key, method.figures.get(key)) for key in IN_SUMMARY))
    for name, figures in evaluation.prompt.items():
        table.add_row(f"r0, {name}", *(number(key, figures.get(key)) for key in IN_SUMMARY))
    console.print(table)
