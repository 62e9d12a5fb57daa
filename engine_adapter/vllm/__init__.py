"""The adapter for vLLM: a scheduler mixin and a worker with a hidden-state tap. No fork, no patch.

vllm serve MODEL --scheduler-cls engine_adapter.vllm.scheduler.TrailAsyncScheduler \
    --worker-cls engine_adapter.vllm.worker.TrailGPUWorker \
    --additional-config '{"trail": {"engine_id": "e0", "layers": [18]}}'

`trail serve MODEL` does this and starts the agent beside it.
"""
