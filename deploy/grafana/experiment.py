"""Which arm is better, and is any of them doing harm?"""

from deploy.grafana.panels import Dashboard, Panel, Query, Row, Variable

PREFIX = "trail_scheduler_experiment"
CHOSEN = '{experiment=~"$experiment"}'
RATE = "[$__rate_interval]"


def _quantile(metric: str, q: float) -> Query:
    inner = f"sum by (le, experiment, arm) (rate({PREFIX}_{metric}_bucket{CHOSEN}{RATE}))"
    return Query(f"histogram_quantile({q:g}, {inner})", f"{{{{experiment}}}} {{{{arm}}}} p{q * 100:g}")


EXPERIMENT = Dashboard(
    "trail-experiment",
    "Trail: experiment",
    "Arms of an experiment side by side. `trail ab report` has the verdict; these are its raw figures.",
    (Variable("experiment", f"{PREFIX}_arm"),),
    (
        Row(
            "Verdict so far",
            (
                Panel(
                    "Effect",
                    "Relative difference of the treatment from the control, with an interval that holds at every look.",
                    (Query(f"{PREFIX}_effect{CHOSEN}", "{{experiment}} {{arm}} {{metric}} {{bound}}"),),
                    "percentunit",
                    width=16,
                ),
                Panel(
                    "Guardrails",
                    "Arms stopped in the last hour.",
                    (
                        Query(
                            "sum by (experiment, arm, guardrail) "
                            f"(increase({PREFIX}_guardrail_stops_total{CHOSEN}[1h]))",
                            "{{experiment}} {{arm}} {{guardrail}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Arms",
            (
                Panel(
                    "Who serves whom",
                    "The arm of each engine.",
                    (Query(f"{PREFIX}_arm{CHOSEN} == 1", "{{experiment}} {{engine}}: {{arm}}"),),
                    kind="states",
                    width=24,
                ),
                Panel("Latency, median", "From arrival to the end.", (_quantile("latency_seconds", 0.5),), "s"),
                Panel("Latency, p99", "From arrival to the end.", (_quantile("latency_seconds", 0.99),), "s"),
                Panel(
                    "Time to first token, median and p99",
                    "From arrival.",
                    (_quantile("time_to_first_token_seconds", 0.5), _quantile("time_to_first_token_seconds", 0.99)),
                    "s",
                ),
                Panel(
                    "Requests",
                    "Ended, a second.",
                    (
                        Query(
                            f"sum by (experiment, arm) (rate({PREFIX}_requests_total{CHOSEN}{RATE}))",
                            "{{experiment}} {{arm}}",
                        ),
                    ),
                    "reqps",
                ),
                Panel(
                    "Errors",
                    "Share of requests that ended in one.",
                    (
                        Query(
                            f"sum by (experiment, arm) (rate({PREFIX}_requests_total"
                            f'{{experiment=~"$experiment", reason="error"}}{RATE}))'
                            f" / sum by (experiment, arm) (rate({PREFIX}_requests_total{CHOSEN}{RATE}))",
                            "{{experiment}} {{arm}}",
                        ),
                    ),
                    "percentunit",
                ),
                Panel(
                    "Mean latency",
                    "From arrival to the end.",
                    (
                        Query(
                            f"sum by (experiment, arm) (rate({PREFIX}_latency_seconds_sum{CHOSEN}{RATE}))"
                            f" / sum by (experiment, arm) (rate({PREFIX}_latency_seconds_count{CHOSEN}{RATE}))",
                            "{{experiment}} {{arm}}",
                        ),
                    ),
                    "s",
                ),
            ),
        ),
    ),
)
