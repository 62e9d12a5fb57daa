"""What the agent counts. Every number only rises, so that a reader can take differences."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Since the agent's process started."""

    steps: int = 0
    """Engine steps seen."""
    fail_open_steps: int = 0
    """Steps with a batch and without a plan in force."""
    requests_declared: int = 0
    requests_finished: int = 0
    requests_undeclared: int = 0
    """Requests that no service learns of, for too many are alive."""
    handle_collisions: int = 0
    rows_shipped: int = 0
    rows_dropped: int = 0
    """Rows that a newer one replaced, of unknown requests, or that came while the stream was down."""
    row_records_dropped: int = 0
    """Whole steps of rows that did not fit into the ring."""
    row_errors: int = 0
    """Rows that the predictor refused."""
    predictions_received: int = 0
    degraded_answers: int = 0
    """Answers that the predictor gave without its store."""
    predictions_used: int = 0
    """Running requests in steps under a plan that rests on a prediction of theirs."""
    predictions_used_past_first_token: int = 0
    """Those of age 2 and more."""
    refined_predictions_used: int = 0
    """Those of age 2 and more whose prediction a decode step refined."""
    plans_received: int = 0
    plans_rejected: int = 0
    """Plans of another epoch, that contradict themselves, or that came again or too late."""
    plans_applied: int = 0
    """Plans that the engine followed for at least one step."""
    preemptions_by_plan: int = 0
    preemptions_by_engine: int = 0
    finished_predictions: int = 0
    """Predictions whose request has ended, so that their error is known."""
    absolute_error_tokens_sum: float = 0.0
    """Over the finished predictions: |predicted remaining length - true remaining length|."""
    outcomes_lost: int = 0
    """Requests that ended while no scheduler listened."""
    resynchronisations: int = 0
    """Times that the engine was asked to declare its requests again."""
    predictor_streams_opened: int = 0
    scheduler_streams_opened: int = 0
