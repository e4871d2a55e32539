"""A NumPyro program read as sites, roles, plates, bindings and a parameter space."""
