"""One file for each learner of coefficients."""
