"""The estimators: EM, MLE, MAP, NUTS, Laplace, their starts and their loop."""
