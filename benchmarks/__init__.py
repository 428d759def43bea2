"""Measurements of `kernel`, beside its peers. `make bench` runs them; nothing here is part of a distribution."""
