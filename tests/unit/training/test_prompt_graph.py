"""Prompt networks and their graphs compute the same, and BERT's weights make the network a BERT."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from safetensors.torch import save_file

from predictor_service.training.prompt_encoder import Encoder, Shape, bert_encoder, embeddings
from predictor_service.training.prompt_graph import prompt_graph

SHAPE = Shape(rows=50, rank=8, width=16, heads=4, inner=32, layers=2, positions=24, hidden=12, classes=5)
IDS = torch.tensor([[3, 49, 7, 0, 21], [8, 8, -1, -1, -1], [11, -1, -1, -1, -1]], dtype=torch.int32)
TOKENS = torch.tensor([5.0, 400.0, 0.0])


def _encoder(seed: int, shape: Shape = SHAPE) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(shape, dropout=0.1, base=torch.randn(shape.rows, 20)).eval()


def _network(encoder: Encoder) -> np.ndarray:
    with torch.inference_mode():
        probabilities: np.ndarray = encoder(IDS, TOKENS).softmax(dim=1).numpy()
    return probabilities


def _graph(networks: list[Encoder], spread: np.ndarray | None = None, ids: torch.Tensor = IDS) -> np.ndarray:
    content = prompt_graph(networks, spread, most_ids=24).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"ids": ids.numpy(), "tokens": TOKENS.numpy()})
    return np.asarray(probabilities)


def test_the_graph_computes_what_the_network_computes() -> None:
    p = _graph([_encoder(0)])
    assert p.shape == (3, 5)
    assert p.dtype == np.float32
    assert p == pytest.approx(_network(_encoder(0)), abs=5e-3)


def test_padding_changes_nothing() -> None:
    wider = torch.nn.functional.pad(IDS, (0, 19), value=-1)
    assert _graph([_encoder(0)], ids=wider) == pytest.approx(_graph([_encoder(0)]), abs=1e-5)


def test_the_order_of_ids_matters() -> None:
    turned = IDS.flip(1) if bool((IDS >= 0).all()) else torch.cat([IDS[:1].flip(1), IDS[1:]])
    assert np.abs(_graph([_encoder(0)], ids=turned)[0] - _graph([_encoder(0)])[0]).max() > 1e-3


def test_several_networks_are_averaged_and_their_classes_spread_over_the_bins() -> None:
    spread = np.random.default_rng(0).dirichlet(np.ones(7), 5).astype(np.float32)
    expected = (_network(_encoder(0)) + _network(_encoder(1))) / 2 @ spread
    assert _graph([_encoder(0), _encoder(1)], spread) == pytest.approx(expected, abs=5e-3)


def test_berts_weights_make_the_network_a_bert(tmp_path: Path) -> None:
    torch.manual_seed(2)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=24,
    )
    bert = transformers.BertModel(config, add_pooling_layer=False).eval()
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "model_type": "bert"}))
    save_file(bert.state_dict(), tmp_path / "model.safetensors")
    encoder = bert_encoder(tmp_path, hidden=12, classes=5, dropout=0.0).eval()
    seen: list[torch.Tensor] = []
    encoder.blocks[-1].register_forward_hook(lambda _block, _inputs, output: seen.append(output))
    with torch.inference_mode():
        encoder(IDS, TOKENS)
        theirs = bert(IDS.clamp(min=0).long(), attention_mask=(IDS >= 0).long()).last_hidden_state
    valid = IDS >= 0
    assert seen[0][valid].numpy() == pytest.approx(theirs[valid].numpy(), abs=1e-5)


def test_a_model_that_is_no_bert_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta", "hidden_act": "gelu"}))
    with pytest.raises(ValueError, match="roberta"):
        bert_encoder(tmp_path, hidden=12, classes=5, dropout=0.0)


def test_embeddings_are_standardised_and_have_a_row_for_unknown_ids(tmp_path: Path) -> None:
    table = torch.randn(30, 6) * 3 + 1
    save_file({"model.embed_tokens.weight": table.bfloat16()}, tmp_path / "model.safetensors")
    found = embeddings(tmp_path)
    assert found.shape == (31, 6)
    assert float(found[:-1].std()) == pytest.approx(1.0, abs=0.05)
    assert found.mean(0).numpy() == pytest.approx(np.zeros(6), abs=0.02)
    assert not found[-1].any()


def test_a_folder_without_embeddings_is_refused_by_name(tmp_path: Path) -> None:
    save_file({"head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="embed_tokens"):
        embeddings(tmp_path)
