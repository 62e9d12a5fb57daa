"""``trail conformance``: does a service, or an engine's adapter, keep the contract?"""
