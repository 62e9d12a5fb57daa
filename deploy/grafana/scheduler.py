"""Are plans quick, fresh and fair, and do preemptions pay?"""

from deploy.grafana.panels import Dashboard, Panel, Query, Row, Variable, quantiles

ENGINE = '{engine=~"$engine"}'
RATE = "[$__rate_interval]"


def _rate(metric: str, *labels: str) -> tuple[Query, ...]:
    return (
        Query(
            f"sum by ({', '.join(labels)}) (rate({metric}{ENGINE}{RATE}))",
            " ".join(f"{{{{{each}}}}}" for each in labels),
        ),
    )


def _net_seconds() -> str:
    paid, unpaid = (
        "sum by (engine) (rate(trail_scheduler_preemption_seconds_total"
        f'{{engine=~"$engine", verdict="{verdict}"}}{RATE}))'
        for verdict in ("paid", "unpaid")
    )
    return f"{paid} - {unpaid}"


SCHEDULER = Dashboard(
    "trail-scheduler",
    "Trail: scheduler",
    "Plans, queues, fairness and preemptions.",
    (Variable("engine", "trail_scheduler_requests"),),
    (
        Row(
            "Plans",
            (
                Panel(
                    "Plans",
                    "Sent, a second, by the arm that made them.",
                    _rate("trail_scheduler_plans_total", "engine", "policy", "predictor"),
                ),
                Panel(
                    "Plans not made",
                    "store: it does not answer; unanswered: the predictor does not.",
                    _rate("trail_scheduler_plans_withheld_total", "engine", "reason"),
                ),
                Panel(
                    "Plans refused by agents",
                    "Of another epoch, that contradict themselves, or that came again or too late, a second.",
                    _rate("trail_agent_plans_rejected_total", "engine"),
                ),
                Panel(
                    "Arm",
                    "Policy and predictor pairing by which an engine is planned.",
                    (Query(f"trail_scheduler_arm{ENGINE}", "{{engine}}: {{policy}}, {{predictor}}"),),
                    kind="states",
                ),
                Panel(
                    "Waiting to be planned",
                    "From the first delta to the beginning of the plan by it.",
                    quantiles("trail_scheduler_plan_wait_seconds"),
                    "s",
                ),
                Panel("Planning", "Time to make a plan.", quantiles("trail_scheduler_plan_seconds"), "s"),
                Panel(
                    "From a delta to its plan, sent",
                    "Both, and sending.",
                    quantiles("trail_scheduler_step_to_plan_seconds"),
                    "s",
                ),
                Panel("Requests of a plan", "How many a plan names.", quantiles("trail_scheduler_plan_requests")),
                Panel(
                    "Age of plans",
                    "When a step follows them; they live a second at most.",
                    quantiles("trail_agent_plan_age_seconds", "engine", ENGINE),
                    "s",
                ),
                Panel(
                    "Ranks without a prediction",
                    "Something else had to stand in, a second.",
                    _rate("trail_scheduler_fallback_ranks_total", "engine"),
                ),
            ),
        ),
        Row(
            "Queues and fairness",
            (
                Panel(
                    "Waiting",
                    "Living requests outside the batch.",
                    (Query(f"trail_scheduler_waiting_requests{ENGINE}", "{{engine}}"),),
                ),
                Panel(
                    "Admitted together",
                    "Places that come free before anybody is admitted to a full batch; 1: nobody waits for another.",
                    (Query(f"trail_scheduler_admit_together{ENGINE}", "{{engine}}"),),
                ),
                Panel(
                    "Longest wait",
                    "Of those who wait now.",
                    (Query(f"trail_scheduler_longest_wait_seconds{ENGINE}", "{{engine}}"),),
                    "s",
                ),
                Panel(
                    "Starvation margin",
                    "Service that others may still get before the longest-waiting request goes ahead; 0: it does.",
                    (Query(f"trail_scheduler_starvation_margin_seconds{ENGINE}", "{{engine}}"),),
                    "s",
                ),
            ),
        ),
        Row(
            "Preemptions",
            (
                Panel(
                    "Done",
                    "A second, by who asked for them.",
                    (
                        Query(f"rate(trail_agent_preemptions_by_plan_total{ENGINE}{RATE})", "{{engine}} plan"),
                        Query(
                            f"rate(trail_agent_preemptions_by_engine_total{ENGINE}{RATE})",
                            "{{engine}} engine, for memory",
                        ),
                    ),
                ),
                Panel(
                    "Whether they paid",
                    "Once both requests have ended, a second.",
                    _rate("trail_scheduler_preemptions_judged_total", "engine", "verdict"),
                ),
                Panel(
                    "What they brought",
                    "Seconds of waiting saved in each second, less recompute; below 0: they cost.",
                    (Query(_net_seconds(), "{{engine}}"),),
                ),
                Panel(
                    "Asked for",
                    "By plans, repeats included, a second.",
                    _rate("trail_scheduler_preemptions_planned_total", "engine"),
                ),
                Panel(
                    "Limit c",
                    "Past c times its predicted length a request is never preempted.",
                    (Query(f"trail_scheduler_preemption_limit{ENGINE}", "{{engine}}"),),
                    top=1,
                ),
                Panel(
                    "Recomputed",
                    "Of the tokens computed lately, how many had been computed before.",
                    (Query(f"trail_scheduler_recompute_ratio{ENGINE}", "{{engine}}"),),
                    "percentunit",
                ),
            ),
        ),
        Row(
            "What comes in and goes out",
            (
                Panel(
                    "Deltas",
                    "By what became of them, a second.",
                    _rate("trail_scheduler_deltas_total", "engine", "status"),
                ),
                Panel(
                    "Messages of the predictor",
                    "By what became of them, a second.",
                    _rate("trail_scheduler_prediction_messages_total", "engine", "status"),
                ),
                Panel(
                    "Reads of all stored predictions",
                    "By cause, a second.",
                    _rate("trail_scheduler_store_reads_total", "engine", "cause"),
                ),
                Panel(
                    "Outcomes",
                    "By what became of their record, a second.",
                    (Query(f"sum by (status) (rate(trail_scheduler_outcomes_total{RATE}))", "{{status}}"),),
                ),
                Panel(
                    "Streams",
                    "Open, and ended by a newer one of the same engine in the last hour.",
                    (
                        Query("trail_scheduler_streams", "{{instance}} open"),
                        Query("increase(trail_scheduler_fenced_streams_total[1h])", "{{instance}} fenced"),
                    ),
                ),
                Panel(
                    "Store", "1 while it answers.", (Query("trail_scheduler_store_up", "{{instance}}"),), kind="states"
                ),
            ),
        ),
    ),
)
