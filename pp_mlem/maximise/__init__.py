"""The M-step: parameters that maximise <eta(theta), S> (+ log prior), block by block."""
