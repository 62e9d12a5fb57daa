"""What services serve at /metrics, written by hand."""

SCHEDULER = """
trail_scheduler_streams 1
trail_scheduler_store_up 1
trail_scheduler_plans_total{engine="e",policy="trail",predictor="per_step"} 100
trail_scheduler_plans_withheld_total{engine="e",reason="store"} 0
trail_scheduler_requests{engine="e"} 12
trail_scheduler_running_requests{engine="e"} 8
trail_scheduler_waiting_requests{engine="e"} 4
trail_scheduler_longest_wait_seconds{engine="e"} 3.5
trail_scheduler_starvation_margin_seconds{engine="e"} +Inf
trail_scheduler_kv_used_ratio{engine="e"} NaN
trail_scheduler_arm{engine="e",policy="trail",predictor="per_step"} 1
trail_scheduler_preemption_seconds_total{engine="e",verdict="paid"} 5
trail_scheduler_preemption_seconds_total{engine="e",verdict="unpaid"} 7
trail_scheduler_experiment_arm{experiment="x",engine="e",arm="treatment"} 1
trail_scheduler_experiment_arm{experiment="x",engine="e",arm="control"} 0
trail_scheduler_experiment_requests_total{experiment="x",arm="control",reason="stop"} 40
trail_scheduler_experiment_requests_total{experiment="x",arm="control",reason="error"} 2
trail_scheduler_experiment_effect{experiment="x",arm="treatment",metric="latency",bound="estimate"} -0.1
trail_scheduler_experiment_effect{experiment="x",arm="treatment",metric="latency",bound="low"} -0.2
trail_scheduler_experiment_effect{experiment="x",arm="treatment",metric="latency",bound="high"} 0.0
trail_scheduler_experiment_guardrail_stops_total{experiment="x",arm="treatment",guardrail="p99"} 1
"""

AGENT = """
trail_agent_steps_total{engine="e"} 1000
trail_agent_fail_open_steps_total{engine="e",reason="no_plan"} 10
trail_agent_fail_open_steps_total{engine="e",reason="plan_expired"} 100
trail_agent_connected{engine="e",link="predictor_link"} 0
trail_agent_connected{engine="e",link="scheduler_link"} 1
trail_agent_finished_predictions_total{engine="e"} 4
trail_agent_absolute_error_tokens_total{engine="e"} 120
trail_agent_preemptions_by_plan_total{engine="e"} 6
trail_agent_preemptions_by_engine_total{engine="e"} 0
"""

PREDICTOR = """
trail_predictor_streams 1
trail_predictor_posteriors 12
trail_predictor_rows_total 5000
trail_predictor_store_up 0
trail_predictor_step_seconds_bucket{part="queue",le="0.001"} 90
trail_predictor_step_seconds_bucket{part="queue",le="0.01"} 100
trail_predictor_step_seconds_bucket{part="queue",le="+Inf"} 100
trail_predictor_live_requests{model="m"} 300
trail_predictor_live_mae_tokens{model="m"} 70
trail_predictor_test_mae_tokens{model="m"} 61
trail_predictor_canary{model="n",trail_predictor_canary="on trial"} 1
trail_predictor_canary{model="n",trail_predictor_canary="ready"} 0
"""
