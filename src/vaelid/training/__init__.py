"""Training: one readable loop, exact resume, and plain words about trouble."""
