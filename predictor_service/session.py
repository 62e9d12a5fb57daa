"""One engine's posteriors and how a step changes them. Pure computation: no I/O, and a clock only to
time the classifier."""

import time
from collections.abc import Iterable, Mapping, Sequence

import grpc
import numpy as np

from predictor_service.artefact import Artefact
from predictor_service.bins import Array
from predictor_service.classifier import Classifier
from predictor_service.requests import Requests
from predictor_service.selection import Selection, decode_rows, not_finite, prompt_rows
from predictor_service.step import Ages, Applied, Declaration, Record, RowProblem, Stage, Step
from sidecar.errors import InvalidField, Refused


class EngineSession:
    """Keeps the posterior of every living request of one engine, for one model."""

    def __init__(self, artefact: Artefact, *, max_requests: int) -> None:
        self.artefact = artefact
        self.requests = Requests(artefact)
        self._max_requests = max_requests
        self._last_step = 0
        self._put_since_last_step: set[int] = set()
        self._model_run: tuple[float, float] | None = None

    def open(self, declared: Sequence[Declaration], stored: Mapping[str, Record]) -> tuple[Applied, int]:
        """Begins a stream: exactly the declared requests live on.

        Of what memory and store know of a request the newer counts; the others start from their
        prompt. Returns all predictions (step 0), all records, and how many were in the store.
        """
        self._last_step = 0
        named = {declaration.request_id for declaration in declared}
        gone = self.forget(request_id for request_id in self.requests.ids if request_id not in named)
        slots = self._declare(declared, stored)
        records = self.requests.records(slots)
        applied = Applied(self.requests.predictions(0, slots), records, gone)
        return applied, len(named & stored.keys())

    @property
    def last_step(self) -> int:
        """Number of the newest step; a step that is not above it changes nothing."""
        return self._last_step

    def follow(self, other: "EngineSession") -> None:
        """Goes on where ``other``, with the same requests, is."""
        self._last_step = other._last_step
        put = (self.requests.slot_of_id(other.requests.request_id(slot)) for slot in other._put_since_last_step)
        self._put_since_last_step = {slot for slot in put if slot is not None}

    def apply(self, step: Step) -> Applied:
        """Declares, refines and forgets as the step says. A repeated or an old step changes nothing."""
        if step.number <= self._last_step:
            return Applied(self.requests.predictions(step.number, ()))
        reader = self.artefact.reader(step.projection)
        slots = dict.fromkeys(self._declare(step.declared, {}))
        self._last_step = step.number
        self._model_run = None
        prompts = prompt_rows(self.requests, step.prompts)
        decodes = decode_rows(self.requests, step.decodes)
        changed, problems = self._refine(step.number, reader, prompts, decodes)
        slots |= dict.fromkeys((*prompts.settled, *changed, *self._put_since_last_step))
        self._put_since_last_step.clear()
        ending = {self.requests.slot(handle) for handle in step.finished.tolist()} - {None}
        alive = [slot for slot in slots if slot not in ending]
        predictions = self.requests.predictions(step.number, alive, problems)
        records = self.requests.records(alive)
        gone = [self._remove(slot) for slot in ending if slot is not None]
        return Applied(predictions, records, gone, self._model_run)

    def put(self, request_id: str, output_tokens: float, standard_error_tokens: float) -> bool:
        """Takes a total length that someone else predicted as r0. False for a request that is not known.

        It is answered and stored with the next step. Once hidden states were seen they count more.
        """
        slot = self.requests.slot_of_id(request_id)
        if slot is None:
            return False
        self.requests.r0[slot] = output_tokens
        if not self.requests.is_refined(slot):
            total = self.artefact.bins.spread(output_tokens, standard_error_tokens)
            self.requests.stage[slot] = Stage.EXTERNAL
            self._set_prompt_stage(np.array([slot]), total[None, :])
        self._put_since_last_step.add(slot)
        return True

    def forget(self, request_ids: Iterable[str]) -> list[str]:
        """Drops requests; returns those that were there."""
        slots = [self.requests.slot_of_id(request_id) for request_id in dict.fromkeys(request_ids)]
        return [self._remove(slot) for slot in slots if slot is not None]

    def _remove(self, slot: int) -> str:
        self._put_since_last_step.discard(slot)
        return self.requests.remove(slot)

    def _declare(self, declared: Sequence[Declaration], stored: Mapping[str, Record]) -> list[int]:
        unpredicted = self._add_new(declared)
        slots: dict[int, None] = {}
        for declaration in declared:
            slot = self._known(declaration)
            if slot is None:
                continue
            slots[slot] = None
            record = stored.get(declaration.request_id)
            if record and (slot in unpredicted or record.age_tokens > self.requests.age[slot]):
                self.requests.restore(record, slot)
                unpredicted.pop(slot, None)
        self._predict_from_prompts(unpredicted)
        return list(slots)

    def _add_new(self, declared: Sequence[Declaration]) -> dict[int, Declaration]:
        """Those by slot that were not known. All or none: on an error nothing of the message stays."""
        added: dict[int, Declaration] = {}
        try:
            for declaration in declared:
                if self._known(declaration) is None:
                    added[self._add(declaration)] = declaration
        except (InvalidField, Refused):
            for slot in added:
                self._remove(slot)
            raise
        return added

    def _known(self, declaration: Declaration) -> int | None:
        """The slot of a request that is declared again. Raises InvalidField where names clash."""
        by_handle = self.requests.slot(declaration.handle)
        by_id = self.requests.slot_of_id(declaration.request_id)
        if by_handle != by_id:
            raise InvalidField(
                "declared.handle",
                f"{declaration.handle} with request id {declaration.request_id!r}: one of them is in use",
            )
        return by_handle

    def _add(self, declaration: Declaration) -> int:
        if len(self.requests) >= self._max_requests:
            raise Refused(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"declared: more than {self._max_requests} living requests (max_requests_per_engine)",
                retry_after_ms=1000,
            )
        return self.requests.add(
            declaration.handle, declaration.request_id, declaration.age_tokens, declaration.max_tokens
        )

    def _predict_from_prompts(self, fresh: Mapping[int, Declaration]) -> None:
        if not fresh:
            return
        slots = np.fromiter(fresh, dtype=np.int64)
        total = self.artefact.prompt([declaration.prompt for declaration in fresh.values()])
        self.requests.r0[slots] = np.minimum(self.artefact.bins.quantile(total, 0.5), self.requests.cap[slots])
        self._set_prompt_stage(slots, total)

    def _set_prompt_stage(self, slots: Ages, total: Array) -> None:
        """From total length to what remains at the declared age, given that the request is alive."""
        start = self.artefact.evidence.start(total)
        remaining = self.artefact.transition.advance(start, self.requests.age[slots])
        self.requests.set_posterior(slots, remaining)

    def _refine(
        self, step: int, reader: Classifier, prompts: Selection, decodes: Selection
    ) -> tuple[list[int], list[RowProblem]]:
        """One run of the classifier; a request's prompt row counts before its decode row."""
        problems = [*prompts.problems, *decodes.problems]
        ages = np.concatenate([prompts.ages, decodes.ages])
        if len(ages) == 0:
            return [], problems
        begun_s = time.perf_counter()
        p = reader((prompts.hidden, decodes.hidden), ages)
        self._model_run = begun_s, time.perf_counter()
        slots = np.concatenate([prompts.slots, decodes.slots])
        usable = np.isfinite(p).all(axis=1)
        problems += [not_finite(handle) for handle in self.requests.handle[slots[~usable]].tolist()]
        is_prompt = np.arange(len(ages)) < len(prompts.ages)
        for stage, rows in ((Stage.PREFILL, is_prompt & usable), (Stage.DECODE, ~is_prompt & usable)):
            if rows.any():
                self._update(step, stage, slots[rows], ages[rows], p[rows])
        return slots[usable].tolist(), problems

    def _update(self, step: int, stage: Stage, slots: Ages, ages: Ages, p: Array) -> None:
        requests, evidence = self.requests, self.artefact.evidence
        prior = self.artefact.transition.advance(requests.q[slots], np.maximum(ages - requests.age[slots], 0))
        first = ~requests.refined(slots)
        requests.step[slots], requests.age[slots], requests.stage[slots] = step, ages, stage
        q = evidence.update(prior, p)
        if first.any():
            q[first] = evidence.start(p[first])
        requests.set_posterior(slots, q)
        if stage == Stage.PREFILL:
            requests.r1[slots] = requests.median[slots]
