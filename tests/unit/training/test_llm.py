"""A GGUF file becomes a model folder that reads and answers as the file says."""

from pathlib import Path

import numpy as np
import pytest

from predictor_service.training.llm import convert_gguf

HIDDEN, HEADS, FEED_FORWARD = 32, 2, 64
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
VOCABULARY = ["<unk>", "<s>", "</s>", *LETTERS, "▁"]
UNKNOWN, CONTROL, NORMAL = 2, 3, 1  # gguf.TokenType


def write_gguf(path: Path, *, add_bos: bool | None) -> Path:
    """A random Llama of one layer whose tokens are letters."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_block_count(1)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(VOCABULARY)
    writer.add_token_scores([-float(i) for i in range(len(VOCABULARY))])
    writer.add_token_types([UNKNOWN, CONTROL, CONTROL, *[NORMAL] * (len(VOCABULARY) - 3)])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    rng = np.random.default_rng(0)
    wide, tall, square = (FEED_FORWARD, HIDDEN), (HIDDEN, FEED_FORWARD), (HIDDEN, HIDDEN)
    shapes = {"attn_q": square, "attn_k": square, "attn_v": square, "attn_output": square}
    shapes |= {"ffn_gate": wide, "ffn_up": wide, "ffn_down": tall}
    tensors = {f"blk.0.{name}.weight": rng.normal(0, 0.1, shape) for name, shape in shapes.items()}
    tensors |= {f"{name}.weight": np.ones(HIDDEN) for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")}
    tensors |= {f"{name}.weight": rng.normal(0, 1, (len(VOCABULARY), HIDDEN)) for name in ("token_embd", "output")}
    for name, values in tensors.items():
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("add_bos", [True, False])
def test_a_text_begins_with_the_bos_token_where_the_file_says_so(tmp_path: Path, add_bos: bool) -> None:
    from transformers import AutoTokenizer

    convert_gguf(write_gguf(tmp_path / "model.gguf", add_bos=add_bos), tmp_path / "llm")
    ids = AutoTokenizer.from_pretrained(tmp_path / "llm")("ab")["input_ids"]
    assert (ids[0] == VOCABULARY.index("<s>")) is add_bos
    assert ids[-2:] == [VOCABULARY.index("a"), VOCABULARY.index("b")]


def test_the_folder_holds_the_weights_of_the_file(tmp_path: Path) -> None:
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM

    gguf = write_gguf(tmp_path / "model.gguf", add_bos=None)
    convert_gguf(gguf, tmp_path / "llm")
    embeddings = next(tensor for tensor in GGUFReader(gguf).tensors if tensor.name == "token_embd.weight")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "llm").get_input_embeddings().weight
    np.testing.assert_allclose(loaded.float().detach().numpy(), embeddings.data, rtol=2**-7)
