"""`numpyro.contrib.control_flow.scan` over finite states: its structure, and runs of its body."""
