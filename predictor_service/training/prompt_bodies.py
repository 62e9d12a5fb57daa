"""What each kind of prompt network reads, and what its weights start from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from predictor_service.prompt_sequence import Frame, TextIds, TokenIds
from predictor_service.training.prompt_encoder import Encoder, Shape, bert_encoder, embeddings
from predictor_service.training.prompt_llm import LlmBody, LlmHead, LlmReader

TOKENS_MOST_IDS = 128
TEXT_MOST_IDS, TEXT_MOST_PIECES = 160, 160
LLM_MOST_IDS = 192
HIDDEN = 128
_NOTHING = np.zeros(0, dtype=np.uint32)


@dataclass(frozen=True)
class Bodies:
    """The bodies of one served LLM (`llm`) and one text encoder (`encoder`), both Hugging Face folders."""

    llm: Path
    encoder: Path | None
    frame: Frame

    def section(self, body: str) -> dict[str, Any]:
        """The manifest's prompt section, without its canary."""
        encode = self.reader(body)
        ends = {"prefix": encode.frame.prefix.tolist(), "suffix": encode.frame.suffix.tolist()}
        if isinstance(encode, TextIds):
            return {"kind": "text", "most_ids": encode.most_ids, "most_pieces": TEXT_MOST_PIECES, **ends}
        return {"kind": "tokens", "vocabulary": encode.vocabulary, "most_ids": encode.most_ids, **ends}

    def reader(self, body: str) -> TokenIds | TextIds:
        if body == "text":
            files = self.tokenizers(body)
            llm, encoder = files["llm_tokenizer.json"], files["prompt_tokenizer.json"]
            return TextIds(self.frame, TEXT_MOST_IDS, TEXT_MOST_PIECES, llm=llm, encoder=encoder)
        if body == "llm":
            return TokenIds(Frame(_NOTHING, _NOTHING), LLM_MOST_IDS, self.vocabulary)
        return TokenIds(self.frame, TOKENS_MOST_IDS, self.vocabulary)

    def tokenizers(self, body: str) -> dict[str, bytes]:
        """Contents of the files that the service needs beside the graph."""
        if body != "text":
            return {}
        folders = {"llm_tokenizer.json": self.llm, "prompt_tokenizer.json": self._encoder}
        return {name: (folder / "tokenizer.json").read_bytes() for name, folder in folders.items()}

    def network(self, body: str, classes: int, dropout: float) -> nn.Module:
        """A network that has not been trained on lengths yet."""
        head = {"hidden": HIDDEN, "classes": classes}
        if body == "text":
            return bert_encoder(self._encoder, **head, dropout=dropout)
        if body == "llm":
            return LlmHead(self.llm_body.features, **head, dropout=dropout)
        rows, rank = self.vocabulary + 1, min(64, self._embeddings.shape[1])
        shape = Shape(rows, rank, width=128, heads=4, inner=256, layers=2, positions=TOKENS_MOST_IDS, **head)
        return Encoder(shape, dropout=dropout, base=self._embeddings)

    def served(self, body: str, networks: Sequence[nn.Module]) -> tuple[nn.Module, ...]:
        """Networks that read ids, made of those that were trained; their probabilities are to be averaged."""
        return (LlmReader(self.llm_body, networks),) if body == "llm" else tuple(networks)

    @cached_property
    def llm_body(self) -> LlmBody:
        return LlmBody(self.llm)

    @property
    def vocabulary(self) -> int:
        return len(self._embeddings) - 1

    @cached_property
    def _embeddings(self) -> Tensor:
        return embeddings(self.llm)

    @property
    def _encoder(self) -> Path:
        if self.encoder is None:
            raise ValueError("minilm: kinds that read text need the folder of a text encoder")
        return self.encoder
