"""From numbers to pictures and pages: figures of a run and the self-contained report."""
