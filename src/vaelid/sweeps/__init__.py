"""Studies: recipe × grid × seeds -> run folders -> one table, and what their curves say. Nothing here trains."""
