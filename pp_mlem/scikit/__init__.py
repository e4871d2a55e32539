"""Mixtures and hidden Markov models as estimators of scikit-learn."""
