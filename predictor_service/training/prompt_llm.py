"""The served LLM's own first layers as the body of a prompt network: what any cost can buy, and a good teacher."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional


class LlmReader(nn.Module):  # type: ignore[misc]  # torch is not followed by the type checker
    """The first `layers` layers (all, if there are fewer) of the LLM in a Hugging Face folder, tuned, and a new head.

    Reads whole prompts, chat template included, as the LLM does. Its embeddings stay as they are.
    """

    def __init__(self, llm: Path, layers: int, *, hidden: int, classes: int, dropout: float) -> None:
        from transformers import AutoModel

        super().__init__()
        self.llm = AutoModel.from_pretrained(str(llm), dtype=torch.float32)
        self.llm.layers = self.llm.layers[:layers]
        self.llm.embed_tokens.requires_grad_(False)
        width = self.llm.config.hidden_size
        self.dropout = nn.Dropout(dropout)
        self.summary = nn.Linear(2 * width + 1, hidden)
        self.classes = nn.Linear(hidden, classes)

    def forward(self, ids: Tensor, tokens: Tensor) -> Tensor:
        """Logits [n, classes] of ids [n, T] (below 0: padding, on the right) and prompt lengths [n]."""
        valid = ids >= 0
        known = ids.clamp(0, self.llm.embed_tokens.num_embeddings - 1)
        # Padding on the right needs no mask: attention is causal, and no padded position is read.
        x = self.llm(input_ids=known.long(), use_cache=False).last_hidden_state
        last = x[torch.arange(len(x), device=x.device), valid.sum(1) - 1]
        mean = (x * valid[:, :, None]).sum(1) / valid.sum(1, keepdim=True)
        length = tokens.clamp(min=1).log()[:, None].to(x.dtype)
        summary = functional.gelu(self.summary(self.dropout(torch.cat([mean, last, length], dim=1))))
        logits: Tensor = self.classes(self.dropout(summary))
        return logits

    @property
    def body(self) -> list[nn.Parameter]:
        """What the LLM brings along and training moves; the rest is new."""
        return [parameter for parameter in self.llm.parameters() if parameter.requires_grad]
