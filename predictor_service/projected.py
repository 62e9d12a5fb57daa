"""Rows that an engine has projected: the classifier cut behind its first product."""

from dataclasses import dataclass

from predictor_service.classifier import Classifier, Graph
from sidecar import projection
from sidecar.projection import Projection


@dataclass(frozen=True)
class Projected:
    """What engines may do by themselves, and what reads the rows that they send then."""

    id: str
    content: bytes
    """The projection's file, for who asks for it."""
    project: Projection
    head: Classifier


def assemble(content: bytes, head: Graph, dim: int) -> Projected:
    """Of the files projection.npz and head.onnx, for hidden states of `dim` values. Raises ValueError."""
    try:
        project = projection.unpack(content)
    except ValueError as error:
        raise ValueError(f"projection.npz: {error}") from None
    classifier = Classifier(head)
    if project.weight.shape != (dim, classifier.dim):
        meant = f"the manifest means {[dim, classifier.dim]}"
        raise ValueError(f"projection.npz: weight: {list(project.weight.shape)}, {meant}")
    return Projected(projection.id_of(content), content, project, classifier)
