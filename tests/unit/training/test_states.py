"""A tiny random Llama stands for the LLM: what is read must be the hidden state of the right token."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from predictor_service.training.collect import TRAIN, Responses
from predictor_service.training.states import read_states


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    shape = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4
    )
    folder = tmp_path_factory.mktemp("llm")
    transformers.LlamaForCausalLM(shape).bfloat16().save_pretrained(folder)
    return folder


def test_age_a_is_the_hidden_state_of_the_ath_generated_token_and_age_0_of_the_last_prompt_token(llm: Path) -> None:
    rng = np.random.default_rng(0)
    sizes, prompt_tokens = [9, 4, 7], np.array([3, 2, 5])
    tokens = rng.integers(0, 64, sum(sizes)).astype(np.int32)
    responses = Responses(
        prompt=np.arange(3),
        split=np.full(3, TRAIN),
        seed=np.arange(3),
        prompt_tokens=prompt_tokens,
        finished=np.ones(3, dtype=bool),
        tokens=tokens,
        offsets=np.cumsum([0, *sizes]),
    )
    states = read_states(llm, responses, TRAIN, (1, 3), None, seed=0)
    assert sorted(zip(states.response, states.age, strict=True)) == [
        (r, a) for r in range(3) for a in range(sizes[r] - prompt_tokens[r])
    ]
    assert states.remaining.tolist() == (responses.lengths[states.response] - states.age).tolist()
    model = transformers.AutoModelForCausalLM.from_pretrained(llm, dtype=torch.bfloat16)
    for row in range(len(states.age)):
        r, age = int(states.response[row]), int(states.age[row])
        seen = torch.from_numpy(responses.sequence(r)[: prompt_tokens[r] + age]).long()[None]
        hidden = model(seen, output_hidden_states=True).hidden_states
        alone = torch.cat([hidden[layer][0, -1] for layer in (1, 3)]).float().detach().numpy()
        assert states.hidden[row].astype(np.float32) == pytest.approx(alone, abs=0.02 * float(np.abs(alone).max()))
