"""The prompt predictors that can be trained, by name."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from predictor_service.training.networks import Recipe


@dataclass(frozen=True)
class PromptRecipe:
    """How one encoder over ids is trained."""

    # "tokens": an encoder of the served LLM's own ids; "text": a pretrained text encoder; "llm": the LLM's layers.
    body: str
    epochs: int
    learning_rate: float
    body_learning_rate: float
    dropout: float
    weight_decay: float = 0.05
    batch_prompts: int = 256
    # Share of ids that training hides behind the unknown id.
    hidden_ids: float = 0.0
    # Above 0: classes are this many equal buckets up to the cap (S3) instead of the artefact's bins.
    equal_buckets: int = 0
    # Weight of the pairwise ranking loss beside the likelihood.
    ranking: float = 0.0
    # Names of recipes whose mean probabilities are learnt too, also of prompts without a response.
    teachers: tuple[str, ...] = ()
    # Weight of the divergence from the teachers.
    distillation: float = 1.0
    # Networks whose probabilities are averaged.
    members: int = 1


COUNTS = Recipe(widths=(64,), dropout=0.5, epochs=20, batch_rows=256, learning_rate=1e-3, weight_decay=0.3)
COUNT_BUCKETS = 4096

_TOKENS = PromptRecipe("tokens", 12, learning_rate=1e-3, body_learning_rate=1e-3, dropout=0.2, hidden_ids=0.1)
_TEXT = PromptRecipe("text", 4, learning_rate=5e-4, body_learning_rate=1e-4, dropout=0.1)
_LLM = PromptRecipe(
    "llm",
    15,
    learning_rate=1e-3,
    body_learning_rate=0.0,
    dropout=0.4,
    weight_decay=0.3,
    batch_prompts=64,
    ranking=1.0,
    members=3,
)

RECIPES: Mapping[str, PromptRecipe] = {
    "tokens": _TOKENS,
    "tokens_ranked": replace(_TOKENS, ranking=1.0),
    "tokens_distilled": replace(_TOKENS, ranking=1.0, teachers=("llm",)),
    "tokens_ensemble": replace(_TOKENS, ranking=1.0, teachers=("llm",), members=3),
    "text": _TEXT,
    "text_buckets": replace(_TEXT, equal_buckets=10),
    "text_ranked": replace(_TEXT, ranking=1.0),
    "llm": _LLM,
}
KINDS = ("counts", *RECIPES)
