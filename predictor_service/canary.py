"""A new artefact on trial with a share of the engines, sent back by itself where it is worse."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import structlog

from predictor_service import metrics
from predictor_service.artefact import Artefact
from predictor_service.catalogue import Catalogue, same_layout
from predictor_service.live import Judged, Windows, columns, resampled
from predictor_service.verdicts import Verdicts
from sidecar.redis import STORE_ERRORS

NOMINAL_COVERAGE = 0.8
# Of each of the two tests: a canary as good as the stable artefact is sent back in at most 5 % of trials.
_LEVEL = 0.025


@dataclass(frozen=True)
class CanarySettings:
    """`share` of the engines that ask for no artefact by name get artefact `name` ("": there is no canary); it is
    judged once it and the stable artefact have `requests` outcomes each."""

    name: str = ""
    share: float = 0.1
    requests: int = 200


@dataclass(frozen=True, eq=False)
class _Trial:
    canary: Artefact
    stable: Artefact

    def is_of(self, other: "_Trial | None") -> bool:
        return other is not None and self.canary is other.canary and self.stable is other.stable


class Canary:
    """Which artefact an engine gets. The canary serves only after the store told that it was not sent back before;
    one that is missing, or reads other hidden states than the stable artefact, does not serve."""

    def __init__(
        self,
        settings: CanarySettings,
        catalogue: Catalogue,
        windows: Windows,
        verdicts: Verdicts,
        *,
        seed: int | None = None,
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._windows = windows
        self._verdicts = verdicts
        self._rng = np.random.default_rng(seed)
        self._serving: _Trial | None = None
        self._state = ""
        self._unreadable: set[str] = set()  # engines of which this was said
        self._log = structlog.get_logger("canary")

    def artefact_for(self, engine_id: str, asked: str, projection: str = "") -> Artefact:
        """The artefact that was asked for by name, else the canary or the stable one. Raises Refused (NOT_FOUND).

        An engine whose rows went through a `projection` that the canary does not read keeps the stable one.
        """
        stable = self._catalogue.get(asked)
        trial = self._serving
        if asked or trial is None or trial.stable is not stable:
            return stable
        if not in_share(engine_id, self._settings.name, self._settings.share):
            return stable
        if not trial.canary.reads(projection):
            self._tell_unreadable(engine_id)
            return stable
        return trial.canary

    async def refresh(self) -> None:
        """Finds out what becomes of the canary: after the catalogue changed, and now and then for other replicas'
        verdicts. Without the store all stays as it is, and a canary that was not cleared waits."""
        if not self._settings.name:
            return
        trial = self._fit()
        if trial is None:
            self._serving = None
            return
        try:
            verdict = await self._verdicts.read(trial.canary, trial.stable)
        except STORE_ERRORS as error:
            self._log.debug("the store does not tell about the canary", error=str(error))
            self._serving = trial if trial.is_of(self._serving) else None
            return
        if verdict is None:
            self._serve(trial, "on trial")
        elif verdict.worse:
            self._send_back(trial, verdict.worse)
        else:
            self._serve(trial, "ready")

    async def judge(self) -> None:
        """Compares canary and stable artefact where both have outcomes enough, once; the verdict goes to the store."""
        trial = self._serving
        if trial is None or self._state != "on trial":
            return
        canary, stable = self._windows.judged(trial.canary), self._windows.judged(trial.stable)
        if min(len(canary), len(stable)) < self._settings.requests:
            return
        worse = await asyncio.to_thread(worse_than, canary, stable, self._rng)
        try:
            await self._verdicts.write(trial.canary, trial.stable, worse)
        except STORE_ERRORS as error:
            self._log.warning("the verdict on the canary is not stored yet", error=str(error))
            return
        # Another replica may have been first.
        await self.refresh()

    def _fit(self) -> _Trial | None:
        name, problem = self._settings.name, self._catalogue.problem
        if not problem and name not in self._catalogue.names:
            problem = f"{name!r} is not loaded"
        if not problem:
            trial = _Trial(self._catalogue.get(name), self._catalogue.get())
            if same_layout(trial.canary, trial.stable):
                return trial
            problem = f"{name!r} reads other layers than {trial.stable.name!r}"
        self._tell("unfit", reason=problem)
        return None

    def _serve(self, trial: _Trial, state: str) -> None:
        self._serving = trial
        self._tell(state, stable=trial.stable.name, share=self._settings.share)

    def _send_back(self, trial: _Trial, worse: str) -> None:
        self._serving = None
        if self._tell("returned", stable=trial.stable.name, worse=worse):
            metrics.CANARY_RETURNS.labels(self._settings.name).inc()

    def _tell_unreadable(self, engine_id: str) -> None:
        if engine_id not in self._unreadable:
            self._unreadable.add(engine_id)
            text = "not for the canary: another artefact projected what the engine sends (`--rows hidden` would do)"
            self._log.warning(text, engine=engine_id, canary=self._settings.name)

    def _tell(self, state: str, **more: object) -> bool:
        """Whether that is news."""
        if state == self._state:
            return False
        self._state = state
        metrics.CANARY.labels(self._settings.name).state(state)
        log = self._log.info if state in ("on trial", "ready") else self._log.warning
        log(f"canary {state}", canary=self._settings.name, **more)
        return True


def in_share(engine_id: str, artefact_name: str, share: float) -> bool:
    """The same on every replica, and other engines for another artefact."""
    digest = hashlib.blake2b(f"{artefact_name}\0{engine_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


def worse_than(canary: Sequence[Judged], stable: Sequence[Judged], rng: np.random.Generator) -> str:
    """Why the canary is worse than the stable artefact; empty where that is not shown.

    Two one-sided bootstrap tests over requests, each at 2.5 %: the ratio of the mean absolute errors is above 1;
    coverage is farther from 80 %. The two served other requests, so their engines' loads should be alike.
    """
    times = [resampled(len(judged), rng) / len(judged) for judged in (canary, stable)]
    (error, covered, *_), (stable_error, stable_covered, *_) = columns(canary), columns(stable)
    ratio = (times[0] @ error) / np.maximum(times[1] @ stable_error, 1e-9)
    miss, stable_miss = (np.abs(drawn - NOMINAL_COVERAGE) for drawn in (times[0] @ covered, times[1] @ stable_covered))
    found = []
    if np.quantile(ratio, _LEVEL) > 1:
        found.append(f"mae_tokens {error.mean():.1f} instead of {stable_error.mean():.1f}")
    if np.quantile(miss - stable_miss, _LEVEL) > 0:
        found.append(f"coverage {covered.mean():.2f} instead of {stable_covered.mean():.2f}")
    return ", ".join(found)
