"""Responses that an artefact never saw, with the hidden states behind them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from predictor_service.evaluation.predicted import Requests
from predictor_service.evaluation.recorded import Recorded
from predictor_service.evaluation.verbs import root_verb
from predictor_service.training.collect import Responses
from predictor_service.training.labels import Ints
from predictor_service.training.states import States


@dataclass(frozen=True)
class Unseen:
    """Responses to prompts outside of training; ``states`` have every age of each."""

    states: States
    layers: tuple[int, ...]  # those in `states`, in that order
    responses: Responses
    prompts: Sequence[str]  # texts; `responses.prompt` counts them
    sources: Sequence[str]  # data set of each prompt
    max_tokens: int  # cap of every response

    def recorded(self, layers: Sequence[int]) -> Recorded:
        """What an engine ships that taps ``layers``. Raises ValueError for one that was not read."""
        if missing := [layer for layer in layers if layer not in self.layers]:
            raise ValueError(f"layers: {missing} are not among those read, {list(self.layers)}")
        wanted = [self.layers.index(layer) for layer in layers]
        stacked = self.states.hidden.reshape(len(self.states.age), len(self.layers), -1)
        hidden = stacked[:, wanted].reshape(len(stacked), -1)
        return Recorded.of(replace(self.states, hidden=hidden), self.responses, self.max_tokens)

    def requests(self) -> Requests:
        """The requests in the order of their states."""
        return requests_of(self.responses, self.states.response[self.states.age == 0], self.prompts, self.sources)


def requests_of(responses: Responses, rows: Ints, prompts: Sequence[str], sources: Sequence[str]) -> Requests:
    """The responses ``rows`` as requests, in that order; ``prompts`` are texts, counted by ``responses.prompt``."""
    prompt = responses.prompt[rows]
    return Requests(
        prompt=prompt,
        source=np.array([sources[p] for p in prompt]),
        verb=np.array([root_verb(prompts[p]) for p in prompt]),
        length=responses.lengths[rows],
        finished=responses.finished[rows],
    )
