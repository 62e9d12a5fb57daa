"""The contract's conformance kit, and adapters that keep the contract or break it."""
