"""Sites as factors of log Z: what each keeps of the data, its natural parameters, its term."""
