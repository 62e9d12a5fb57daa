"""A small continuous-batching engine without a model: paged KV, chunked prefill, recompute, plans with guards."""
