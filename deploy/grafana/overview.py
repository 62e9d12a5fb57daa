"""Is it working, and what do users get?"""

from deploy.grafana.panels import Dashboard, Panel, Query, Row, Variable, quantiles

ENGINE = '{engine=~"$engine"}'
RATE = "[$__rate_interval]"

OVERVIEW = Dashboard(
    "trail-overview",
    "Trail: overview",
    "What users get, and whether engines follow plans.",
    (Variable("engine", "trail_agent_steps_total"),),
    (
        Row(
            "Now",
            (
                Panel(
                    "Engines",
                    "Agents that report.",
                    (Query("count(trail_agent_living_requests)"),),
                    kind="number",
                    width=4,
                ),
                Panel(
                    "Running",
                    "Requests in batches.",
                    (Query(f"sum(trail_scheduler_running_requests{ENGINE})"),),
                    kind="number",
                    width=4,
                ),
                Panel(
                    "Waiting",
                    "Requests in queues.",
                    (Query(f"sum(trail_scheduler_waiting_requests{ENGINE})"),),
                    kind="number",
                    width=4,
                ),
                Panel(
                    "Steps under a plan",
                    "The rest are in the engine's own order: it failed open.",
                    (
                        Query(
                            f"1 - sum(rate(trail_agent_fail_open_steps_total{ENGINE}{RATE}))"
                            f" / sum(rate(trail_agent_steps_total{ENGINE}{RATE}))"
                        ),
                    ),
                    "percentunit",
                    "number",
                    4,
                ),
                Panel(
                    "Error of predictions",
                    "Mean absolute error, tokens.",
                    (Query("avg(trail_predictor_live_mae_tokens)"),),
                    kind="number",
                    width=4,
                ),
                Panel(
                    "Stores reached",
                    "Services that reach the store.",
                    (Query("sum(trail_predictor_store_up) + sum(trail_scheduler_store_up)"),),
                    kind="number",
                    width=4,
                ),
            ),
        ),
        Row(
            "What users get",
            (
                Panel(
                    "Latency",
                    "From arrival to the end, of requests that ended by themselves.",
                    quantiles("trail_scheduler_request_latency_seconds", "engine", ENGINE),
                    "s",
                ),
                Panel(
                    "Time to first token",
                    "From arrival.",
                    quantiles("trail_scheduler_time_to_first_token_seconds", "engine", ENGINE),
                    "s",
                ),
                Panel(
                    "Requests ended",
                    "By how they ended.",
                    (
                        Query(
                            f"sum by (reason) (rate(trail_scheduler_finished_requests_total{ENGINE}{RATE}))",
                            "{{reason}}",
                        ),
                    ),
                    "reqps",
                ),
                Panel(
                    "Queue",
                    "Requests in the batch and outside it.",
                    (
                        Query(f"trail_scheduler_running_requests{ENGINE}", "{{engine}} running"),
                        Query(f"trail_scheduler_waiting_requests{ENGINE}", "{{engine}} waiting"),
                    ),
                ),
                Panel(
                    "Longest wait",
                    "Of those who wait now.",
                    (Query(f"trail_scheduler_longest_wait_seconds{ENGINE}", "{{engine}}"),),
                    "s",
                ),
                Panel(
                    "Memory",
                    "KV blocks that are taken.",
                    (Query(f"trail_scheduler_kv_used_ratio{ENGINE}", "{{engine}}"),),
                    "percentunit",
                    top=1,
                ),
            ),
        ),
        Row(
            "The loop",
            (
                Panel(
                    "Steps in the engine's own order",
                    "Share of all steps, by reason.",
                    (
                        Query(
                            f"sum by (engine, reason) (rate(trail_agent_fail_open_steps_total{ENGINE}{RATE}))"
                            " / on (engine) group_left ()"
                            f" sum by (engine) (rate(trail_agent_steps_total{ENGINE}{RATE}))",
                            "{{engine}} {{reason}}",
                        ),
                    ),
                    "percentunit",
                    top=1,
                ),
                Panel(
                    "From rows to the plan",
                    "Rows read to their message (send), to its answer (answer), and to the first plan by them (plan).",
                    quantiles("trail_agent_hop_seconds", "hop", ENGINE, (0.5, 0.99)),
                    "s",
                ),
                Panel(
                    "Streams",
                    "1 while the agent's stream is open.",
                    (Query(f"trail_agent_connected{ENGINE}", "{{engine}} {{link}}"),),
                    kind="states",
                ),
                Panel(
                    "Steps",
                    "Engine steps a second.",
                    (Query(f"rate(trail_agent_steps_total{ENGINE}{RATE})", "{{engine}}"),),
                ),
                Panel(
                    "Rows dropped",
                    "A newer one came first, or nobody could take them; share of all.",
                    (
                        Query(
                            f"rate(trail_agent_rows_dropped_total{ENGINE}{RATE})"
                            f" / (rate(trail_agent_rows_dropped_total{ENGINE}{RATE})"
                            f" + rate(trail_agent_rows_shipped_total{ENGINE}{RATE}))",
                            "{{engine}}",
                        ),
                    ),
                    "percentunit",
                    top=1,
                ),
                Panel(
                    "CPU of the services",
                    "Cores.",
                    (
                        Query(
                            'rate(process_cpu_seconds_total{job=~"trail-.*"}[$__rate_interval])', "{{job}} {{instance}}"
                        ),
                    ),
                ),
            ),
        ),
    ),
)
