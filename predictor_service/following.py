"""Follows how requests end, away from every step: live figures, drift, and what becomes of the canary."""

import asyncio

import numpy as np
import structlog

from predictor_service.canary import Canary
from predictor_service.catalogue import Catalogue
from predictor_service.drift import Drift
from predictor_service.journal import Journal
from predictor_service.live import Windows, judge
from predictor_service.outcomes_reader import OutcomeReader
from sidecar.redis import STORE_ERRORS


class Follower:
    """Joins outcomes with what was predicted. Without outcomes there are no figures, and that is no error."""

    def __init__(
        self,
        catalogue: Catalogue,
        journal: Journal,
        reader: OutcomeReader,
        windows: Windows,
        drift: Drift,
        canary: Canary,
        *,
        seed: int | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._journal = journal
        self._reader = reader
        self._windows = windows
        self._drift = drift
        self._canary = canary
        self._rng = np.random.default_rng(seed)
        self._log = structlog.get_logger("outcomes")

    async def run(self, poll_s: float) -> None:
        """Looks every `poll_s` seconds until cancelled."""
        while True:
            await asyncio.sleep(poll_s)
            try:
                await self.look()
            except Exception as error:
                # Statistics must not end for good because of one outcome.
                self._log.error("outcomes not followed", error=f"{type(error).__name__}: {error}")

    async def look(self) -> None:
        """Takes in what is new. A store that does not answer is asked again next time."""
        judged = 0
        engines = self._journal.engines
        self._reader.keep_only(engines)
        for engine_id in engines:
            try:
                judged += await self._take(engine_id)
            except STORE_ERRORS as error:
                self._log.debug("outcomes not read", engine=engine_id, error=str(error))
        if judged:
            await asyncio.to_thread(self._drift.report)
        await self._canary.refresh()
        await self._canary.judge()

    async def _take(self, engine_id: str) -> int:
        judged = 0
        for outcome in await self._reader.read(engine_id):
            notes = self._journal.take(engine_id, outcome.handle, outcome.request_id)
            if notes is None or outcome.output_tokens is None or not self._catalogue.serves(notes.artefact):
                continue
            found = judge(notes, outcome.output_tokens, self._rng)
            if found is not None:
                self._windows.add(notes.artefact, found)
                judged += 1
        return judged
