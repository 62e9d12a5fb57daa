"""What each record from the rings means to the agent."""

from engine_adapter.agent import rows as row_sets
from engine_adapter.agent.counters import Counters
from engine_adapter.agent.living import LivingRequests
from engine_adapter.agent.plan_book import PlanBook
from engine_adapter.agent.prediction_book import PredictionBook
from engine_adapter.agent.predictor_link import PredictorLink
from engine_adapter.agent.scheduler_link import SchedulerLink
from engine_adapter.records import Arrived, Engine, Finished, Rows, Step


class Intake:
    """Brings events and rows to the table of living requests, to both links, and to the books."""

    def __init__(
        self,
        living: LivingRequests,
        predictor: PredictorLink,
        scheduler: SchedulerLink,
        predictions: PredictionBook,
        plans: PlanBook,
        counters: Counters,
    ) -> None:
        self._living = living
        self._predictor, self._scheduler = predictor, scheduler
        self._predictions, self._plans = predictions, plans
        self._counters = counters
        self._early: list[Rows] = []

    def engine(self, engine: Engine) -> None:
        """A declaration of everything begins: what was known counts no more."""
        self._living.clear()
        self._scheduler.engine(engine)

    def declared(self) -> None:
        """The declaration is complete: predictions of requests that it did not name are of no use."""
        self._predictions.keep(self._living)

    def forget(self) -> None:
        """The engine started anew."""
        self._living.clear()
        self._predictions.clear()
        self._plans.clear()
        self._early.clear()

    def arrived(self, request: Arrived) -> None:
        if self._living.arrived(request):
            self._counters.requests_declared += 1
            self._predictor.outbox.arrived(request)
            self._scheduler.outbox.arrived(request)

    def stepped(self, step: Step) -> None:
        self._living.stepped(step)
        self._plans.stepped(step)
        self._scheduler.outbox.stepped(step)

    def finished(self, finished: Finished) -> None:
        if self._living.finished(finished.handle) is None:
            return
        self._counters.requests_finished += 1
        self._predictions.finished(finished.handle, finished.output_tokens)
        self._predictor.outbox.finished(finished.handle)
        self._scheduler.outbox.finished(finished)

    def early_rows(self) -> None:
        """Rows of requests that were unknown one poll ago: by now their arrival was read, or they are of no use."""
        early, self._early = self._early, []
        for rows in early:
            self._counters.rows_dropped += len(self._pass_on(rows).handles)

    def rows(self, rows: Rows) -> None:
        """Passes on the rows of living requests; keeps the others for one poll."""
        unknown = self._pass_on(rows)
        if len(unknown.handles):
            self._early.append(unknown)

    def wake(self) -> None:
        """Something was read: there may be something to send."""
        self._predictor.wake()
        self._scheduler.wake()

    def _pass_on(self, rows: Rows) -> Rows:
        """Gives the predictor what it can use; returns the rest."""
        known = self._living.known(rows.handles)
        if known.any():
            self._predictor.rows(rows if known.all() else row_sets.select(rows, known))
        return row_sets.select(rows, ~known)
