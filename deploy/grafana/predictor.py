"""Are predictions quick, fresh and right?"""

from deploy.grafana.panels import Dashboard, Panel, Query, Row, Variable, quantiles, share

INSTANCE = '{instance=~"$instance"}'
RATE = "[$__rate_interval]"


def _rate(metric: str, by: str = "instance") -> tuple[Query, ...]:
    return (Query(f"sum by ({by}) (rate({metric}{INSTANCE}{RATE}))", f"{{{{{by}}}}}"),)


def _live_and_test(figure: str) -> tuple[Query, ...]:
    return (
        Query(f"trail_predictor_live_{figure}{INSTANCE}", "{{model}} live"),
        Query(f"trail_predictor_test_{figure}{INSTANCE}", "{{model}} when tested"),
    )


PREDICTOR = Dashboard(
    "trail-predictor",
    "Trail: predictor",
    "Load, latency, freshness and accuracy of predictions.",
    (Variable("instance", "trail_predictor_steps_total"),),
    (
        Row(
            "Load",
            (
                Panel(
                    "Rows",
                    "Hidden states predicted from, a second; what to scale by, beside the queue.",
                    _rate("trail_predictor_rows_total"),
                ),
                Panel("Steps", "Engine steps answered a second.", _rate("trail_predictor_steps_total")),
                Panel(
                    "Prompts", "Requests predicted from their prompt, a second.", _rate("trail_predictor_prompts_total")
                ),
                Panel(
                    "Rows of a step", "How large batches are.", quantiles("trail_predictor_step_rows", where=INSTANCE)
                ),
                Panel(
                    "Engines and requests",
                    "With an open stream here.",
                    (
                        Query(f"trail_predictor_streams{INSTANCE}", "{{instance}} engines"),
                        Query(f"trail_predictor_posteriors{INSTANCE}", "{{instance}} requests"),
                    ),
                ),
                Panel(
                    "Engines refused and sent away",
                    "A second, by the limit that was reached; another replica is needed.",
                    (
                        *_rate("trail_predictor_refused_streams_total", "limit"),
                        *_rate("trail_predictor_shed_streams_total", "limit"),
                    ),
                ),
                Panel(
                    "Store",
                    "1 while it answers.",
                    (Query(f"trail_predictor_store_up{INSTANCE}", "{{instance}}"),),
                    kind="states",
                ),
            ),
        ),
        Row(
            "Time of a step",
            (
                Panel(
                    "Waiting for the turn",
                    "Of a step, before anything is computed; what to scale by.",
                    quantiles("trail_predictor_step_seconds", "instance", '{instance=~"$instance", part="queue"}'),
                    "s",
                ),
                Panel(
                    "Computing",
                    "Classifier and posteriors.",
                    quantiles("trail_predictor_step_seconds", "instance", '{instance=~"$instance", part="compute"}'),
                    "s",
                ),
                Panel(
                    "All parts",
                    "99 of 100 steps are quicker.",
                    quantiles("trail_predictor_step_seconds", "part", INSTANCE, (0.99,)),
                    "s",
                ),
            ),
        ),
        Row(
            "Accuracy, on the newest requests that ended",
            (
                Panel(
                    "Error", "Mean absolute error of the median remaining length, tokens.", _live_and_test("mae_tokens")
                ),
                Panel(
                    "Rank correlation",
                    "Kendall's tau with what really remained: what ordering needs.",
                    _live_and_test("kendall_tau"),
                    top=1,
                ),
                Panel(
                    "Interval coverage",
                    "True lengths inside the 80 % interval.",
                    _live_and_test("coverage"),
                    "percentunit",
                    top=1,
                ),
                Panel(
                    "Entropy of posteriors",
                    "How unsure they are, nats.",
                    quantiles("trail_predictor_posterior_entropy_nats", where=INSTANCE, of=(0.1, 0.5, 0.9)),
                ),
                Panel(
                    "Requests behind the figures",
                    "Below 100 nothing is warned of.",
                    (Query(f"trail_predictor_live_requests{INSTANCE}", "{{model}}"),),
                ),
                Panel(
                    "Error as agents see it",
                    "Of every prediction of requests that ended, tokens.",
                    (
                        share(
                            "trail_agent_absolute_error_tokens_total",
                            "trail_agent_finished_predictions_total",
                            "engine",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Freshness, in the engines",
            (
                Panel(
                    "Age of predictions",
                    "Tokens generated since, of each rank that a step followed.",
                    quantiles("trail_agent_prediction_age_tokens", "engine"),
                ),
                Panel(
                    "Refined predictions",
                    "Share of ranks past the first token that a decode step refined.",
                    (
                        share(
                            "trail_agent_refined_predictions_used_total",
                            "trail_agent_predictions_used_past_first_token_total",
                            "engine",
                        ),
                    ),
                    "percentunit",
                    top=1,
                ),
                Panel(
                    "Answers without the store",
                    "Degraded: predictions that no scheduler hears of, a second.",
                    _rate("trail_predictor_degraded_steps_total"),
                ),
            ),
        ),
        Row(
            "What went wrong, and artefacts",
            (
                Panel(
                    "Rows that could not be used",
                    "By reason, a second.",
                    _rate("trail_predictor_row_errors_total", "status"),
                ),
                Panel(
                    "Fenced commits", "Another epoch owned the engine.", _rate("trail_predictor_fenced_commits_total")
                ),
                Panel(
                    "Recording",
                    "Rows recorded for training, and rows there was no time for, a second.",
                    (
                        Query(f"rate(trail_predictor_recorded_rows_total{INSTANCE}{RATE})", "{{instance}} recorded"),
                        Query(
                            f"rate(trail_predictor_record_dropped_rows_total{INSTANCE}{RATE})", "{{instance}} dropped"
                        ),
                        Query(f"trail_predictor_recording{INSTANCE}", "{{instance}} on"),
                    ),
                ),
                Panel(
                    "Canary",
                    "What becomes of the artefact on trial.",
                    (Query(f"trail_predictor_canary{INSTANCE} == 1", "{{model}} {{trail_predictor_canary}}"),),
                    kind="states",
                ),
                Panel(
                    "Artefacts refused, returned, switched",
                    "In the last hour.",
                    (
                        Query(f"increase(trail_predictor_bad_artefacts_total{INSTANCE}[1h])", "{{instance}} refused"),
                        Query(f"increase(trail_predictor_canary_returns_total{INSTANCE}[1h])", "{{model}} returned"),
                        Query(f"increase(trail_predictor_switches_total{INSTANCE}[1h])", "{{instance}} switched"),
                    ),
                ),
                Panel(
                    "Models on the CPU",
                    "Because CUDA failed.",
                    (Query(f"trail_predictor_degraded_models{INSTANCE}", "{{instance}}"),),
                ),
            ),
        ),
    ),
)
