"""The data of the factors, checked on the host and laid out by rows."""
