"""What a manifest says about its prompt stage: one section a kind."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

TokenId = Annotated[int, Field(ge=0, lt=2**32)]
FrameIds = Annotated[list[TokenId], Field(max_length=4096)]


class PromptCanary(BaseModel):
    """A prompt whose distribution over bins is known."""

    token_ids: list[TokenId] = Field(min_length=1, max_length=4096)
    probabilities: list[FiniteFloat]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CountsSection(_Section):
    """How often ids occur, by bucket (id modulo `buckets`)."""

    kind: Literal["counts"] = "counts"
    buckets: int = Field(ge=1, le=2**20)
    canary: PromptCanary | None = None


class TokensSection(_Section):
    """The served LLM's own ids in their order."""

    kind: Literal["tokens"] = "tokens"
    # Ids from here on are unknown to the graph.
    vocabulary: int = Field(ge=1, lt=2**31)
    # Most ids of a prompt that are read; what is left out lies in its later middle.
    most_ids: int = Field(ge=4, le=2048)
    # Ids of the chat template before and after the user's words, left out where a prompt has them.
    prefix: FrameIds
    suffix: FrameIds
    canary: PromptCanary


class TextSection(_Section):
    """Text, made of ids by llm_tokenizer.json, and cut into an encoder's pieces by prompt_tokenizer.json."""

    kind: Literal["text"] = "text"
    most_ids: int = Field(ge=4, le=2048)
    # Most pieces that are read of what those ids say.
    most_pieces: int = Field(ge=4, le=2048)
    prefix: FrameIds
    suffix: FrameIds
    canary: PromptCanary


PromptSection = Annotated[CountsSection | TokensSection | TextSection, Field(discriminator="kind")]
