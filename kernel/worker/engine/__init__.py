"""The loop that admits, dispatches and keeps the accounts; it never runs user code."""
