"""The served LLM's own first layers as what a prompt network reads: what any cost can buy, and the best teacher."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

# Depths whose states are read, as shares of the LLM's layers.
DEPTHS = (0.4, 0.53, 0.6)
CLIP = 8.0


class LlmBody(nn.Module):  # type: ignore[misc]  # torch is not followed by the type checker
    """The first layers of the LLM in a Hugging Face folder, as they are. They read whole prompts, as the LLM does."""

    def __init__(self, llm: Path) -> None:
        from transformers import AutoModel

        super().__init__()
        self.llm = AutoModel.from_pretrained(str(llm), dtype=torch.float32).requires_grad_(False).eval()
        count = len(self.llm.layers)
        self.taps = sorted({max(1, round(depth * count)) for depth in DEPTHS})
        self.llm.layers = self.llm.layers[: self.taps[-1]]
        # So that the last tapped state is a layer's output, as the others are.
        self.llm.norm = nn.Identity()

    @property
    def features(self) -> int:
        return len(self.taps) * int(self.llm.config.hidden_size)

    def forward(self, ids: Tensor, tokens: Tensor) -> Tensor:
        """States of the last id at each tapped depth, side by side [n, features]; padding lies on the right."""
        known = ids.clamp(0, self.llm.embed_tokens.num_embeddings - 1).long()
        # Padding needs no mask: attention is causal, and no padded position is read.
        states = self.llm(input_ids=known, use_cache=False, output_hidden_states=True).hidden_states
        row, last = torch.arange(len(ids), device=ids.device), (ids >= 0).sum(1) - 1
        return torch.cat([states[tap][row, last] for tap in self.taps], dim=1)


class LlmHead(nn.Module):  # type: ignore[misc]
    """What is trained: features [n, features] and prompt lengths [n] to logits [n, classes]."""

    def __init__(self, features: int, *, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.standard = nn.BatchNorm1d(features, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.summary = nn.Linear(features + 1, hidden)
        self.classes = nn.Linear(hidden, classes)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        x = self.standard(features.float()).clamp(-CLIP, CLIP)
        x = torch.cat([x, tokens.clamp(min=1).log()[:, None]], dim=1)
        logits: Tensor = self.classes(self.dropout(torch.relu(self.summary(self.dropout(x)))))
        return logits

    @property
    def body(self) -> list[nn.Parameter]:
        """Nothing of it was trained before."""
        return []


class LlmReader(nn.Module):  # type: ignore[misc]
    """Ids and prompt lengths to the logarithm of the mean of the heads' probabilities [n, classes]."""

    def __init__(self, body: LlmBody, heads: Sequence[LlmHead]) -> None:
        super().__init__()
        self.body_of_all = body
        self.heads = nn.ModuleList(heads)

    @property
    def classes(self) -> nn.Linear:
        return self.heads[0].classes

    def forward(self, ids: Tensor, tokens: Tensor) -> Tensor:
        features = self.body_of_all(ids, tokens)
        return torch.stack([head(features, tokens).softmax(dim=1) for head in self.heads]).mean(0).log()
