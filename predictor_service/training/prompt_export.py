"""A trained prompt predictor as the files and the manifest section of an artefact, checked against its networks."""

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from predictor_service.classifier import Graph
from predictor_service.prompt import Counts, PromptPredictor, features
from predictor_service.prompt_section import CountsSection, PromptSection, TextSection, TokensSection
from predictor_service.prompt_sequence import SequencePredictor
from predictor_service.prompt_stage import build, check
from predictor_service.training.export import prompt_graph as counts_graph
from predictor_service.training.networks import Array, Dense
from predictor_service.training.prompt_data import Read
from predictor_service.training.prompt_fit import PromptFit
from predictor_service.training.prompt_graph import prompt_graph
from predictor_service.training.prompt_train import average

# Embeddings are served as 8-bit integers, so probabilities move a little.
TOLERANCE = 0.02
SECTION: TypeAdapter[CountsSection | TokensSection | TextSection] = TypeAdapter(PromptSection)


def prompt_files(fit: PromptFit) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest's field ``prompt``, and the contents of its files by name.

    Raises ValueError where what the service would compute strays from what the networks say.
    """
    network, content = _reference(fit)
    graph = Graph(content, threads=1)
    predictor: PromptPredictor = (
        Counts(graph, fit.section["buckets"]) if fit.encode is None else SequencePredictor(graph, fit.encode)
    )
    served = predictor(fit.probes)
    worst = float(np.abs(served - network).max())
    if not worst <= TOLERANCE:
        raise ValueError(f"prompt.onnx: probabilities differ by {worst:.4f} from the networks (limit {TOLERANCE})")
    canary = {"token_ids": fit.probes[0].token_ids.tolist(), "probabilities": served[0].round(6).tolist()}
    section = SECTION.validate_python({**fit.section, "canary": canary})
    check(section, build(section, graph, fit.tokenizers))
    return section.model_dump(), {"prompt.onnx": content, **fit.tokenizers}


def _reference(fit: PromptFit) -> tuple[Array, bytes]:
    """What the networks say of the probes [probes, bins], and their graph."""
    if isinstance(fit.networks, Dense):
        found = fit.networks.probabilities(features(fit.probes, fit.section["buckets"]))
        return found, counts_graph(fit.networks).SerializeToString()
    if fit.encode is None:
        raise ValueError(f"{fit.name}: networks over ids need something that reads them")
    networks = [deepcopy(network).cpu() for network in fit.networks]
    p = average(networks, Read.of(fit.probes, fit.encode, torch.device("cpu"))).numpy()
    most = fit.section.get("most_pieces", fit.section["most_ids"])
    return p if fit.spread is None else p @ fit.spread, prompt_graph(networks, fit.spread, most).SerializeToString()
